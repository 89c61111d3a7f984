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

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..recipes.fields import OptimizerFields
from .update import UpdateResult

__all__ = ["StepShares"]


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
        self._moments: dict[str, Tensor] = {}  # of each source, over all parameters in a row

    def state_dict(self) -> dict[str, Any]:
        """The moments by source."""
        return {"moments": self._moments}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load the moments, onto the parameters' device."""
        device = next(iter(self._parameters.values())).device
        self._moments = {source: moment.to(device) for source, moment in state["moments"].items()}

    @torch.no_grad()
    def take(
        self, result: UpdateResult, before: Mapping[str, Tensor], *, split: bool = False
    ) -> dict[str, dict[str, Tensor]]:
        """Note the update that the optimiser has just made from the parameters `before`.

        With `split`, the parts of its step by names of `records.schema.SHARES` and then of parameters; they sum to
        Δθ, and parts that are zero throughout are left out.
        """
        if result.skipped:
            return {}
        for moment in self._moments.values():
            moment *= self._keep
        parts = {f"{source}_past": moment.clone() for source, moment in self._moments.items()} if split else {}
        for source, gain, gradients in self._pulls(result, before):
            if split:
                parts[f"{source}_now"] = torch.cat([(gain * gradient).reshape(-1) for gradient in gradients])
            if source in self._moments:
                for piece, gradient in zip(self._pieces(self._moments[source]), gradients, strict=True):
                    piece += gain * gradient
            elif self._keep:
                self._moments[source] = torch.cat([(gain * gradient).reshape(-1) for gradient in gradients])
        if not split:
            return {}
        rate = self._rate()
        for part in parts.values():
            part *= rate
        if self._adam and self._fields.weight_decay:
            parts["decay_now"] = self._row(before).mul_(-self._lr * self._fields.weight_decay)
        return {part: self._by_parameter(step) for part, step in parts.items()}

    def _pulls(
        self, result: UpdateResult, before: Mapping[str, Tensor]
    ) -> Iterator[tuple[str, float, Sequence[Tensor]]]:
        """What each source adds to the moment in this update, a factor and a tensor for each parameter; sources without
        a gradient are left out."""
        assert result.clip_coef is not None
        gain = (1 - self._keep if self._adam else 1.0) * result.clip_coef
        for source, gradients in result.gradients.items():
            if result.grad_norm[source] > 0:
                yield source, gain, gradients
        if self._fields.weight_decay and not self._adam:
            yield "decay", self._fields.weight_decay, [before[name] for name in self._parameters]

    @property
    def _lr(self) -> float:
        return float(self._optimizer.param_groups[0]["lr"])

    def _rate(self) -> Tensor | float:
        """∂Δθ/∂m of the step just made, at its v̂."""
        if not self._adam:
            return -self._lr
        beta1, beta2 = self._fields.betas
        states = [self._optimizer.state[parameter] for parameter in self._parameters.values()]
        t = float(states[0]["step"])
        root = _joined([state["exp_avg_sq"] for state in states]).div_(1 - beta2**t).sqrt_().add_(self._fields.eps)
        return root.reciprocal_().mul_(-self._lr / (1 - beta1**t))

    def _row(self, values: Mapping[str, Tensor]) -> Tensor:
        return _joined([values[name] for name in self._parameters])

    def _by_parameter(self, row: Tensor) -> dict[str, Tensor]:
        return dict(zip(self._parameters, self._pieces(row), strict=True))

    def _pieces(self, row: Tensor) -> list[Tensor]:
        """Views of a row over all parameters, one of the shape of each."""
        pieces = row.split([parameter.numel() for parameter in self._parameters.values()])
        return [piece.view_as(parameter) for piece, parameter in zip(pieces, self._parameters.values(), strict=True)]


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])
