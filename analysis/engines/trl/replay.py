"""A replay of the trainer's own loss in float64: recorded weights are checked by it, and the KL is split from them.

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

from .batches import Microbatch

__all__ = ["HIGH_ENTROPY", "replay"]

HIGH_ENTROPY = "get_high_entropy_mask"


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
