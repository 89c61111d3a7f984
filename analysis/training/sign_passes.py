"""Forward and backward passes over the rows of an update: gradients, and the weight of every token by a hook.

For summed token losses ℓ_t (the objective's) and regularisers, L = Σ_t scale_t·(ℓ_t − α·H_t + β·KL_t). Entropy bonus
and KL loss take a second backward pass through the same graph when they are on. At most `update.micro_batch` rows go
through the model at a time, or rows of at most `update.micro_batch_tokens` tokens (`micro_batches.py`), and their
gradients add up; with `update.autocast` its matrix products run in bfloat16, while log-probs, losses and gradients of
the parameters stay in the parameters' dtype, or in float32 where that is bfloat16. With `update.shared_prompts` what
rows have in common goes through the model once (`toy_models.shared_prefixes`). Logits exist all at once or are
streamed, as `update.logits` says (`token_logits.py`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from toy_models import Policy, TeacherBatch, response_logits, teacher_batch
from toy_models.shared_prefixes import chosen_hidden, shared_batch, shared_logits

from ..errors import DivergedError, UsageError
from ..objectives import Objective, TokenBatch
from ..objectives.formulas.regularisers import kl_of
from ..probes.output_heads import OutputHead, find_head
from ..probes.weight_probe import WeightProbe
from ..recipes.fields import UpdateFields
from .critic import captured_hidden_states
from .micro_batches import row_parts
from .recomputed_layers import recomputed_layers
from .regularizers import Regularizers, kl_penalty, policy_entropy
from .rollouts import RolloutBatch
from .step_targets import StepTargets
from .token_logits import AT_ONCE, DenseLogits, StreamedLogits, TokenLogits, own_log_prob
from .token_masks import TokenChoice, kept_tokens

__all__ = ["Gradients", "PassGradients", "PassRunner", "SignPass", "sum_gradients", "wide"]

Gradients = list[Tensor]

_ROWS_WITHOUT_GRADIENTS = 256  # rows per forward pass where nothing is kept for a backward one


@dataclass
class SignPass:
    """The rows of one reward sign in a pass. Tensors are (B, R) over the rows, padding included; see `mask`.

    `weights`, `kl_weights` and `entropy_weights` are those of the update, normaliser and temperature included:
    −∂L/∂log π_y, and the coefficients of the KL and entropy vectors in the descent direction of the scaled logits z/T,
    which `token_logits` has or computes from the parameters as they are when it is asked.
    """

    sign: int
    rows: Tensor
    batch: TeacherBatch
    token_logits: TokenLogits
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
    selection: Tensor | None = None
    hidden: Tensor | None = None

    @property
    def mask(self) -> Tensor:
        return self.batch.mask

    @property
    def logits(self) -> Tensor:
        """(B, R, V), divided by the temperature; ValueError where they were streamed and never existed."""
        if isinstance(self.token_logits, StreamedLogits):
            raise ValueError("logits: expected dense ones, got streamed ones; ask token_logits for parts of them")
        return self.token_logits.logits

    def part(self, chosen: Tensor, sign: int, loss: float, kl_sum: float) -> SignPass:
        """Some of the rows, those where `chosen` (B,) is true, with their sign and their share of the sums."""
        rows = {item.name: getattr(self, item.name) for item in fields(self)}
        picked = {name: value[chosen] for name, value in rows.items() if isinstance(value, Tensor)}
        return replace(
            self,
            **picked,
            batch=_rows_of(self.batch, chosen),
            token_logits=self.token_logits.of_rows(chosen),
            sign=sign,
            loss=loss,
            kl_sum=kl_sum,
        )


@dataclass(frozen=True)
class PassGradients:
    """Gradients of one pass or several: of the objective's loss, of the regularisers where there are any, and of the
    objective without the token mask where `update.mask_norm` needs it."""

    objective: Gradients
    regularizer: Gradients | None = None
    unmasked: Gradients | None = None

    def add(self, other: PassGradients) -> PassGradients:
        """The gradients of the passes of both, in the memory of these, which are spent."""
        for name in ("objective", "regularizer", "unmasked"):
            for own, more in zip(getattr(self, name) or (), getattr(other, name) or (), strict=True):
                own.add_(more)
        return self


class PassRunner:
    """Makes the passes of one run; holds no state but the policy and the settings."""

    def __init__(
        self,
        policy: Policy,
        objective: Objective,
        regularizers: Regularizers,
        fields: UpdateFields,
        temperature: float,
        *,
        keeps_hidden: bool = False,
    ) -> None:
        """Log-probs are those of softmax(z/T) at the rollouts' `temperature`. `keeps_hidden` says that others read what
        goes into the output head, as a critic does: logits are then never streamed."""
        self.policy, self.objective, self.regularizers = policy, objective, regularizers
        self._fields, self._temperature = fields, temperature
        self.parameters = [p for p in policy.model.parameters() if p.requires_grad]
        self.dtype, self.device = wide(self.parameters[0].dtype), self.parameters[0].device
        self._heads: dict[torch.nn.Module, OutputHead | None] = {}
        self._keeps_hidden = keeps_hidden
        if fields.logits == "streamed":
            find_head(policy.model)  # raises for a head that is not known

    @torch.no_grad()
    def log_probs(self, model: torch.nn.Module, batch: RolloutBatch, rows: Sequence[int]) -> Tensor:
        """log π_y at the training temperature for some rows of a rollout batch, (len(rows), R), zero at padding."""
        out = torch.zeros(len(rows), batch.sampling_log_probs.shape[1], dtype=self.dtype)
        for part in self.parts(batch, rows):
            teacher = self._teacher(batch, [rows[i] for i in part.tolist()])
            values = self._token_logits(model, teacher).per_token(own_log_prob, teacher.tokens)
            out[part, : values.shape[1]] = values.masked_fill(~teacher.mask, 0).cpu()
        return out

    def parts(self, batch: RolloutBatch, rows: Sequence[int], *, gradients: bool = False) -> list[Tensor]:
        """Which of `rows` go through the model together, as indices into them; `log_probs` goes by these parts."""
        return row_parts(
            [len(batch.prompt(i).ids) for i in rows],
            [len(batch.responses[i]) for i in rows],
            [i // batch.group_size for i in rows],
            self._fields,
            None if gradients else _ROWS_WITHOUT_GRADIENTS,
        )

    @torch.no_grad()
    def select(
        self, batch: RolloutBatch, targets: StepTargets, rows: Tensor, generator: torch.Generator | None
    ) -> TokenChoice:
        """The tokens that objective and token mask choose over the whole minibatch, (len(rows), R).

        One more forward pass over the rows where there is something to choose; everything that the choice is made of
        is detached.
        """
        selects, masks = "selection" in self.objective.entry.needs, self._fields.token_mask is not None
        if not (selects or masks) or len(rows) == 0:
            return TokenChoice()
        width = batch.sampling_log_probs.shape[1]
        log_probs, entropy = torch.zeros(2, len(rows), width, dtype=self.dtype)
        for part in self.parts(batch, rows.tolist()):
            teacher = self._teacher(batch, rows[part].tolist())
            logits = self._token_logits(self.policy.model, teacher)
            values = logits.per_token(own_log_prob, teacher.tokens)
            here = part, slice(0, values.shape[1])
            log_probs[here] = values.masked_fill(~teacher.mask, 0).cpu()
            entropy[here] = logits.per_token(policy_entropy).masked_fill(~teacher.mask, 0).cpu()
        advantages = targets.advantages_of(rows, width).to(self.dtype)
        old = targets.old_of(rows, log_probs)
        tokens = TokenBatch(log_probs, old, advantages, batch.mask()[rows], entropy=entropy)
        return TokenChoice(
            self.objective.prepare(tokens, generator).selection if selects else None,
            kept_tokens(tokens, self._fields) if masks else None,
        )

    def run(
        self,
        batch: RolloutBatch,
        targets: StepTargets,
        rows: Tensor,
        scale: Tensor,
        sign: int,
        reference: torch.nn.Module | None,
        where: str,
        *,
        choice: TokenChoice | None = None,
        keep_hidden: bool = False,
    ) -> tuple[list[SignPass], PassGradients]:
        """The passes over `rows` with token losses times `scale` (B,), and their gradients. The parameters' own `.grad`
        is left empty; `sign` is that of all rows, 0 where they have both: each pass is then given out in two parts, the
        rewarded rows first. `choice` is that of `select` for the rows, if any; `keep_hidden` keeps what the output head
        read.

        Raises DivergedError for a loss that is not finite.
        """
        choice = choice or TokenChoice()
        passes: list[SignPass] = []
        total: PassGradients | None = None
        for part in self.parts(batch, rows.tolist(), gradients=True):
            of_part, gradients = self._pass(
                batch, targets, rows[part], scale[part], sign, reference, where, choice.of(part), keep_hidden
            )
            passes += of_part
            total = gradients if total is None else total.add(gradients)
        assert total is not None
        return passes, total

    def _pass(
        self,
        batch: RolloutBatch,
        targets: StepTargets,
        rows: Tensor,
        scale: Tensor,
        sign: int,
        reference: torch.nn.Module | None,
        where: str,
        choice: TokenChoice,
        keep_hidden: bool,
    ) -> tuple[list[SignPass], PassGradients]:
        regularizers, device = self.regularizers, self.device
        indices = rows.tolist()
        teacher = self._teacher(batch, indices)
        mask, width = teacher.mask, teacher.tokens.shape[1]
        hidden = None
        if keep_hidden:
            with captured_hidden_states(self.policy.model) as seen:
                logits = self._token_logits(self.policy.model, teacher)
            hidden = seen[0].to(self.dtype)
        else:
            logits = self._token_logits(self.policy.model, teacher)
        log_probs = logits.per_token(own_log_prob, teacher.tokens)
        probe = WeightProbe(log_probs)
        old = targets.old_of(rows, log_probs.detach())
        advantages = targets.advantages_of(rows, width).to(device=device, dtype=log_probs.dtype)
        token_scale = (scale.to(device=device, dtype=log_probs.dtype)[:, None] * mask).detach()
        ref = None if targets.ref_log_probs is None else targets.ref_log_probs[rows, :width].to(device)
        taught = targets.teacher_log_probs
        selection, kept = (None if c is None else c[:, :width].to(device) for c in (choice.selection, choice.kept))
        tokens = TokenBatch(
            log_probs.detach(),
            old,
            advantages,
            mask,
            batch.rewards[rows].to(device),
            batch.accuracy()[rows].to(device),
            ref_log_probs=ref,
            selection=selection,
            kl_baseline=None if targets.kl_baseline is None else targets.kl_baseline[rows].to(device),
            rollout_log_probs=batch.sampling_log_probs[rows, :width].to(log_probs),
            teacher_log_probs=None if taught is None else taught[rows, :width].to(device),
        )
        unmasked = None
        if kept is not None and self._fields.mask_norm == "full":
            of_all = self.objective.loss(log_probs, tokens).masked_fill(~mask, 0)
            (of_all * token_scale).sum().backward(retain_graph=True)
            unmasked = self._take_gradients()
            probe.take()
        pulled = log_probs if kept is None else torch.where(kept, log_probs, log_probs.detach())
        token_loss = self.objective.loss(pulled, tokens).masked_fill(~mask, 0)
        loss = (token_loss * token_scale).sum()
        _check_tokens(loss, token_loss, log_probs, teacher, indices, where)

        entropy_on, kl_on = regularizers.entropy_coef > 0, regularizers.kl_in_loss
        loss.backward(retain_graph=entropy_on or kl_on)
        gradient, weights = self._take_gradients(), probe.take()
        closed = self.objective.weights(tokens)

        regularizer, kl_weights, entropy_weights, total_loss = None, None, None, loss.item()
        kl_of_tokens, losses = torch.zeros_like(log_probs), (token_loss * token_scale).detach()
        if entropy_on or kl_on:
            extra = log_probs.new_zeros(())
            if entropy_on:
                entropy_weights = regularizers.entropy_coef * token_scale
                bonus = entropy_weights * logits.per_token(policy_entropy).masked_fill(~mask, 0)
                extra, losses = extra - bonus.sum(), losses - bonus.detach()
            if kl_on:
                assert ref is not None
                if regularizers.kl_estimator == "full":
                    assert reference is not None
                    with torch.no_grad():
                        ref_logits = self._token_logits(reference, teacher)
                    kl = logits.per_token(kl_of, ref_logits).masked_fill(~mask, 0)
                else:
                    kl = kl_penalty(regularizers.kl_estimator, log_probs, ref).masked_fill(~mask, 0)
                kl_of_tokens = kl.detach()
                extra = extra + regularizers.kl_coef * (kl * token_scale).sum()
                losses = losses + regularizers.kl_coef * kl_of_tokens * token_scale
            extra.backward()
            regularizer, total_loss = self._take_gradients(), total_loss + extra.item()
            if kl_on:
                full = regularizers.kl_estimator == "full"
                kl_weights = -regularizers.kl_coef * token_scale if full else probe.take()
        elif ref is not None and regularizers.kl_coef > 0:  # a reward: no gradient here, but worth knowing
            kl = kl_penalty(regularizers.kl_estimator, log_probs.detach(), ref)
            kl_of_tokens = kl.detach().masked_fill(~mask, 0)
        probe.remove()
        sign_pass = SignPass(
            sign,
            rows,
            teacher,
            logits.detach(),
            log_probs.detach(),
            old,
            ref,
            advantages,
            weights,
            closed.weight * token_scale if kept is None else (closed.weight * token_scale).masked_fill(~kept, 0),
            closed.ratio,
            closed.clip,
            kl_weights,
            entropy_weights,
            kl_of_tokens.sum().item(),
            total_loss,
            selection,
            hidden,
        )
        gradients = PassGradients(gradient, regularizer, unmasked)
        if sign != 0:
            return [sign_pass], gradients
        rewarded = batch.rewarded[rows]
        parts = [
            sign_pass.part(chosen, of_rows, losses[chosen].sum().item(), kl_of_tokens[chosen].sum().item())
            for of_rows, chosen in ((1, rewarded), (-1, ~rewarded))
            if chosen.any()
        ]
        return parts, gradients

    def _teacher(self, batch: RolloutBatch, rows: Sequence[int]) -> TeacherBatch:
        return teacher_batch(
            [batch.prompt(i).ids for i in rows], [batch.responses[i] for i in rows], self.policy.pad_id, self.device
        )

    def _token_logits(self, model: torch.nn.Module, teacher: TeacherBatch) -> TokenLogits:
        """The logits of the rows' tokens under a model, by a forward pass."""
        fields, head = self._fields, self._head(model, teacher)
        autocast = None if fields.autocast is None else getattr(torch, fields.autocast)
        with contextlib.ExitStack() as stack:
            if autocast is not None:
                stack.enter_context(torch.autocast(self.device.type, dtype=autocast))
            if fields.gradient_checkpointing and torch.is_grad_enabled():
                stack.enter_context(recomputed_layers(model))
            if head is None:
                shared = fields.shared_prompts
                raw = shared_logits(model, shared_batch(teacher)) if shared else response_logits(model, teacher)
            else:
                rows, positions = teacher.mask.nonzero().T
                hidden, first = chosen_hidden(model, teacher, rows, positions, share=fields.shared_prompts)
        if head is None:
            scaled = raw.to(self.dtype)
            return DenseLogits(scaled if self._temperature == 1 else scaled / self._temperature)
        head.verify(hidden[:1].detach(), first)
        return StreamedLogits(hidden, teacher.mask, head, self._temperature, self.dtype, autocast)

    def _head(self, model: torch.nn.Module, teacher: TeacherBatch) -> OutputHead | None:
        """The head of a model where the logits of the rows are to be streamed; None where they exist as a whole."""
        if self._fields.logits == "dense" or self._keeps_hidden:
            return None
        if model not in self._heads:
            try:
                self._heads[model] = find_head(model)
            except UsageError:
                if self._fields.logits == "streamed":
                    raise
                self._heads[model] = None  # a head that is not known is asked for its logits
        head = self._heads[model]
        if head is None or self._fields.logits == "streamed":
            return head
        return head if teacher.tokens.numel() * head.vocabulary > AT_ONCE else None

    def _take_gradients(self) -> Gradients:
        taken = [
            torch.zeros_like(p, dtype=wide(p.dtype)) if p.grad is None else p.grad.to(wide(p.dtype))
            for p in self.parameters
        ]
        for parameter in self.parameters:
            parameter.grad = None
        return taken


def _rows_of(batch: TeacherBatch, chosen: Tensor) -> TeacherBatch:
    """Some of the rows of a batch, at its width."""
    values = {item.name: getattr(batch, item.name) for item in fields(batch)}
    return replace(batch, **{name: value[chosen] for name, value in values.items() if value is not None})


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype of log-probs, losses and sums of gradients for weights of a dtype: float32 at least."""
    return torch.promote_types(dtype, torch.float32)


def sum_gradients(parts: Sequence[Gradients]) -> Gradients:
    """Parameter by parameter; a single part is returned as it is."""
    out = parts[0]
    for part in parts[1:]:
        out = [a + b for a, b in zip(out, part, strict=True)]
    return out


def _check_tokens(
    loss: Tensor, token_loss: Tensor, log_probs: Tensor, teacher: TeacherBatch, rows: list[int], where: str
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
