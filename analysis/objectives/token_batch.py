"""What an objective reads of sampled tokens, and what it returns.

Rows are responses and the last axis their tokens: (B, T) in the training loop; the toys put seeds and prompts before
them. `mask` says which positions hold tokens (unset: all).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import NamedTuple

import torch
from einops import reduce, repeat
from jaxtyping import Bool, Float, Int8, Real
from torch import Tensor

from ..common.arguments import check_count, check_float, check_real, check_tensor
from ..common.short_repr import short_repr
from ..errors import UsageError

__all__ = ["TokenBatch", "TokenWeights", "accuracy_of", "kl_baseline_of"]

_OF_TOKENS = (
    "old_log_probs",
    "ref_log_probs",
    "rollout_log_probs",
    "teacher_log_probs",
    "entropy",
    "selection",
    "mask",
)


@short_repr
@dataclass(frozen=True)
class TokenBatch:
    """Sampled tokens with what an objective needs to know of them; nothing here is differentiated.

    Attributes:
        log_probs: log π_y in nats.
        old_log_probs: log-probabilities under the policy that ρ = π_y/π_old,y refers to.
        advantages: A, one for each row or one for each token.
        mask: True where a position holds a token; None for all.
        rewards: reward of each response.
        accuracy: mean reward q of each response's group.
        entropy: H of the policy at each position, in nats.
        ref_log_probs: log-probabilities under the reference policy.
        selection: the tokens that `Objective.prepare` chose over a whole minibatch.
        token_weights: weights of a reward model; 1 where unset.
        kl_baseline: estimate of the KL to the reference that KTO compares with, in nats, one for each row.
        rollout_log_probs: log-probabilities μ_y as the engine reported them that sampled the tokens. They differ from
            those of the policy at the time by precision, by kernels, by truncation (top-k, top-p).
        teacher_log_probs: log-probabilities of the tokens under a teacher.

    Raises:
        UsageError: a field that should have the shape of `log_probs` and has another.
    """

    log_probs: Float[Tensor, "*rows position"]
    old_log_probs: Float[Tensor, "*rows position"] | None = None
    advantages: Real[Tensor, " ..."] | None = None
    mask: Bool[Tensor, "*rows position"] | None = None
    rewards: Real[Tensor, " ..."] | None = None
    accuracy: Real[Tensor, " ..."] | None = None
    entropy: Float[Tensor, "*rows position"] | None = None
    ref_log_probs: Float[Tensor, "*rows position"] | None = None
    selection: Bool[Tensor, "*rows position"] | None = None
    token_weights: Real[Tensor, " ..."] | None = None
    kl_baseline: Real[Tensor, " ..."] | None = None
    rollout_log_probs: Float[Tensor, "*rows position"] | None = None
    teacher_log_probs: Float[Tensor, "*rows position"] | None = None

    def __post_init__(self) -> None:
        check_float("log_probs", self.log_probs)
        for field in fields(self):
            if getattr(self, field.name) is not None:
                check_real(field.name, getattr(self, field.name))
        for name in ("old_log_probs", "ref_log_probs"):
            if getattr(self, name) is not None:
                check_float(name, getattr(self, name))
        shape = self.log_probs.shape
        for name in _OF_TOKENS:
            value = getattr(self, name)
            if value is not None and value.shape != shape:
                raise UsageError(f"{name}: expected the shape of log_probs, {tuple(shape)}, got {tuple(value.shape)}")

    def real(self) -> Bool[Tensor, "*rows position"]:
        """The mask, all True where there is none."""
        return torch.ones_like(self.log_probs, dtype=torch.bool) if self.mask is None else self.mask

    @cached_property
    def ratio(self) -> Float[Tensor, "*rows position"] | None:
        """ρ = π_y/π_old,y, detached; None without `old_log_probs`. Computed once."""
        if self.old_log_probs is None:
            return None
        return (self.log_probs.detach() - self.old_log_probs.detach()).exp_()

    def per_token(self, name: str) -> Real[Tensor, "*rows position"] | Bool[Tensor, "*rows position"]:
        """The field `name`, detached and expanded to the shape of `log_probs`.

        Raises:
            UsageError: a shape that cannot be expanded.
        """
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
                f"{name}: expected one for each row, shape {rows}, or a shape that expands to "
                f"{tuple(shape)}, got {tuple(value.shape)}"
            )
        return spread.expand(shape)


@short_repr
class TokenWeights(NamedTuple):
    """Closed-form weights of tokens."""

    weight: Float[Tensor, "*rows position"]  # w = −∂L/∂log π_y, positive pushes y up; before any normaliser of the loss
    ratio: Float[Tensor, "*rows position"] | None  # ρ; None without old log-probabilities
    clip: Int8[Tensor, "*rows position"]  # where the clip binds: −1 below, +1 above (dual_clip too), otherwise 0


def accuracy_of(rewards: Real[Tensor, " responses"], group_size: int) -> Real[Tensor, " responses"]:
    """The mean reward q of each response's group.

    Args:
        rewards: of responses, those to one prompt next to each other.
        group_size: responses to one prompt.

    Returns:
        q of its group for each response.

    >>> accuracy_of(torch.tensor([1.0, 0.0, 1.0, 1.0]), 2)
    tensor([0.5000, 0.5000, 1.0000, 1.0000])
    """
    check_real("rewards", rewards)
    check_count("group_size", group_size)
    if rewards.ndim != 1 or len(rewards) % group_size:
        raise UsageError(
            f"rewards: expected shape (n,) with n a multiple of group_size {group_size}, got {tuple(rewards.shape)}"
        )
    rewards = rewards if rewards.is_floating_point() else rewards.float()
    means = reduce(rewards, "(group response) -> group", "mean", response=group_size)
    return repeat(means, "group -> (group response)", response=group_size)


def kl_baseline_of(
    log_probs: Float[Tensor, "responses position"],
    ref_log_probs: Float[Tensor, "responses position"],
    mask: Bool[Tensor, "responses position"] | None = None,
) -> Float[Tensor, " responses"]:
    """z of KTO: the mean over responses of Σ_t log(π_t/ref_t), not below 0, the same for each of them.

    It estimates KL(π‖ref) of a response, in nats, without bias where π drew the responses. TRL takes responses to other
    prompts instead, for data that π did not draw.

    Args:
        log_probs: log π_y of each token.
        ref_log_probs: log-probabilities of the same tokens under the reference policy.
        mask: True where a position holds a token; None for all.

    Returns:
        `TokenBatch.kl_baseline`.

    >>> kl_baseline_of(torch.tensor([[-1.0, -1.0], [-2.0, 0.0]]), torch.tensor([[-2.0, -1.5], [-2.5, 0.0]]))
    tensor([1., 1.])
    """
    check_float("log_probs", log_probs)
    check_float("ref_log_probs", ref_log_probs)
    if log_probs.ndim != 2 or ref_log_probs.shape != log_probs.shape:
        raise UsageError(
            "log_probs, ref_log_probs: expected both of one shape (responses, position), got "
            f"{tuple(log_probs.shape)} and {tuple(ref_log_probs.shape)}"
        )
    if mask is not None:
        check_tensor("mask", mask)
        if mask.dtype != torch.bool or mask.shape != log_probs.shape:
            raise UsageError(
                f"mask: expected a bool mask of the shape of log_probs, {tuple(log_probs.shape)}, got {mask.dtype} of "
                f"shape {tuple(mask.shape)}"
            )
    gap = (log_probs - ref_log_probs).detach()
    if mask is not None:
        gap = gap.masked_fill(~mask, 0)
    return gap.sum(-1).mean().clamp(min=0).expand(len(gap))
