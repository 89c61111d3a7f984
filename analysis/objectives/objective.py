"""An objective: advantages from rewards, the weight w = −∂L/∂log π_y of each token in closed form, and the loss.

`weights` and `loss` are independent routes to the same update: the loss is written as its paper or its code has it, the
weight is not its derivative by autograd. `entries` lists the objectives with formula and source.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Real
from torch import Tensor

from ..common.arguments import check_float
from ..errors import UsageError
from . import user_losses as own
from .advantage_limits import limits
from .advantages import advantages_of, signed_value
from .corrections import factor_of, fields_of
from .definition import Entry
from .formulas.shared import length, total
from .input_checks import check_batch, check_finite, check_logits, check_part, check_vocabulary
from .responses import ResponseBatch
from .rules import compares, entry, is_own, settings
from .selection import select
from .token_batch import TokenBatch, TokenWeights

__all__ = ["Objective", "get"]


@dataclass(frozen=True)
class Objective:
    """One objective with its settings resolved; make it with `get`, which checks them.

    Attributes:
        entry: name, formula, source and inputs.
        parameters: the value of every parameter; `lambda_` for λ.
        function: the loss of an objective that the user wrote; otherwise None.
    """

    entry: Entry
    parameters: dict[str, Any]
    function: Callable[[Tensor, TokenBatch], Tensor] | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """Its name in docs/objectives.md, or that of the user's function."""
        return self.entry.name

    @property
    def form(self) -> str | None:
        """ "ratio", "probability" or "log"; None where it is none of these."""
        form: str | None = self.parameters.get("form", self.entry.form)
        return form

    @property
    def advantage(self) -> str:
        """How rewards are normalised; "none" for an objective that has no such choice."""
        how: str = self.parameters.get("advantage", "none")
        return how

    @property
    def coupling(self) -> str:
        """What else the weight of a token depends on: that of the entry, or "response" by the off-policy mask."""
        if self.entry.coupling == "token" and self.parameters.get("off_policy_threshold") is not None:
            return "response"
        return self.entry.coupling

    def needs(self) -> tuple[str, ...]:
        """The fields of `TokenBatch` that `weights` and `loss` read with these settings."""
        return tuple(dict.fromkeys((*self._own_needs(), *fields_of(self.parameters))))

    def _own_needs(self) -> tuple[str, ...]:
        if self.entry.is_policy_gradient:
            clips = any(self.parameters.get(name) is not None for name in ("clip_low", "clip_high", "dual_clip"))
            return ("advantages", "old_log_probs") if self.form == "ratio" or clips else ("advantages",)
        return self.entry.needs

    def reads(self) -> tuple[str, ...]:
        """The fields of `ResponseBatch` that `advantages` reads besides rewards with these settings."""
        whitens = self.parameters.get("whiten") == "tokens" and "lengths" not in self.entry.reads
        return (*self.entry.reads, "lengths") if whitens else self.entry.reads

    def compares(self) -> frozenset[str]:
        """ "group" and "batch": with what else the advantage of a response is compared with these settings."""
        return compares(self.entry, self.parameters)

    def check_group_size(self, group_size: int) -> None:
        """Raise UsageError for groups that are too small for the objective to compare their responses."""
        settings(self.entry, self._given(), group_size)

    def check_use(self, where: str) -> None:
        """Raise UsageError unless the objective needs no more than single responses, which is all that `where` has.

        Pairs, a selection over a minibatch, a reference policy, a teacher, the log-probs of a rollout engine, greedy
        responses, several rewards and regularisers are refused.
        """
        needs = self.needs()
        for refused, why in (
            (not self.entry.scalar, "is a regulariser"),
            (self.entry.coupling == "pair", "compares pairs of responses"),
            (self.entry.coupling == "minibatch", "chooses tokens over a minibatch"),
            ("ref_log_probs" in needs, "refers to a reference policy"),
            ("teacher_log_probs" in needs, "learns from a teacher"),
            ("rollout_log_probs" in needs, "corrects for the log-probs of the engine that sampled"),
            ("greedy_rewards" in self.entry.reads, "subtracts the reward of each prompt's greedy response"),
            ("reward_components" in self.entry.reads, "normalises several rewards of each response apart"),
            ("collision" in self.entry.reads, "weighs every position of all responses of a group by its distribution"),
        ):
            if refused:
                raise UsageError(f"objective: {self.name} {why}, which {where} does not have; choose another")

    # -- advantages ------------------------------------------------------------------------------------------------

    def advantages(
        self,
        rewards: Real[Tensor, " responses"],
        group_size: int,
        *,
        mean_log_probs: Float[Tensor, " ..."] | None = None,
        lengths: Int[Tensor, " ..."] | None = None,
        greedy_rewards: Real[Tensor, " ..."] | None = None,
        reward_components: Real[Tensor, " ..."] | None = None,
        component_weights: Real[Tensor, " ..."] | None = None,
        old_log_probs: Float[Tensor, " ..."] | None = None,
        collision: Float[Tensor, " ..."] | None = None,
        mask: Bool[Tensor, " ..."] | None = None,
    ) -> Float[Tensor, " ..."]:
        """The advantage A of each response from its reward.

        Args:
            rewards: 0 or 1 for each response, those to one prompt next to each other.
            group_size: responses to one prompt.
            mean_log_probs: (n,) mean log-probability of each response's tokens. This and the following are needed where
                `reads()` names them.
            lengths: (n,) tokens of each response.
            greedy_rewards: (n,) reward of the greedy response to each response's prompt.
            reward_components: (n, K) several rewards of each response.
            component_weights: (K,) weight of each of them; unset: 1.
            old_log_probs: (n, T) log-probabilities of the tokens under the policy that sampled them.
            collision: (n, T) Σ_v π_v² of that policy at each position.
            mask: (n, T) True where a position holds a token.

        Returns:
            A (n,), normalised as the parameter `advantage` says; of optimal-token-baseline (n, T), one for each token.

        Raises:
            UsageError: rewards that are not finite, a number of rewards that is not whole groups, a group too small to
                compare, something that the objective reads and that is missing.

        >>> get("reinforce", form="ratio").advantages(torch.tensor([1.0, 0.0]), group_size=2)
        tensor([ 1., -1.])
        """
        given = (mean_log_probs, lengths, greedy_rewards, reward_components, component_weights)
        tokens = (old_log_probs, collision, mask)
        return self.advantages_of([ResponseBatch(rewards, group_size, *given, *tokens)])[0]

    def advantages_of(self, parts: Sequence[ResponseBatch]) -> list[Float[Tensor, " ..."]]:
        """The advantages of a batch whose groups differ in size, each part with groups of one size.

        What compares the responses of a batch compares them over all parts.

        Args:
            parts: responses of the batch, as `advantages` takes them.

        Returns:
            A of each part.

        Raises:
            UsageError: as `advantages`.
        """
        checked = []
        for part in parts:
            part.check()
            settings(self.entry, self._given(), part.group_size)
            check_part(self.name, part, self.reads())
            rewards = part.rewards if part.rewards.is_floating_point() else part.rewards.float()
            checked.append(replace(part, rewards=rewards))
        return advantages_of(self.entry.value, checked, self.parameters)

    def limit_advantages(self, success: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch 2"]:
        """The advantages of a wrong and of a correct response in an infinite group.

        Args:
            success: success probability of the prompt.

        Returns:
            A of a wrong response, then of a correct one, on the last axis.

        Raises:
            UsageError: an objective whose A depends on more than the rewards of the prompt's own responses.
        """
        check_float("success", success)
        return limits(self.entry, self.parameters, success)

    @property
    def weighs_alone(self) -> bool:
        """Whether a policy gradient's advantage of a response follows from its own reward alone."""
        plain = self.entry.is_policy_gradient and self.advantage in ("none", "constant")
        return plain and not self.compares() and not self.reads()

    def contrast(self) -> float:
        """How much more a correct response counts than a wrong one: 1 for PSR and NSR, 1 + λ, 2 for REINFORCE.

        On-policy with a constant normaliser it is the factor of ∇p in the expected gradient.

        Raises:
            UsageError: an objective that weighs a response by more than its own reward (`weighs_alone`).

        >>> get("w-reinforce", form="log", lambda_=0.5).contrast()
        1.5
        """
        if not self.weighs_alone:
            how = f" with {self.advantage}" if "advantage" in self.parameters else ""
            raise UsageError(
                f"objective.advantage: {self.name}{how} weighs a response by more than its own reward, so no single "
                "number tells correct from wrong; choose psr, nsr or reinforce with advantage none"
            )
        wrong_value, correct_value = signed_value(
            self.entry.value, torch.tensor([0.0, 1.0], dtype=torch.float64), self.parameters
        )
        return float(correct_value - wrong_value)

    def selected(self, advantages: Real[Tensor, "*batch"]) -> Bool[Tensor, "*batch"]:
        """Which rows carry a weight: those whose advantage is not 0."""
        return advantages != 0

    # -- weights and losses ----------------------------------------------------------------------------------------

    def prepare(self, batch: TokenBatch, generator: torch.Generator | None = None) -> TokenBatch:
        """The batch with the `selection` of an objective that chooses tokens over the minibatch.

        Args:
            batch: the whole minibatch; its rows may be split afterwards.
            generator: draws for clip-cov; no other objective uses it.

        Returns:
            The batch with `selection`, or `batch` itself for an objective that selects no tokens.

        Raises:
            UsageError: a field that the selection needs is missing.
        """
        if self.entry.selects is None:
            return batch
        needs = {*self.entry.needs, *(("entropy",) if self.entry.selects == "top_entropy" else ())} - {"selection"}
        check_batch(self.entry, self.form, batch, tuple(sorted(needs)))
        return replace(batch, selection=select(self.entry.selects, batch, self.parameters, generator))

    def weights(self, batch: TokenBatch) -> TokenWeights:
        """Closed-form weights of tokens; the independent route to `loss`, not its derivative by autograd.

        Padded positions get a weight like any other, although coupled objectives leave them out of sums: mask the
        weights afterwards. For a loss that you wrote, which has no closed form, this is the derivative by autograd.

        Args:
            batch: tokens with the fields that `needs()` names.

        Returns:
            w = −∂L/∂log π_y before any normaliser of the loss, the ratio ρ, and where the clip binds.

        Raises:
            UsageError: missing fields, shapes that do not fit, numbers that are not finite, an objective without
                weights.

        >>> objective = get("nsr", form="ratio", clip_low=0.2)
        >>> old = torch.tensor([[0.5, 0.5]]).log()
        >>> batch = TokenBatch(torch.tensor([[0.45, 0.3]]).log(), old, torch.tensor([-1.0]))
        >>> weight, ratio, clip = objective.weights(batch)
        >>> weight, ratio, clip.tolist()
        (tensor([[-0.9000,  0.0000]]), tensor([[0.9000, 0.6000]]), [[0, -1]])
        """
        check_batch(self.entry, self.form, batch, self.needs())
        for name in ("log_probs", *self.needs()):
            check_finite(name, getattr(batch, name), batch.real())
        if self.function is not None:
            weight = own.weight_of(self.function, batch)
            clip = torch.zeros(weight.shape, dtype=torch.int8, device=weight.device)
        else:
            with torch.no_grad():
                weight, clip = self.entry.weight_function(batch, self._formula_parameters(batch))
        return TokenWeights(self._corrected(weight, batch), batch.ratio, clip)

    def _corrected(self, weight: Tensor, batch: TokenBatch) -> Tensor:
        """The weight times the factor of the corrections, or its mean over the response (`Entry.shared_loss`)."""
        factor = None if self.entry.takes_factor else factor_of(batch, self.parameters)
        if factor is None:
            return weight
        if self.function is not None and self.entry.coupling == "response":
            return own.weight_of(self.function, batch, factor)
        return weight * (total(factor, batch) / length(batch) if self.entry.shared_loss else factor)

    def loss(self, log_probs: Float[Tensor, "*rows position"], batch: TokenBatch) -> Float[Tensor, "*rows position"]:
        """The loss of each token, differentiable in `log_probs` alone.

        The weight of a token is minus the derivative of the sum over all unmasked positions.

        Args:
            log_probs: log π_y with its graph.
            batch: tokens with the fields that `needs()` names.

        Returns:
            The losses, before any normaliser.

        Raises:
            UsageError: missing fields, shapes that do not fit, an objective without weights. Numbers that are not
                finite give a loss that is not finite.
        """
        check_batch(self.entry, self.form, batch, self.needs())
        check_float("log_probs", log_probs)
        if log_probs.shape != batch.log_probs.shape:
            raise UsageError(
                f"log_probs: expected the shape of the batch's, {tuple(batch.log_probs.shape)}, got "
                f"{tuple(log_probs.shape)}"
            )
        if self.function is not None:
            loss = own.checked_loss(self.function, log_probs, batch)
        else:
            loss = self.entry.loss_function(log_probs, batch, self._formula_parameters(batch))
        factor = None if self.entry.takes_factor else factor_of(batch, self.parameters)
        return loss if factor is None else loss * factor

    def vector(
        self, logits: Float[Tensor, "*batch vocab"], ref_logits: Float[Tensor, "*batch vocab"] | None = None
    ) -> Float[Tensor, "*batch vocab"]:
        """The gradient r = ∂L/∂z of a regulariser in closed form.

        Args:
            logits: z.
            ref_logits: those of the reference policy, or of the teacher, where the objective needs them.

        Returns:
            r, in units of the loss per unit of logit.

        Raises:
            UsageError: an objective that is a weight of each token, reference logits that are missing or do not fit,
                logits that are not finite. −inf masks a token.
        """
        check_logits(self.entry, logits, ref_logits)
        check_vocabulary("logits", logits)
        if ref_logits is not None:
            check_vocabulary("ref_logits", ref_logits)
        vector: Tensor = self.entry.weight_function(logits, ref_logits, self.parameters)
        return vector

    def logits_loss(
        self, logits: Float[Tensor, "*batch vocab"], ref_logits: Float[Tensor, "*batch vocab"] | None = None
    ) -> Float[Tensor, "*batch"]:
        """The loss of a regulariser at each context, differentiable in the logits; the independent route to `vector`.

        Args:
            logits: z with its graph.
            ref_logits: those of the reference policy, or of the teacher, where the objective needs them.

        Returns:
            The losses.

        Raises:
            UsageError: an objective that is a weight of each token, reference logits that are missing or do not fit.
        """
        check_logits(self.entry, logits, ref_logits)
        loss: Tensor = self.entry.loss_function(logits, ref_logits, self.parameters)
        return loss

    def _formula_parameters(self, batch: TokenBatch) -> dict[str, Any]:
        factor = {"factor": factor_of(batch, self.parameters)} if self.entry.takes_factor else {}
        return self.parameters | {"form": self.form} | factor

    def _given(self) -> dict[str, Any]:
        return {name: value for name, value in self.parameters.items() if value is not None}


def get(name: str, **parameters: Any) -> Objective:
    """The objective `name` with its parameters.

    Args:
        name: one of `names()` or an alias; psr, nsr, w-reinforce or reinforce together with `form`; a function of yours
            as "file.py:name", as "package.module:name" or under the name that `register` gave it.
        parameters: those of a recipe's [objective], `lambda_` for λ; None is unset.

    Returns:
        The objective with every parameter resolved.

    Raises:
        UsageError: an unknown name or parameter, a number out of range, settings that contradict each other, a function
            that does not exist.

    >>> get("grpo").advantage
    'group_mean_std'
    """
    if is_own(name) or own.registered(name):
        own_entry, function = own.load(name)
        return Objective(own_entry, settings(own_entry, parameters), function)
    known = entry(name, parameters.get("form"))
    return Objective(known, settings(known, parameters))
