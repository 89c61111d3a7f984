"""Entropy bonus and KL to the reference, as differentiable functions per token.

Both act on softmax(z/T) at the training temperature. The sampled KL estimators are those of Schulman's note
"Approximating KL divergence" (2020): with r = log π_y − log ref_y, k1 = r, k2 = r²/2, k3 = e^{−r} − 1 + r.
Differentiated as a loss they push with the weights −1, −r and ref_y/π_y − 1 on log π_y: k1 has zero expected
gradient, k2 that of KL(π‖ref), k3 that of KL(ref‖π).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..objectives.formulas.regularisers import kl_of
from ..objectives.formulas.shared import straight_through
from ..recipes.fields import ObjectiveFields

__all__ = ["Regularizers", "kl_penalty", "policy_entropy"]


@dataclass(frozen=True)
class Regularizers:
    """The regularisers of a run, as its recipe sets them in [objective]; a coefficient of 0 turns one off."""

    entropy_coef: float = 0.0
    kl_coef: float = 0.0
    kl_estimator: str = "k3"
    kl_placement: str = "loss"

    @classmethod
    def of(cls, fields: ObjectiveFields) -> Regularizers:
        """Those of a recipe's table [objective]."""
        return cls(fields.entropy_coef, fields.kl_coef, fields.kl_estimator, fields.kl_placement)

    @property
    def kl_in_loss(self) -> bool:
        """Whether the KL to the reference is a term of the loss."""
        return self.kl_coef > 0 and self.kl_placement == "loss"

    @property
    def kl_in_reward(self) -> bool:
        """Whether the KL to the reference is subtracted from the reward, before the baseline or after."""
        return self.kl_coef > 0 and self.kl_placement != "loss"

    @property
    def kl_before_baseline(self) -> bool:
        """Whether it is subtracted from the reward before the group's advantages are made of it."""
        return self.kl_coef > 0 and self.kl_placement == "before_baseline"


def policy_entropy(scaled_logits: Tensor) -> Tensor:
    """H = −Σ π log π over the last axis, in nats, differentiable; masked (−inf) logits contribute nothing."""
    log_probs = scaled_logits.log_softmax(-1)
    return -(log_probs.exp() * log_probs.masked_fill(log_probs == -torch.inf, 0)).sum(-1)


def kl_penalty(
    estimator: str,
    log_probs: Tensor,
    ref_log_probs: Tensor,
    scaled_logits: Tensor | None = None,
    ref_scaled_logits: Tensor | None = None,
) -> Tensor:
    """KL(π‖ref) per token, in nats: sampled (from log π_y and log ref_y) or full (Σ_v over the vocabulary), which alone
    needs the logits.

    k1+ and k3+ are verl's: the value of k1 and k3 with the gradient of k2, which is that of the KL in expectation.
    abs is |k1|.

    >>> lp, ref = torch.tensor([0.5]).log(), torch.tensor([0.25]).log()
    >>> [round(kl_penalty(k, lp, ref).item(), 4) for k in ("k1", "k2", "k3")]
    [0.6931, 0.2402, 0.1931]
    """
    if estimator == "full":
        assert scaled_logits is not None
        assert ref_scaled_logits is not None
        return kl_of(scaled_logits, ref_scaled_logits)
    if estimator.endswith("+"):
        value = kl_penalty(estimator[:-1], log_probs, ref_log_probs)
        return straight_through(value, kl_penalty("k2", log_probs, ref_log_probs))
    log_ratio = log_probs - ref_log_probs
    if estimator == "abs":
        return log_ratio.abs()
    if estimator == "k1":
        return log_ratio
    if estimator == "k2":
        return log_ratio.square() / 2
    return torch.expm1(-log_ratio) + log_ratio
