"""What an objective is given of sampled tokens, and what it gives back.

Rows are responses and the last axis their tokens, (B, T) in the training loop; the toys put seeds and prompts before
them. `mask` says which positions hold tokens (unset: all).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import UsageError

__all__ = ["TokenBatch", "TokenWeights", "accuracy_of"]


@dataclass(frozen=True)
class TokenBatch:
    """Sampled tokens with whatever an objective needs to know of them; nothing here is differentiated.

    log_probs (B, T) = log π_y in nats; old_log_probs under the policy that ρ = π_y/π_old,y refers to, ref_log_probs
    under the reference; advantages (B,), or (B, 1) or (B, T); rewards and accuracy (B,): the reward of the response and
    the mean reward q of its group; entropy (B, T) of the policy at that position; selection bool (B, T), the tokens
    that `Objective.prepare` chose over a whole minibatch; token_weights (B, T), of a reward model, 1 where unset.
    """

    log_probs: Tensor
    old_log_probs: Tensor | None = None
    advantages: Tensor | None = None
    mask: Tensor | None = None
    rewards: Tensor | None = None
    accuracy: Tensor | None = None
    entropy: Tensor | None = None
    ref_log_probs: Tensor | None = None
    selection: Tensor | None = None
    token_weights: Tensor | None = None

    def real(self) -> Tensor:
        """The mask, all true where there is none."""
        return torch.ones_like(self.log_probs, dtype=torch.bool) if self.mask is None else self.mask

    @cached_property
    def ratio(self) -> Tensor | None:
        """ρ = π_y/π_old,y of the shape of `log_probs`, detached; None without `old_log_probs`. Worked out once."""
        if self.old_log_probs is None:
            return None
        return (self.log_probs.detach() - self.old_log_probs.detach()).exp_()

    def per_token(self, name: str) -> Tensor:
        """The field `name`, detached and spread over the shape of `log_probs`; UsageError where it cannot be."""
        value: Tensor = getattr(self, name)
        shape = self.log_probs.shape
        spread = value.detach()
        if spread.is_floating_point() or name != "selection":
            spread = spread.to(self.log_probs.dtype)
        if spread.ndim == len(shape) - 1:
            spread = spread[..., None]
        sizes = zip(spread.shape, shape, strict=False)
        if spread.ndim != len(shape) or any(got not in (1, want) for got, want in sizes):
            rows = f"({shape[0]},)" if len(shape) == 2 else str(tuple(shape[:-1]))
            raise UsageError(
                f"{name}: expected one for each row, shape {rows}, or a shape that spreads over "
                f"{tuple(shape)}, got {tuple(value.shape)}"
            )
        return spread.expand(shape)


class TokenWeights(NamedTuple):
    """Closed-form weights of tokens, all of the shape of `log_probs`."""

    weight: Tensor  # w = −∂L/∂log π_y, positive pushes y up; before any normaliser of the loss
    ratio: Tensor | None  # ρ, None where no old log-probs were given
    clip: Tensor  # int8: where the clip bound, −1 below, 0 not, +1 above (dual_clip too)


def accuracy_of(rewards: Tensor, group_size: int) -> Tensor:
    """q (n,): the mean reward of each response's group; responses to one prompt stand next to each other.

    >>> accuracy_of(torch.tensor([1.0, 0.0, 1.0, 1.0]), 2)
    tensor([0.5000, 0.5000, 1.0000, 1.0000])
    """
    return rewards.reshape(-1, group_size).mean(-1).repeat_interleave(group_size)
