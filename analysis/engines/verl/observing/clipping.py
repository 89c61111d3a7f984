"""Ratio, clip and normaliser of verl's policy losses, by the definitions of its code.

With r = log π_y − log π_old,y of a token, ρ = exp(r) and A its advantage:

    ratio        ρ with r clamped to ±20;  gspo: exp of the mean of r over the response, at most e^10
    vanilla      −1 for ρ < 1 − clip_ratio_low and A < 0;  +1 for ρ > 1 + clip_ratio_high and A > 0, and for
    gspo         ρ > clip_ratio_c and A < 0 (dual clip, vanilla alone)
    cispo        −1 for ρ < 1 − clip_ratio_low, +1 for ρ > 1 + clip_ratio_high, whatever the sign of A
    gpg          nothing is clipped
    objectives   what the objective of this project says (`policy_losses`)

Of verl's other losses (dppo_tv, dppo_kl, sapo, clip_cov, kl_cov, geo_mean, dro, bypass_mode) and of losses of others it
is not known which tokens are clipped: the column is missing there.
"""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

__all__ = ["clips_of", "loss_mode_of", "normalizer_of", "ratios_of"]

_LOG_RATIO = 20.0  # verl clamps log ratios to this
_SEQUENCE_LOG_RATIO = 10.0  # and those of responses to this
_OF_AGG_LOSS = ("vanilla", "gpg", "gspo", "cispo", "sapo", "dppo_tv", "dppo_kl", "kl_cov", "clip_cov")


def loss_mode_of(config: Any) -> str | None:
    """The name of the policy loss; None where the loss function is not verl's."""
    return None if config is None else str(config.policy_loss.get("loss_mode", "vanilla"))


def ratios_of(config: Any, log_probs: Tensor, old_log_probs: Tensor, mask: Tensor) -> Tensor:
    """π_y / π_old,y as the loss sees it.

    Args:
        config: verl's configuration of the actor, None where it is not known.
        log_probs: (B, C).
        old_log_probs: (B, C).
        mask: (B, C) bool.

    Returns:
        (B, C) float64.
    """
    log_ratio = log_probs.double() - old_log_probs.double()
    if loss_mode_of(config) == "gspo":
        means = (log_ratio * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)
        return means.clamp(max=_SEQUENCE_LOG_RATIO).exp().expand_as(log_ratio)
    return log_ratio.clamp(-_LOG_RATIO, _LOG_RATIO).exp()


def clips_of(config: Any, reported: Tensor | None, ratio: Tensor, advantages: Tensor) -> Tensor | None:
    """Which tokens the loss clips.

    Args:
        config: verl's configuration of the actor, None where it is not known.
        reported: (B, T) what the loss itself said of them (`microbatch.report_clips`), T at most C.
        ratio: (B, C), of `ratios_of`.
        advantages: (B, C).

    Returns:
        (B, C) int8, −1, 0 or +1; None where it is not known.
    """
    mode = loss_mode_of(config)
    clip = torch.zeros_like(ratio, dtype=torch.int8)
    if mode == "gpg":
        return clip
    if mode not in ("vanilla", "gspo", "cispo"):
        if reported is not None:
            clip[:, : reported.shape[1]] = reported.to(clip)
        return None if reported is None else clip
    low, high = (
        config.clip_ratio if value is None else value for value in (config.clip_ratio_low, config.clip_ratio_high)
    )
    below, above = ratio < 1 - low, ratio > 1 + high
    if mode == "cispo":
        clip[below], clip[above] = -1, 1
        return clip
    clip[below & (advantages < 0)] = -1
    clip[above & (advantages > 0)] = 1
    if mode == "vanilla":
        clip[(ratio > config.get("clip_ratio_c", 3.0)) & (advantages < 0)] = 1
    return clip


def normalizer_of(config: Any, reported: Tensor | None, data: TensorDict) -> float | None:
    """What the summed token losses of an update are divided by; None where that differs between responses.

    Args:
        config: verl's configuration of the actor, None where it is not known.
        reported: as for `clips_of`; losses of this project report it, and use verl's `agg_loss`.
        data: a micro batch of the update.
    """
    mode = loss_mode_of(config)
    if mode is None or (mode not in _OF_AGG_LOSS and reported is None):
        return None
    aggregation, rows = config.loss_agg_mode, data["global_batch_size"]
    if aggregation == "token-mean":
        return float(data["batch_num_tokens"])
    if aggregation == "token-sum":
        return 1.0
    if aggregation == "seq-mean-token-sum":
        return float(rows)
    if aggregation == "seq-mean-token-sum-norm" and config.loss_scale_factor is not None:
        return float(rows * config.loss_scale_factor)
    return None
