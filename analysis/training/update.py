"""One optimiser update: a backward pass per reward sign, whose sum is the gradient of the step.

Rewarded and unrewarded rows go through the model apart (`passes`), so that each sign's gradient is known exactly at no
extra cost. Where nobody asks for it (`record.signs_every`) they go together: rows of both signs then share more of what
they have in common (`update.shared_prompts`). The summed losses are divided by what the recipe's normaliser says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from ..errors import DivergedError
from ..objectives.aggregation import row_scale
from ..recipes.fields import UpdateFields
from .critic import Critic
from .entropy_control import AdaptiveEntropy
from .master_weights import MasterWeights
from .regularizers import policy_entropy
from .rollouts import RolloutBatch
from .sign_passes import Gradients, PassRunner, SignPass, sum_gradients, wide
from .step_targets import StepTargets
from .token_masks import norm_ratio

__all__ = ["UpdateResult", "Updater"]


@dataclass
class UpdateResult:
    """One optimiser update; norms are of the whole parameter vector, before gradient clipping unless said otherwise.

    `passes` are in order of sign, rewarded rows first, several to a sign where `update.micro_batch` says so.
    `gradients` are those of the sources pos, neg and reg that had rows, before clipping, or of both in place of pos and
    neg where rows of both signs went together; `clip_coef` times their sum is the gradient of the step. `mask_scale` is
    the factor by which `update.mask_norm = "full"` scaled pos, neg and both, and the weights of the passes with them.
    """

    passes: list[SignPass] = field(default_factory=list)
    normalizer: float | None = None
    gradients: dict[str, Gradients] = field(default_factory=dict)
    grad_norm: dict[str, float] = field(default_factory=dict)
    grad_cos: float | None = None
    clip_coef: float | None = None
    value_loss: float | None = None
    mask_scale: float | None = None
    skipped: bool = False


class Updater:
    """Applies updates of one run to its policy; holds no state but the policy, the optimiser and the settings."""

    def __init__(
        self,
        runner: PassRunner,
        optimizer: torch.optim.Optimizer,
        fields: UpdateFields,
        *,
        max_grad_norm: float | None = None,
        critic: Critic | None = None,
        generator: torch.Generator | None = None,
        entropy: AdaptiveEntropy | None = None,
        masters: MasterWeights | None = None,
    ) -> None:
        """`generator` draws for objectives that choose tokens at random; `entropy` controls the entropy bonus;
        `masters` are what the optimiser steps where the policy's weights are bfloat16."""
        self._masters = masters
        self._entropy = entropy
        self.runner, self.optimizer, self.critic = runner, optimizer, critic
        self.fields, self._max_grad_norm, self._generator = fields, max_grad_norm, generator
        self.policy, self.objective, self.parameters = runner.policy, runner.objective, runner.parameters

    def apply(
        self,
        batch: RolloutBatch,
        targets: StepTargets,
        rows: Tensor,
        reference: torch.nn.Module | None,
        where: str,
        *,
        by_sign: bool = True,
        before_step: Callable[[UpdateResult], None] | None = None,
    ) -> UpdateResult:
        """Make one update from the given rows; `where` names the update in errors.

        `by_sign` takes the gradients of the two reward signs apart; without it only their sum is known. `before_step`
        is called with all but the step made: what is asked of `SignPass.token_logits` must be asked there, while the
        parameters are those of the passes.

        Raises:
            DivergedError: a loss or gradient is not finite; the parameters are left as they were.
        """
        result = UpdateResult()
        if len(rows) == 0 and self.fields.empty == "skip":
            result.skipped = True
            return result
        if self._entropy is not None:
            self.runner.regularizers = replace(self.runner.regularizers, entropy_coef=self._entropy.applied)
        scale = self._row_scale(batch, rows, result)
        choice = self.runner.select(batch, targets, rows, self._generator)
        positive = batch.rewarded[rows]
        gradients, unmasked = result.gradients, []
        groups = [(1, "pos", positive), (-1, "neg", ~positive)]
        if not by_sign and positive.any() and not positive.all():
            groups = [(0, "both", torch.ones_like(positive))]
        for sign, name, chosen in groups:
            if chosen.any():
                passes, found = self.runner.run(
                    batch,
                    targets,
                    rows[chosen],
                    scale[chosen],
                    sign,
                    reference,
                    where,
                    choice=choice.of(chosen),
                    keep_hidden=self.critic is not None,
                )
                result.passes += passes
                gradients[name] = found.objective
                if found.regularizer is not None:
                    parts = [gradients["reg"], found.regularizer] if "reg" in gradients else [found.regularizer]
                    gradients["reg"] = sum_gradients(parts)
                if found.unmasked is not None:
                    unmasked.append(found.unmasked)
        if unmasked:
            _rescale(result, sum_gradients(unmasked))
        total = (
            sum_gradients(list(gradients.values()))
            if gradients
            else [torch.zeros_like(p, dtype=wide(p.dtype)) for p in self.parameters]
        )
        self._norms(result, gradients, total, where)
        entropy = _mean_entropy(result.passes) if self._entropy is not None and result.passes else None
        if before_step is not None:
            before_step(result)
        self._step(result, total)
        if self._entropy is not None and entropy is not None:
            self._entropy.observe(entropy)
        if self.critic is not None and result.passes:
            hidden = torch.cat(
                [sign_pass.hidden[sign_pass.mask] for sign_pass in result.passes if sign_pass.hidden is not None]
            )
            result.value_loss = self.critic.fit(
                hidden, _of_tokens(targets.returns, result.passes), _of_tokens(targets.values, result.passes)
            )
        return result

    def apply_exact(self, loss: Callable[[], Tensor], where: str) -> UpdateResult:
        """Make one update from a scalar loss that is already an expectation (no tokens, no signs)."""
        result = UpdateResult()
        value = loss()
        if not torch.isfinite(value):
            raise DivergedError(f"{where}: the exact loss is {value.item()}")
        total = list(torch.autograd.grad(value, self.parameters))
        self._norms(result, {}, total, where)
        self._step(result, total)
        return result

    def _step(self, result: UpdateResult, total: Gradients) -> None:
        limit, norm = self._max_grad_norm, result.grad_norm["total"]
        result.clip_coef = 1.0
        if limit is not None and norm > limit:
            coef = limit / (torch.tensor(norm, dtype=total[0].dtype) + 1e-6)  # as torch's clip_grad_norm_
            result.clip_coef = coef.item()
            # Not in place: the gradient of a single source is the total itself.
            total = [gradient * coef.to(gradient.device) for gradient in total]
        stepped = self.parameters if self._masters is None else self._masters.values
        for parameter, gradient in zip(stepped, total, strict=True):
            parameter.grad = gradient
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self._masters is not None:
            self._masters.round()

    def _row_scale(self, batch: RolloutBatch, rows: Tensor, result: UpdateResult) -> Tensor:
        """(B,) factor of each row's summed token losses; fills in `result.normalizer` where it is one number."""
        fields = self.fields
        scale, divisor = row_scale(fields.normalizer, batch.lengths[rows], batch.selected[rows], fields.constant)
        if divisor is not None:
            result.normalizer = divisor
        return scale

    def _norms(self, result: UpdateResult, gradients: dict[str, Gradients], total: Gradients, where: str) -> None:
        for name, gradient in [*gradients.items(), ("total", total)]:
            result.grad_norm[name] = get_total_norm(gradient).item()
        if not torch.isfinite(torch.tensor(list(result.grad_norm.values()))).all():
            raise DivergedError(f"{where}: gradient norms are {result.grad_norm}, though every token's loss is finite")
        if "pos" in gradients and "neg" in gradients:
            inner = sum(float((p * n).sum()) for p, n in zip(gradients["pos"], gradients["neg"], strict=True))
            product = result.grad_norm["pos"] * result.grad_norm["neg"]
            result.grad_cos = inner / product if product > 0 else None


