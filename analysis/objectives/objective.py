"""PSR, NSR, W-REINFORCE, REINFORCE and GRPO: the weight w = −∂L/∂log π_y of each token, and the loss it comes from.

With A the advantage, π_y the probability of the sampled token, ρ = π_y/π_old,y and 1[·] the clip:

    form         loss per token (no clip)     w                   source
    ratio        −A·ρ                         A·ρ·1[not clipped]  the paper's released code (a PPO loss)
    probability  −A·π_y                       A·π_y·1[…]          Zhu et al. (arXiv 2506.01347) Eq. 6
    log          −A·log π_y                   A                   the textbook score function

The clip is PPO's: it binds where A > 0 and ρ > 1 + clip_high, or A < 0 and ρ < 1 − clip_low; dual_clip adds A < 0 and
ρ > dual_clip. The probability form is π_old times the ratio form, hence clipped alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import UsageError
from .advantages import normalised, signed_value
from .rules import check, default_advantage

__all__ = ["Objective", "TokenWeights", "get"]


class TokenWeights(NamedTuple):
    """Closed-form weights of tokens, all of the shape of `log_probs`."""

    weight: Tensor  # w = −∂L/∂log π_y, positive pushes y up; before any normaliser of the loss
    ratio: Tensor | None  # ρ, None where no old log-probs were given
    clip: Tensor  # int8: where the clip bound, −1 below, 0 not, +1 above (dual_clip too)


@dataclass(frozen=True)
class Objective:
    """One objective with its settings resolved; make it with `get`, which checks them."""

    name: str
    form: str
    advantage: str
    lambda_: float | None = None
    clip_low: float | None = None
    clip_high: float | None = None
    dual_clip: float | None = None

    def advantages(self, rewards: Tensor, group_size: int) -> Tensor:
        """A (n,) from rewards (n,) in {0, 1}, whose responses to one prompt stand next to each other.

        Raises UsageError for non-finite rewards, another shape than whole groups, or a group too small to compare.

        >>> get("reinforce").advantages(torch.tensor([1.0, 0.0]), group_size=2)
        tensor([ 1., -1.])
        """
        check(name=self.name, form=self.form, lambda_=self.lambda_, advantage=self.advantage, group_size=group_size)
        if group_size < 1 or rewards.ndim != 1 or rewards.numel() % group_size:
            raise UsageError(
                f"rewards: expected shape (n,) with n a multiple of group_size {group_size}, got {tuple(rewards.shape)}"
            )
        if not torch.isfinite(rewards).all():
            index = int(torch.nonzero(~torch.isfinite(rewards))[0])
            raise UsageError(f"rewards: expected finite numbers, got {float(rewards[index])} at index {index}")
        floats = rewards if rewards.is_floating_point() else rewards.float()
        return normalised(signed_value(self.name, floats, self.lambda_), self.advantage, group_size)

    def contrast(self) -> float:
        """How much more a correct response counts than a wrong one: 1 for PSR and NSR, 1 + λ, 2 for REINFORCE.

        On-policy with a constant normaliser it is the factor of ∇p in the expected gradient. UsageError where the
        advantages are normalised: then it depends on the other responses.

        >>> get("w-reinforce", lambda_=0.5).contrast()
        1.5
        """
        if self.advantage != "none":
            raise UsageError(f"objective.advantage: {self.name} with {self.advantage} weighs a response by the others, "
                             "so no number tells correct from wrong; take none")
        wrong, right = signed_value(self.name, torch.tensor([0.0, 1.0], dtype=torch.float64), self.lambda_).tolist()
        return float(right - wrong)

    def selected(self, advantages: Tensor) -> Tensor:
        """Rows that carry a weight: bool of the shape of `advantages`."""
        return advantages != 0

    @torch.no_grad()
    def weights(self, log_probs: Tensor, old_log_probs: Tensor | None, advantages: Tensor) -> TokenWeights:
        """Closed-form weights of tokens; the independent route to `loss`, not its derivative by autograd.

        log_probs (n, R) = log π_y; old_log_probs the same under the policy that ρ refers to (with one update per
        batch `log_probs.detach()`), None where neither the form nor a clip needs it; advantages (n,), one per row, or
        a tensor (n, 1) or (n, R). Padded positions come out like any other: masking is the caller's.

        >>> objective = get("nsr", clip_low=0.2)
        >>> old = torch.tensor([[0.5, 0.5]]).log()
        >>> weight, ratio, clip = objective.weights(torch.tensor([[0.45, 0.3]]).log(), old, torch.tensor([-1.0]))
        >>> weight, ratio, clip.tolist()
        (tensor([[-0.9000,  0.0000]]), tensor([[0.9000, 0.6000]]), [[0, -1]])
        """
        a = self._spread(log_probs, old_log_probs, advantages)
        ratio = None if old_log_probs is None else torch.exp(log_probs - old_log_probs)
        clip = torch.zeros(log_probs.shape, dtype=torch.int8, device=log_probs.device)
        if ratio is not None:
            if self.clip_high is not None:
                clip[(a > 0) & (ratio > 1 + self.clip_high)] = 1
            if self.clip_low is not None:
                clip[(a < 0) & (ratio < 1 - self.clip_low)] = -1
            if self.dual_clip is not None:
                clip[(a < 0) & (ratio > self.dual_clip)] = 1
        if self.form == "log":
            weight = a.clone()
        elif self.form == "probability":
            weight = a * log_probs.exp()
        else:
            assert ratio is not None  # _spread has seen to it
            weight = a * ratio
        return TokenWeights(torch.where(clip == 0, weight, 0.0), ratio, clip)

    def loss(self, log_probs: Tensor, old_log_probs: Tensor | None, advantages: Tensor) -> Tensor:
        """Loss of each token (n, R), differentiable in `log_probs` alone; arguments as in `weights`.

        −min(A·x, A·clamp(x, x_old·(1 − clip_low), x_old·(1 + clip_high))) with x = ρ, x_old = 1 in ratio form and
        x = π_y, x_old = π_old,y in probability form; dual_clip bounds it by −A·x_old·dual_clip where A < 0.
        """
        a = self._spread(log_probs, old_log_probs, advantages)
        if self.form == "log":
            return -a * log_probs
        if self.form == "probability":
            x = log_probs.exp()
            scale = torch.ones_like(x) if old_log_probs is None else old_log_probs.detach().exp()
        else:
            assert old_log_probs is not None  # _spread has seen to it
            x = torch.exp(log_probs - old_log_probs.detach())
            scale = torch.ones_like(x)
        if self.dual_clip is not None:  # torch.maximum of surrogates would halve the gradient at the bound
            x = torch.where(a < 0, torch.clamp(x, max=scale * self.dual_clip), x)
        surrogate = a * x
        if self.clip_low is not None or self.clip_high is not None:
            low = None if self.clip_low is None else scale * (1 - self.clip_low)
            high = None if self.clip_high is None else scale * (1 + self.clip_high)
            surrogate = torch.minimum(surrogate, a * torch.clamp(x, low, high))
        return -surrogate

    @property
    def needs_old_log_probs(self) -> bool:
        """Whether `weights` and `loss` need the old log-probs: for the ratio form and for any clip."""
        return self.form == "ratio" or any(c is not None for c in (self.clip_low, self.clip_high, self.dual_clip))

    def _spread(self, log_probs: Tensor, old_log_probs: Tensor | None, advantages: Tensor) -> Tensor:
        """Advantages of the shape of `log_probs`, once the shapes have been checked."""
        if old_log_probs is None:
            if self.needs_old_log_probs:
                raise UsageError(
                    f"old_log_probs: {self.name} in form {self.form} with these clips needs them, got None; "
                    "with one update per batch pass log_probs.detach()"
                )
        elif old_log_probs.shape != log_probs.shape:
            raise UsageError(
                f"old_log_probs: expected the shape of log_probs, {tuple(log_probs.shape)}, got "
                f"{tuple(old_log_probs.shape)}"
            )
        a = advantages.detach().to(log_probs.dtype)
        if a.ndim == 1 and log_probs.ndim == 2:
            a = a[:, None]
        shapes = zip(a.shape, log_probs.shape, strict=False)
        if a.ndim != log_probs.ndim or any(got not in (1, want) for got, want in shapes):
            raise UsageError(
                f"advantages: expected one for each row, shape ({log_probs.shape[0]},), or a shape that spreads over "
                f"{tuple(log_probs.shape)}, got {tuple(advantages.shape)}"
            )
        return a.expand(log_probs.shape)


def get(
    name: str,
    *,
    form: str = "ratio",
    lambda_: float | None = None,
    clip_low: float | None = None,
    clip_high: float | None = None,
    dual_clip: float | None = None,
    advantage: str | None = None,
) -> Objective:
    """The objective `name` (see `names()`) with these settings, those of a recipe's [objective].

    `advantage` unset is group_mean_std for grpo and none for the others. Raises UsageError as `rules.check` does.

    >>> get("grpo").advantage
    'group_mean_std'
    """
    check(name=name, form=form, lambda_=lambda_, clip_low=clip_low, clip_high=clip_high, dual_clip=dual_clip,
          advantage=advantage)
    return Objective(name, form, advantage or default_advantage(name), lambda_, clip_low, clip_high, dual_clip)
