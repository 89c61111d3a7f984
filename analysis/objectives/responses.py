"""What advantages are made of: the rewards of groups of responses, and what some objectives read besides them.

Rows are responses, those to one prompt next to each other. Which fields an objective reads says `Objective.reads`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from jaxtyping import Bool, Float, Int, Real
from torch import Tensor

from ..common.arguments import check_count, check_real
from ..common.short_repr import short_repr
from ..errors import UsageError

__all__ = ["ResponseBatch"]

_ROWS = ("mean_log_probs", "lengths", "greedy_rewards")


@short_repr
@dataclass(frozen=True)
class ResponseBatch:
    """Responses in groups of one size.

    Attributes:
        rewards: reward of each response.
        group_size: responses to one prompt.
        mean_log_probs: (n,) mean log-probability of each response's tokens, in nats.
        lengths: (n,) tokens of each response.
        greedy_rewards: (n,) reward of the greedy response to each response's prompt.
        reward_components: (n, K) several rewards of each response, which an objective normalises apart.
        component_weights: (K,) weight of each component; unset: 1.
        old_log_probs: (n, T) log-probabilities of the tokens under the policy that sampled them, in nats.
        collision: (n, T) Σ_v π_v² of that policy at each position.
        mask: (n, T) True where a position holds a token.
    """

    rewards: Real[Tensor, " responses"]
    group_size: int
    mean_log_probs: Float[Tensor, " ..."] | None = None
    lengths: Int[Tensor, " ..."] | None = None
    greedy_rewards: Real[Tensor, " ..."] | None = None
    reward_components: Real[Tensor, " ..."] | None = None
    component_weights: Real[Tensor, " ..."] | None = None
    old_log_probs: Float[Tensor, " ..."] | None = None
    collision: Float[Tensor, " ..."] | None = None
    mask: Bool[Tensor, " ..."] | None = None

    def check(self) -> None:
        """UsageError for rewards that are not whole groups, and for fields of another shape than they should have."""
        check_count("group_size", self.group_size)
        check_real("rewards", self.rewards)
        for field in fields(self):
            if field.name != "group_size" and getattr(self, field.name) is not None:
                check_real(field.name, getattr(self, field.name))
        shape = tuple(self.rewards.shape)
        if self.group_size < 1 or len(shape) != 1 or shape[0] % self.group_size:
            raise UsageError(
                f"rewards: expected shape (n,) with n a multiple of group_size {self.group_size}, got {shape}"
            )
        for name in _ROWS:
            value: Tensor | None = getattr(self, name)
            if value is not None and tuple(value.shape) != shape:
                raise UsageError(f"{name}: expected one for each response, shape {shape}, got {tuple(value.shape)}")
        wide = None if self.mask is None else tuple(self.mask.shape)
        for name in ("mask", "old_log_probs", "collision"):
            value = getattr(self, name)
            if value is not None and (value.ndim != 2 or len(value) != shape[0] or tuple(value.shape) != wide):
                expected = f"({shape[0]}, positions)" if wide is None or name == "mask" else f"the mask's shape, {wide}"
                raise UsageError(f"{name}: expected {expected}, got {tuple(value.shape)}")
        parts, weights = self.reward_components, self.component_weights
        if parts is not None and (parts.ndim != 2 or len(parts) != shape[0]):
            raise UsageError(
                f"reward_components: expected shape ({shape[0]}, components), got {tuple(parts.shape)}; stack the "
                "rewards of each response along the last axis"
            )
        if weights is not None and (parts is None or tuple(weights.shape) != (parts.shape[1],)):
            expected = "reward_components too" if parts is None else f"shape ({parts.shape[1]},)"
            raise UsageError(f"component_weights: expected {expected}, got weights of shape {tuple(weights.shape)}")