def _rescale(result: UpdateResult, unmasked: Gradients) -> None:
    """Bring the objective's gradient, and the weights of its passes, to the norm of the unmasked one."""
    signs = [name for name in ("pos", "neg", "both") if name in result.gradients]
    scale = norm_ratio(unmasked, sum_gradients([result.gradients[name] for name in signs]))
    for name in signs:
        result.gradients[name] = [gradient * scale for gradient in result.gradients[name]]
    for one in result.passes:
        one.weights, one.closed_form = one.weights * scale, one.closed_form * scale
    result.mask_scale = scale


def _mean_entropy(passes: list[SignPass]) -> float:
    """Over all tokens of the passes, in nats."""
    summed = sum(
        float(policy_entropy(logits).double().sum()) for one in passes for logits in one.token_logits.parts(one.mask)
    )
    return summed / sum(int(one.mask.sum()) for one in passes)


def _of_tokens(stored: Tensor | None, passes: list[SignPass]) -> Tensor:
    """Values (N, R) of a step's targets at the real tokens of the passes, in their order."""
    assert stored is not None
    return torch.cat(
        [
            stored[sign_pass.rows, : sign_pass.mask.shape[1]].to(sign_pass.mask.device)[sign_pass.mask]
            for sign_pass in passes
        ]
    )
