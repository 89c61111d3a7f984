"""An objective: advantages from rewards, the weight w = −∂L/∂log π_y of each token in closed form, and the loss.

`weights` and `loss` are independent routes to the same update: the loss is written as its paper or its code has it, the
weight is not its derivative by autograd. `entries` lists the objectives with formula and source.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..errors import UsageError
from . import user_losses as own
from .advantages import STD_EPSILON, advantages_of, prompt_weight, signed_value
from .definition import Entry
from .rules import entry, is_own, settings
from .selection import select
from .token_batch import TokenBatch, TokenWeights

__all__ = ["Objective", "get"]

_HINTS = {
    "old_log_probs": "with one update per batch pass log_probs.detach()",
    "advantages": "make them with objective.advantages(rewards, group_size)",
    "accuracy": "the mean reward of each response's group: accuracy_of(rewards, group_size)",
    "selection": "make it for the whole minibatch with objective.prepare(batch, generator)",
    "ref_log_probs": "log-probs of the same tokens under the reference policy",
}


@dataclass(frozen=True)
class Objective:
    """One objective with its settings resolved; make it with `get`, which checks them."""

    entry: Entry
    parameters: dict[str, Any]
    function: Callable[[Tensor, TokenBatch], Tensor] | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def form(self) -> str | None:
        """ratio, probability or log, None where it is none of these."""
        form: str | None = self.parameters.get("form", self.entry.form)
        return form

    @property
    def advantage(self) -> str:
        """How rewards are normalised; none for an objective that has no such choice."""
        how: str = self.parameters.get("advantage", "none")
        return how

    def needs(self) -> tuple[str, ...]:
        """The fields of `TokenBatch` that `weights` and `loss` read with these settings."""
        if self.entry.is_policy_gradient:
            clips = any(self.parameters.get(name) is not None for name in ("clip_low", "clip_high", "dual_clip"))
            return ("advantages", "old_log_probs") if self.form == "ratio" or clips else ("advantages",)
        return self.entry.needs

    def check_use(self, where: str) -> None:
        """UsageError where single responses are all there is (`where`): no pairs, minibatch, reference or reward-free
        regulariser."""
        for wrong, why in (
            (not self.entry.scalar, "is a regulariser"),
            (self.entry.coupling == "pair", "compares pairs of responses"),
            (self.entry.coupling == "minibatch", "chooses tokens over a minibatch"),
            ("ref_log_probs" in self.entry.needs, "refers to a reference policy"),
        ):
            if wrong:
                raise UsageError(f"objective: {self.name} {why}, which {where} does not have; take another")

    # -- advantages ------------------------------------------------------------------------------------------------

    def advantages(self, rewards: Tensor, group_size: int, *, mean_log_probs: Tensor | None = None) -> Tensor:
        """A (n,) from rewards (n,) in {0, 1}, whose responses to one prompt stand next to each other.

        `mean_log_probs` (n,), the mean log-prob of a response's tokens, is read by rewarding-unlikely alone.
        Raises UsageError for non-finite rewards, another shape than whole groups, or a group too small to compare.

        >>> get("reinforce", form="ratio").advantages(torch.tensor([1.0, 0.0]), group_size=2)
        tensor([ 1., -1.])
        """
        settings(self.entry, self._given(), group_size)
        if group_size < 1 or rewards.ndim != 1 or rewards.numel() % group_size:
            raise UsageError(
                f"rewards: expected shape (n,) with n a multiple of group_size {group_size}, got {tuple(rewards.shape)}"
            )
        _check_finite("rewards", rewards)
        if self.entry.value == "unlikely" and mean_log_probs is None:
            raise UsageError(f"mean_log_probs: {self.name} ranks the responses of a group by them, got None")
        floats = rewards if rewards.is_floating_point() else rewards.float()
        return advantages_of(self.entry.value, floats, group_size, self.parameters, mean_log_probs)

    def limit_advantages(self, success: Tensor) -> Tensor:
        """A of a wrong and of a correct response in an infinite group, (…, 2), for success probabilities (…).

        UsageError where A depends on more than rewards.
        """
        value, p = self.entry.value, self.parameters
        if value == "unlikely":
            raise UsageError(f"objective: {self.name} ranks the responses of a group; in expectation there is none")
        if value == "nft":
            weight = prompt_weight(p["prompt_weight"], success)
            return torch.stack([-weight, weight], -1)
        if value == "oreal":
            return torch.stack([-p["negative_weight"] * success, torch.full_like(success, p["positive_weight"])], -1)
        wrong, right = signed_value(value, torch.tensor([0.0, 1.0], dtype=success.dtype), p)
        pair = torch.stack([wrong.expand_as(success), right.expand_as(success)], -1)
        if self.advantage == "none":
            return pair
        if self.advantage == "constant":
            return pair - p["baseline"]
        pair = pair - ((1 - success) * wrong + success * right)[..., None]
        if self.advantage != "group_mean_std":
            return pair
        std = (right - wrong).abs() * (success * (1 - success)).sqrt()
        return pair / (std + STD_EPSILON)[..., None]

    def contrast(self) -> float:
        """How much more a correct response counts than a wrong one: 1 for PSR and NSR, 1 + λ, 2 for REINFORCE.

        On-policy with a constant normaliser it is the factor of ∇p in the expected gradient. UsageError where the
        advantages are normalised: then it depends on the other responses.

        >>> get("w-reinforce", form="log", lambda_=0.5).contrast()
        1.5
        """
        if self.advantage not in ("none", "constant") or not self.entry.is_policy_gradient:
            raise UsageError(
                f"objective.advantage: {self.name} with {self.advantage} weighs a response by the others, "
                "so no number tells correct from wrong; take none"
            )
        wrong, right = signed_value(self.entry.value, torch.tensor([0.0, 1.0], dtype=torch.float64), self.parameters)
        return float(right - wrong)

    def selected(self, advantages: Tensor) -> Tensor:
        """Rows that carry a weight: bool of the shape of `advantages`."""
        return advantages != 0

    # -- weights and losses ----------------------------------------------------------------------------------------

    def prepare(self, batch: TokenBatch, generator: torch.Generator | None = None) -> TokenBatch:
        """The batch with the `selection` that an objective coupled over the minibatch makes; others get it back as is.

        `batch` is the whole minibatch, its rows may be split afterwards. `generator` draws for clip-cov alone.
        """
        if self.entry.selects is None:
            return batch
        needs = {*self.entry.needs, *(("entropy",) if self.entry.selects == "top_entropy" else ())} - {"selection"}
        self._check(batch, tuple(sorted(needs)))
        return replace(batch, selection=select(self.entry.selects, batch, self.parameters, generator))

    def weights(self, batch: TokenBatch) -> TokenWeights:
        """Closed-form weights of tokens; the independent route to `loss`, not its derivative by autograd.

        Padded positions come out like any other, coupled objectives leave them out of sums: masking the weights is the
        caller's. Of a loss of one's own, which has no closed form, this is the derivative by autograd.

        Raises UsageError for missing inputs, wrong shapes, inputs that are not finite, and objectives without weights.

        >>> objective = get("nsr", form="ratio", clip_low=0.2)
        >>> old = torch.tensor([[0.5, 0.5]]).log()
        >>> batch = TokenBatch(torch.tensor([[0.45, 0.3]]).log(), old, torch.tensor([-1.0]))
        >>> weight, ratio, clip = objective.weights(batch)
        >>> weight, ratio, clip.tolist()
        (tensor([[-0.9000,  0.0000]]), tensor([[0.9000, 0.6000]]), [[0, -1]])
        """
        self._check(batch, self.needs())
        for name in ("log_probs", *self.needs()):
            _check_finite(name, getattr(batch, name), batch.real())
        if self.function is not None:
            weight = own.weight_of(self.function, batch)
            clip = torch.zeros(weight.shape, dtype=torch.int8, device=weight.device)
        else:
            with torch.no_grad():
                weight, clip = self.entry.weight_function(batch, self._formula_parameters())
        return TokenWeights(weight, batch.ratio, clip)

    def loss(self, log_probs: Tensor, batch: TokenBatch) -> Tensor:
        """Loss of each token, of the shape of `log_probs`, differentiable in `log_probs` alone.

        The weight of a token is minus the derivative of the sum over all unmasked positions. Raises as `weights`, but
        for inputs that are not finite: neither is the loss.
        """
        self._check(batch, self.needs())
        if log_probs.shape != batch.log_probs.shape:
            raise UsageError(
                f"log_probs: expected the shape of the batch's, {tuple(batch.log_probs.shape)}, got "
                f"{tuple(log_probs.shape)}"
            )
        if self.function is not None:
            return own.checked_loss(self.function, log_probs, batch)
        loss: Tensor = self.entry.loss_function(log_probs, batch, self._formula_parameters())
        return loss

    def vector(self, logits: Tensor, ref_logits: Tensor | None = None) -> Tensor:
        """r = ∂L/∂z (…, V) of a regulariser at logits (…, V), in closed form; UsageError for a scalar objective."""
        self._check_logits(logits, ref_logits)
        vector: Tensor = self.entry.weight_function(logits, ref_logits, self.parameters)
        return vector

    def logits_loss(self, logits: Tensor, ref_logits: Tensor | None = None) -> Tensor:
        """Loss (…) of a regulariser, differentiable in the logits (…, V); the independent route to `vector`."""
        self._check_logits(logits, ref_logits)
        loss: Tensor = self.entry.loss_function(logits, ref_logits, self.parameters)
        return loss

    def _check_logits(self, logits: Tensor, ref_logits: Tensor | None) -> None:
        if self.entry.scalar:
            raise UsageError(f"objective: {self.name} is a weight of each token; use weights and loss")
        if "ref_logits" in self.entry.needs and (ref_logits is None or ref_logits.shape != logits.shape):
            got = None if ref_logits is None else tuple(ref_logits.shape)
            raise UsageError(f"ref_logits: {self.name} needs them, of the shape {tuple(logits.shape)}, got {got}")

    def _formula_parameters(self) -> dict[str, Any]:
        return self.parameters | {"form": self.form}

    def _given(self) -> dict[str, Any]:
        return {name: value for name, value in self.parameters.items() if value is not None}

    def _check(self, batch: TokenBatch, needs: tuple[str, ...]) -> None:
        if not self.entry.scalar:
            raise UsageError(
                f"objective: {self.name} has a vector over the vocabulary, not a weight of each token; "
                "use vector and logits_loss"
            )
        for name in needs:
            if getattr(batch, name) is None:
                form = f" in form {self.form} with these clips" if self.entry.is_policy_gradient else ""
                raise UsageError(
                    f"{name}: {self.name}{form if name == 'old_log_probs' else ''} needs them, got None; "
                    f"{_HINTS.get(name, 'give them in the batch')}"
                )
        shape = batch.log_probs.shape
        for name in ("old_log_probs", "ref_log_probs", "entropy", "selection", "mask"):
            value = getattr(batch, name)
            if value is not None and value.shape != shape:
                raise UsageError(f"{name}: expected the shape of log_probs, {tuple(shape)}, got {tuple(value.shape)}")
        for name in ("advantages", "rewards", "accuracy"):
            if getattr(batch, name) is not None:
                batch.per_token(name)


def _check_finite(name: str, values: Tensor, real: Tensor | None = None) -> None:
    """UsageError for the first number that is not finite, masked positions apart."""
    if bool(torch.isfinite(values.sum())):  # one pass; a sum that overflows is looked at closely
        return
    bad = ~torch.isfinite(values)
    if real is not None and real.shape == values.shape:
        bad = bad & real
    if bad.any():
        index = tuple(torch.nonzero(bad)[0].tolist())
        where = index[0] if len(index) == 1 else index
        raise UsageError(f"{name}: expected finite numbers, got {float(values[index])} at index {where}")


def get(name: str, **parameters: Any) -> Objective:
    """The objective `name` (see `names()`) with these parameters, those of a recipe's [objective]; None is unset.

    psr, nsr, w-reinforce and reinforce need `form`, or are named with it: psr-ratio. A function of one's own is
    "file.py:name", "package.module:name", or the name that `register` gave it.

    Raises UsageError as `rules.check` does, and where there is no such function.

    >>> get("grpo").advantage
    'group_mean_std'
    """
    if is_own(name) or own.registered(name):
        found, function = own.load(name)
        return Objective(found, settings(found, parameters), function)
    found = entry(name, parameters.get("form"))
    return Objective(found, settings(found, parameters))
