"""What the optimiser's step is made of: each reward sign's gradients, now and in the past, regularisers and decay.

With v̂ frozen at its value in the step, both optimisers are linear in the gradients, so that a step is a sum of parts
without remainder (c is the factor of gradient clipping, λ the weight decay):

    AdamW   Δθ = −lr·m_t / ((1 − β₁ᵗ)(√v̂_t + ε)) − lr·λ·θ     m_t = β₁·m_{t−1} + (1 − β₁)·c·(g_pos + g_neg + g_reg)
    SGD     Δθ = −lr·b_t                                       b_t = μ·b_{t−1} + c·(g_pos + g_neg + g_reg) + λ·θ

The moment is kept apart by source, m = Σ_s m_s, each by the same recursion. A source then has two parts: `now`, of this
update's gradient, and `past`, of its own earlier ones. All parts called past are the momentum history; now and past of
one source, summed over the updates, credit it with the whole impulse of its gradients: with v̂ constant, a gradient g
moves the parameters by −lr·g/(√v̂ + ε) in the end. AdamW's decay has no past. What stays common to all sources is v̂
itself: the parts say whose gradients moved the parameters, given step sizes that all of them set.

Cost: a copy of the parameters for each source that ever had a gradient, and one pass over each at every update.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from .fields import OptimizerFields
from .update import UpdateResult

__all__ = ["StepShares"]

Values = dict[str, Tensor]  # by name of the parameter


class StepShares:
    """Keeps the optimiser's first moment apart by source, and splits the steps that it makes.

    `take` sees every update of the run, in order. `parameters` are those that the updates' gradients are of, in their
    order. `state_dict` and `load_state_dict` carry the moments over an interruption.
    """

    def __init__(
        self, parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, fields: OptimizerFields
    ) -> None:
        self._parameters, self._optimizer, self._fields = dict(parameters), optimizer, fields
        self._adam = fields.name == "adamw"
        self._keep = fields.betas[0] if self._adam else fields.momentum
        self._moments: dict[str, Values] = {}

    def state_dict(self) -> dict[str, Any]:
        """The moments by source and parameter."""
        return {"moments": self._moments}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the moments over, to the parameters' devices."""
        self._moments = {
            source: {name: value.to(self._parameters[name].device) for name, value in moment.items()}
            for source, moment in state["moments"].items()
        }

    @torch.no_grad()
    def take(
        self, result: UpdateResult, before: Mapping[str, Tensor], *, split: bool = False
    ) -> dict[str, Values]:
        """Take in the update that the optimiser has just made from the parameters `before`.

        With `split`, the parts of its step by names of `recording.schema.SHARES`, which sum to Δθ; parts that are zero
        throughout are left out.
        """
        if result.skipped:
            return {}
        past = self._fade(copied=split)
        now = dict(self._pulls(result, before))
        for source, pull in now.items():
            if source in self._moments:
                for name, value in pull.items():
                    self._moments[source][name] += value
            elif self._keep:
                self._moments[source] = {name: value.clone() for name, value in pull.items()}
        if not split:
            return {}
        parts = {f"{source}_now": pull for source, pull in now.items()}
        parts |= {f"{source}_past": moment for source, moment in past.items()}
        rates = {name: self._rate(parameter) for name, parameter in self._parameters.items()}
        steps = {part: {name: rates[name] * value for name, value in of.items()} for part, of in parts.items()}
        if self._adam and self._fields.weight_decay:
            steps["decay_now"] = {name: -self._lr * self._fields.weight_decay * before[name] for name in rates}
        return steps

    def _fade(self, *, copied: bool) -> dict[str, Values]:
        """Multiply the moments by β₁ or μ, and give copies of what is left of them."""
        for moment in self._moments.values():
            for value in moment.values():
                value *= self._keep
        if not copied:
            return {}
        return {s: {name: value.clone() for name, value in moment.items()} for s, moment in self._moments.items()}

    def _pulls(self, result: UpdateResult, before: Mapping[str, Tensor]) -> Iterator[tuple[str, Values]]:
        """What each source adds to the moment in this update; sources without a gradient are left out."""
        assert result.clip_coef is not None
        gain = (1 - self._keep if self._adam else 1.0) * result.clip_coef
        for source, gradients in result.gradients.items():
            if result.grad_norm[source] > 0:
                yield source, {n: gain * g for n, g in zip(self._parameters, gradients, strict=True)}
        if self._fields.weight_decay and not self._adam:
            yield "decay", {name: self._fields.weight_decay * before[name] for name in self._parameters}

    @property
    def _lr(self) -> float:
        return float(self._optimizer.param_groups[0]["lr"])

    def _rate(self, parameter: Tensor) -> Tensor | float:
        """∂Δθ/∂m of the step just made, at its v̂."""
        if not self._adam:
            return -self._lr
        state, (beta1, beta2) = self._optimizer.state[parameter], self._fields.betas
        t = float(state["step"])
        root = (state["exp_avg_sq"] / (1 - beta2**t)).sqrt()
        return -self._lr / (1 - beta1**t) / (root + self._fields.eps)
