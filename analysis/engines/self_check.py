"""A replay of the trainer's own loss in float64: it checks the recorded weights, and splits the KL from them.

The loss of one microbatch is computed again on a shallow copy of the trainer, from float64 copies of the log-probs and
entropies that the trainer had: ∂loss/∂log π is then known without hooks, backbone or mixed precision. Computed again
with beta = 0, the difference is the part of the KL to the reference. Nothing is communicated and nothing is counted:
metrics go to an empty dictionary, collectives return what they are given, and the mask of high-entropy tokens, which
depends on every process, is the one that the trainer made.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

from ..errors import UsageError
from .trl_batches import Microbatch
from .update_parts import UpdatePart, Weights

__all__ = ["HIGH_ENTROPY", "SELF_CHECK", "check_log_probs", "check_weights", "is_finite", "replay"]

HIGH_ENTROPY = "get_high_entropy_mask"
SELF_CHECK = 1e-4  # of the largest weight of a microbatch: losses in float32 round by about 1e-6
ATTACH = "Attach to the model instead (analysis.attach)"
_ROUNDING = 0.02  # of log-probs whose logits were made in bfloat16: logits of 5 to 20 round by 0.01 to 0.03


def replay(twin: Any, part: Microbatch, entropy_masks: list[Tensor], *, with_kl: bool) -> None:
    """Set the replayed gradients of a microbatch, and with `with_kl` that of its KL part.

    Args:
        twin: a shallow copy of the trainer, made before it computed this loss.
        part: the microbatch.
        entropy_masks: what the trainer's `get_high_entropy_mask` returned for it.
        with_kl: whether the loss has a KL term to split off.
    """
    part.replayed, part.replayed_entropy = _gradients(copy.copy(twin), part, entropy_masks)
    if with_kl:
        without = copy.copy(twin)
        without.beta = 0.0
        part.kl_gradient = part.replayed - _gradients(without, part, entropy_masks)[0]


def _gradients(twin: Any, part: Microbatch, entropy_masks: list[Tensor]) -> tuple[Tensor, Tensor | None]:
    assert part.log_probs is not None
    log_probs = part.log_probs.double().requires_grad_()
    entropies = None if part.entropies is None else part.entropies.double().requires_grad_()
    masks = iter(entropy_masks)
    twin._metrics = {"train": defaultdict(list), "eval": defaultdict(list)}
    twin.accelerator = _Alone(twin.accelerator)
    twin._get_per_token_logps_and_entropies = lambda *args, **kwargs: (log_probs, entropies, log_probs.new_zeros(()))
    setattr(twin, HIGH_ENTROPY, lambda *args, **kwargs: next(masks))
    with torch.enable_grad(), torch.autocast(log_probs.device.type, enabled=False):
        loss = type(twin)._compute_loss(twin, None, dict(part.inputs))
    leaves = [log_probs] if entropies is None else [log_probs, entropies]
    gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
    first = gradients[0]
    return (torch.zeros_like(log_probs) if first is None else first), (gradients[1] if len(gradients) > 1 else None)


class _Alone:
    """An accelerator whose collectives return what they are given; everything else is that of the trainer."""

    def __init__(self, accelerator: Any) -> None:
        self._accelerator = accelerator

    def __getattr__(self, name: str) -> Any:
        return getattr(self._accelerator, name)

    def gather(self, tensor: Any) -> Any:
        return tensor

    def gather_for_metrics(self, tensor: Any, *args: Any, **kwargs: Any) -> Any:
        return tensor

    def reduce(self, tensor: Any, *args: Any, **kwargs: Any) -> Any:
        return tensor

    def pad_across_processes(self, tensor: Any, *args: Any, **kwargs: Any) -> Any:
        return tensor


def check_weights(part: UpdatePart, weights: Weights, instead: str = ATTACH) -> float:
    """The greatest distance of the recorded weights from the replay, over the largest weight.

    Args:
        part: the microbatch, whose loss was replayed.
        weights: what was recorded of it.
        instead: what the user can do where they differ.

    Raises:
        UsageError: it is above 1e-4, or above four roundings of the type of the log-probs where that is coarser.
    """
    assert part.replayed is not None
    assert part.log_probs is not None
    expected = (-weights.factor * part.replayed) * part.mask
    worst = _distance(weights.total * part.mask, expected)
    if part.replayed_entropy is not None and weights.entropy is not None:
        bonus = (-weights.factor * part.replayed_entropy) * part.mask
        worst = max(worst, _distance(weights.entropy * part.mask, bonus))
    slack = max(SELF_CHECK, 4 * torch.finfo(part.log_probs.dtype).eps)
    if not worst <= slack:
        raise UsageError(
            f"self-check: expected the recorded weights of update {part.update} within {slack:.0e} of those that the "
            f"trainer's loss gives in float64, got a distance of {worst:.2g}; the trainer's loss depends on log-probs "
            f"in a way that is not seen. {instead}, and please report this"
        )
    return worst


def is_finite(weights: Weights) -> bool:
    """Whether every weight is a finite number."""
    return bool(weights.total.isfinite().all())


def _distance(values: Tensor, expected: Tensor) -> float:
    largest = float(expected.abs().max()) if expected.numel() else 0.0
    off = float((values - expected).abs().max()) if expected.numel() else 0.0
    return off / largest if largest > 0 else off


def check_log_probs(given: Tensor, ours: Tensor, description: str, why: str) -> None:
    """Compare the trainer's log-probs with those that the statistics give.

    Args:
        given: (n,) of the trainer.
        ours: (n,) of the recorded distributions.
        description: what the distributions follow from.
        why: what is wrong where they differ.

    Raises:
        UsageError: they differ by more than rounding.
    """
    if not len(given):
        return
    slack = _ROUNDING * (1 + float(ours.abs().mean()))
    off = float((given.double() - ours.double()).abs().mean())
    if not off <= slack:
        raise UsageError(
            f"trainer: expected log-probs of {description} at the trainer's temperature, got some that differ by "
            f"{off:.3g} on average; {why}"
        )
