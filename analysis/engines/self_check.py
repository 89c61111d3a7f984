"""What was recorded of an update, compared with what the trainer's own loss and log-probs say.

Each plug-in computes the loss of a microbatch again in float64 (its module `replay`). The recorded weights, which come
from hooks on gradients, are then held against numbers that no hook, backbone or mixed precision had a part in.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import UsageError
from .update_parts import UpdatePart, Weights

__all__ = ["SELF_CHECK", "check_log_probs", "check_weights", "is_finite"]

SELF_CHECK = 1e-4  # of the largest weight of a microbatch: losses in float32 round by about 1e-6
ATTACH = "Attach to the model instead (analysis.attach)"
_ROUNDING = 0.02  # of log-probs whose logits were made in bfloat16: logits of 5 to 20 round by 0.01 to 0.03


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
