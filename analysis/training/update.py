"""One optimiser update: a backward pass per reward sign, whose sum is the gradient of the step.

For a minibatch with summed token losses ℓ_t (the objective's) and regularisers, L = Σ_t scale_t·(ℓ_t − α·H_t + β·KL_t),
where scale_t is one over what the recipe's normaliser divides by. Rewarded and unrewarded rows go through the model
apart, so that each sign's gradient is known exactly at no extra cost; entropy bonus and KL loss take a second backward
pass through the same graphs when they are on. The weight of every token is measured by a hook on its log-prob.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from toy_models import Policy, TeacherBatch, response_logits, teacher_batch

from ..errors import DivergedError
from ..objectives import Objective
from ..recording.weights import WeightProbe
from .critic import Critic, advantage_estimates, captured_hidden_states
from .fields import RunConfig
from .regularizers import kl_penalty, policy_entropy
from .rollouts import RolloutBatch

__all__ = ["SignPass", "UpdateResult", "Updater"]

Gradients = list[Tensor]


@dataclass
class SignPass:
    """What one reward sign's rows did in one update. Tensors are (B, R) over the rows, padding included; see `mask`.

    `weights`, `kl_weights` and `entropy_weights` are those of the update, normaliser and temperature included:
    −∂L/∂log π_y, and the coefficients of the KL and entropy vectors in the descent direction of the scaled logits z/T.
    """

    sign: int
    rows: Tensor
    batch: TeacherBatch
    logits: Tensor
    log_probs: Tensor
    old_log_probs: Tensor
    ref_log_probs: Tensor | None
    advantages: Tensor
    weights: Tensor
    closed_form: Tensor
    ratio: Tensor | None
    clip: Tensor
    kl_weights: Tensor | None
    entropy_weights: Tensor | None
    kl_sum: float
    loss: float
    hidden: Tensor | None = None

    @property
    def mask(self) -> Tensor:
        return self.batch.mask


@dataclass
class UpdateResult:
    """One optimiser update; norms are of the whole parameter vector, before gradient clipping unless said otherwise."""

    passes: list[SignPass] = field(default_factory=list)
    normalizer: float | None = None
    grad_norm: dict[str, float] = field(default_factory=dict)
    grad_cos: float | None = None
    clip_coef: float | None = None
    value_loss: float | None = None
    skipped: bool = False


class Updater:
    """Applies updates of one run to its policy; holds no state but the policy, the optimiser and the settings."""

    def __init__(
        self,
        policy: Policy,
        optimizer: torch.optim.Optimizer,
        objective: Objective,
        config: RunConfig,
        critic: Critic | None = None,
    ) -> None:
        self.policy, self.optimizer, self.objective, self.config = policy, optimizer, objective, config
        self.critic = critic
        self.parameters = [p for p in policy.model.parameters() if p.requires_grad]

    # -- log-probs without gradients ------------------------------------------------------------------------------

    @torch.no_grad()
    def log_probs(self, model: torch.nn.Module, batch: RolloutBatch, rows: Sequence[int], chunk: int = 256) -> Tensor:
        """log π_y at the training temperature for some rows of a rollout batch, (len(rows), R), zero at padding."""
        out = torch.zeros(len(rows), batch.sampling_log_probs.shape[1], dtype=self.parameters[0].dtype)
        for start in range(0, len(rows), chunk):
            teacher = self._teacher(batch, rows[start : start + chunk])
            values, _ = self._token_log_probs(response_logits(model, teacher), teacher)
            out[start : start + len(values), : values.shape[1]] = values.masked_fill(~teacher.mask, 0).cpu()
        return out

    def value(self, batch: RolloutBatch, rows: Sequence[int]) -> None:
        """Fill in old log-probs, token advantages and returns of the rows, by the policy and the critic as they are."""
        assert self.critic is not None
        shape = (len(batch), batch.sampling_log_probs.shape[1])
        values = torch.zeros(shape, dtype=self.parameters[0].dtype)
        batch.old_log_probs = torch.zeros_like(values)
        with captured_hidden_states(self.policy.model) as hidden:
            batch.old_log_probs[list(rows)] = self.log_probs(self.policy.model, batch, rows)
        start = 0
        for states in hidden:
            chosen = torch.tensor(rows[start : start + len(states)])
            values[chosen, : states.shape[1]] = self.critic.values(states).cpu()
            start += len(states)
        rewards = batch.advantages.to(values.dtype)
        batch.token_advantages = advantage_estimates(values, rewards, batch.lengths, self.config.critic.gae_lambda)
        batch.returns = batch.token_advantages + values

    def _teacher(self, batch: RolloutBatch, rows: Sequence[int]) -> TeacherBatch:
        return teacher_batch(
            [batch.prompt(i).ids for i in rows],
            [batch.responses[i] for i in rows],
            self.policy.pad_id,
            self.parameters[0].device,
        )

    def _token_log_probs(self, logits: Tensor, teacher: TeacherBatch) -> tuple[Tensor, Tensor]:
        scaled = logits if self.config.rollout.temperature == 1 else logits / self.config.rollout.temperature
        return scaled.gather(-1, teacher.tokens[..., None])[..., 0] - scaled.logsumexp(-1), scaled

    # -- the update -----------------------------------------------------------------------------------------------

    def apply(self, batch: RolloutBatch, rows: Tensor, reference: torch.nn.Module | None, where: str) -> UpdateResult:
        """Make one update from the given rows; `where` names the update in errors.

        Raises:
            DivergedError: a loss or gradient is not finite; the parameters are left as they were.
        """
        result = UpdateResult()
        if len(rows) == 0 and self.config.update.empty == "skip":
            result.skipped = True
            return result
        scale = self._row_scale(batch, rows, result)
        positive = batch.rewards[rows] > 0
        gradients: dict[str, Gradients] = {}
        for sign, name, chosen in ((1, "pos", positive), (-1, "neg", ~positive)):
            if chosen.any():
                one, gradient, regularizer = self._sign_pass(batch, rows[chosen], scale[chosen], sign, reference, where)
                result.passes.append(one)
                gradients[name] = gradient
                if regularizer is not None:
                    gradients["reg"] = _sum([gradients["reg"], regularizer]) if "reg" in gradients else regularizer
        total = _sum(list(gradients.values())) if gradients else [torch.zeros_like(p) for p in self.parameters]
        self._norms(result, gradients, total, where)
        self._step(result, total)
        if self.critic is not None and result.passes:
            assert batch.returns is not None
            hidden = torch.cat([one.hidden[one.mask] for one in result.passes if one.hidden is not None])
            returns = torch.cat(
                [batch.returns[one.rows][:, : one.mask.shape[1]].to(hidden.device)[one.mask] for one in result.passes]
            )
            result.value_loss = self.critic.fit(hidden, returns)
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
        for parameter, gradient in zip(self.parameters, total, strict=True):
            parameter.grad = gradient
        limit, norm = self.config.optimizer.max_grad_norm, result.grad_norm["total"]
        result.clip_coef = 1.0
        if limit is not None and norm > limit:
            clip_grads_with_norm_(self.parameters, limit, torch.tensor(norm))
            result.clip_coef = limit / (norm + 1e-6)  # as clip_grads_with_norm_ computes it
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _sign_pass(
        self, batch: RolloutBatch, rows: Tensor, scale: Tensor, sign: int, reference: torch.nn.Module | None, where: str
    ) -> tuple[SignPass, Gradients, Gradients | None]:
        config, device = self.config, self.parameters[0].device
        indices = rows.tolist()
        teacher = self._teacher(batch, indices)
        mask, width = teacher.mask, teacher.tokens.shape[1]
        hidden = None
        if self.critic is None:
            raw = response_logits(self.policy.model, teacher)
        else:
            with captured_hidden_states(self.policy.model) as seen:
                raw = response_logits(self.policy.model, teacher)
            hidden = seen[0]
        log_probs, scaled = self._token_log_probs(raw, teacher)
        probe = WeightProbe(log_probs)
        stored = batch.old_log_probs
        if stored is None:
            old = log_probs.detach()
        else:  # rows that no pass has seen yet are NaN: there the policy itself is the old one
            old = stored[rows, :width].to(device)
            old = torch.where(torch.isnan(old), log_probs.detach(), old)
            stored[rows, :width] = old.cpu()
        if batch.token_advantages is None:
            advantages = batch.advantages[rows].to(device=device, dtype=log_probs.dtype)
        else:
            advantages = batch.token_advantages[rows, :width].to(device)
        token_scale = (scale.to(device=device, dtype=log_probs.dtype)[:, None] * mask).detach()
        token_loss = self.objective.loss(log_probs, old, advantages).masked_fill(~mask, 0)
        loss = (token_loss * token_scale).sum()
        self._check_tokens(loss, token_loss, log_probs, teacher, indices, where)

        entropy_on, kl_on = config.objective.entropy_coef > 0, self._kl_in_loss()
        loss.backward(retain_graph=entropy_on or kl_on)
        gradient, weights = self._take_gradients(), probe.take()
        closed = self.objective.weights(log_probs.detach(), old, advantages)

        ref = batch.ref_log_probs[rows, :width].to(device) if batch.ref_log_probs is not None else None
        regularizer, kl_weights, entropy_weights, kl_sum, total_loss = None, None, None, 0.0, loss.item()
        if entropy_on or kl_on:
            extra = log_probs.new_zeros(())
            if entropy_on:
                entropy_weights = config.objective.entropy_coef * token_scale
                extra = extra - (entropy_weights * policy_entropy(scaled).masked_fill(~mask, 0)).sum()
            if kl_on:
                assert ref is not None
                ref_logits = None
                if config.objective.kl_estimator == "full":
                    assert reference is not None
                    with torch.no_grad():
                        ref_logits = response_logits(reference, teacher) / config.rollout.temperature
                kl = kl_penalty(config.objective.kl_estimator, log_probs, ref, scaled, ref_logits).masked_fill(~mask, 0)
                kl_sum = kl.detach().sum().item()
                extra = extra + config.objective.kl_coef * (kl * token_scale).sum()
            extra.backward()
            regularizer, total_loss = self._take_gradients(), total_loss + extra.item()
            if kl_on:
                full = config.objective.kl_estimator == "full"
                kl_weights = -config.objective.kl_coef * token_scale if full else probe.take()
        probe.remove()
        one = SignPass(
            sign,
            rows,
            teacher,
            scaled.detach(),
            log_probs.detach(),
            old,
            ref,
            advantages,
            weights,
            closed.weight * token_scale,
            closed.ratio,
            closed.clip,
            kl_weights,
            entropy_weights,
            kl_sum,
            total_loss,
            hidden,
        )
        return one, gradient, regularizer

    def _kl_in_loss(self) -> bool:
        return self.config.objective.kl_coef > 0 and self.config.objective.kl_placement == "loss"

    def _take_gradients(self) -> Gradients:
        taken = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        self.optimizer.zero_grad(set_to_none=True)
        return taken

    def _row_scale(self, batch: RolloutBatch, rows: Tensor, result: UpdateResult) -> Tensor:
        """(B,) factor of each row's summed token losses; fills in `result.normalizer` where it is one number."""
        update = self.config.update
        lengths = batch.lengths[rows].double()
        if update.normalizer == "per_sequence":
            return 1 / (lengths * len(rows))
        if update.normalizer == "constant":
            assert update.constant is not None
            divisor = update.constant
        elif update.normalizer == "selected_tokens":
            divisor = float(lengths[batch.selected[rows]].sum())
        else:
            divisor = float(lengths.sum())
        result.normalizer = max(divisor, 1.0)  # no token carries a weight: any divisor gives the same zero
        return torch.full_like(lengths, 1 / result.normalizer)

    def _norms(self, result: UpdateResult, gradients: dict[str, Gradients], total: Gradients, where: str) -> None:
        for name, gradient in [*gradients.items(), ("total", total)]:
            result.grad_norm[name] = get_total_norm(gradient).item()
        if not torch.isfinite(torch.tensor(list(result.grad_norm.values()))).all():
            raise DivergedError(f"{where}: gradient norms are {result.grad_norm}, though every token's loss is finite")
        if "pos" in gradients and "neg" in gradients:
            inner = sum(float((p * n).sum()) for p, n in zip(gradients["pos"], gradients["neg"], strict=True))
            product = result.grad_norm["pos"] * result.grad_norm["neg"]
            result.grad_cos = inner / product if product > 0 else None

    def _check_tokens(
        self, loss: Tensor, token_loss: Tensor, log_probs: Tensor, teacher: TeacherBatch, rows: list[int], where: str
    ) -> None:
        if torch.isfinite(loss):
            return
        bad = ((~torch.isfinite(token_loss) | ~torch.isfinite(log_probs)) & teacher.mask).nonzero()[:5].tolist()
        names = [
            f"rollout {rows[b]} position {t} (token {int(teacher.tokens[b, t])}, "
            f"log π = {log_probs.detach()[b, t].item():.4g})"
            for b, t in bad
        ]
        raise DivergedError(
            f"{where}: the loss is {loss.item()}; non-finite first at "
            f"{'; '.join(names) or 'the sum over finite tokens'}. "
            "A lower optimizer.lr, optimizer.max_grad_norm or clipping usually helps"
        )


def _sum(parts: list[Gradients]) -> Gradients:
    out = parts[0]
    for part in parts[1:]:
        out = [a + b for a, b in zip(out, part, strict=True)]
    return out
