"""What the updates of one step are measured against: a frozen value, of which None means absent."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .rollouts import RolloutBatch

__all__ = ["StepTargets"]


@dataclass(frozen=True)
class StepTargets:
    """Targets of one step for its N rollouts; tensors of tokens are (N, R), zero at padding, and live on the CPU.

    Attributes:
        advantages: (N,) those of the rewards, less the summed KL penalty where that is placed in the reward.
        old_log_probs: log π_old of each token; None where a step makes one update: π_old is the policy then.
        awaited: bool (N,), rows whose old log-probs are still missing: those of the first update, whose own passes are
            made by the old policy. None: no row is missing.
        ref_log_probs: log-probs of the reference policy.
        teacher_log_probs: log-probs of a teacher.
        token_advantages: those of a critic or of an objective that has one for each token, in place of `advantages`.
        values, returns: V and the return of each token, with a critic.
        kl_baseline: (N,) estimate of the KL to the reference, for an objective that compares with it.
    """

    advantages: Tensor
    old_log_probs: Tensor | None = None
    awaited: Tensor | None = None
    ref_log_probs: Tensor | None = None
    token_advantages: Tensor | None = None
    values: Tensor | None = None
    returns: Tensor | None = None
    kl_baseline: Tensor | None = None
    teacher_log_probs: Tensor | None = None

    @classmethod
    def on_policy(cls, batch: RolloutBatch) -> StepTargets:
        """The targets of a single update without reference and critic: the advantages of the rewards."""
        return cls(batch.advantages, token_advantages=batch.token_advantages)

    def old_of(self, rows: Tensor, log_probs: Tensor) -> Tensor:
        """(B, R) old log-probs of some rows; `log_probs` (B, R), the policy's own, where those are the old ones."""
        if self.old_log_probs is None:
            return log_probs
        old = self.old_log_probs[rows, : log_probs.shape[1]].to(log_probs.device)
        if self.awaited is None:
            return old
        return torch.where(self.awaited[rows, None].to(log_probs.device), log_probs, old)

    def advantages_of(self, rows: Tensor, width: int) -> Tensor:
        """The advantages of some rows: (B, width) where each token has its own, else (B,)."""
        return self.advantages[rows] if self.token_advantages is None else self.token_advantages[rows, :width]

    def with_old(self, rows: Tensor, log_probs: Tensor) -> StepTargets:
        """A copy in which `log_probs` (B, R) are the old ones of rows that were awaited."""
        if self.old_log_probs is None or self.awaited is None:
            return self
        old, awaited = self.old_log_probs.clone(), self.awaited.clone()
        old[rows, : log_probs.shape[1]] = log_probs.to(old)
        awaited[rows] = False
        return replace(self, old_log_probs=old, awaited=awaited if awaited.any() else None)
