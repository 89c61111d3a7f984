"""`attach`: records from your own training loop, taken from its forward and backward passes as they happen.

    with analysis.attach(model, out="runs/mine") as trace:
        for batch in batches:
            loss = my_loss(model(**batch), …)
            loss.backward()
            optimizer.step(); optimizer.zero_grad()
            trace.step(rewards=…)

Hooks on the model see each forward pass that has a graph. Hooks on its logits (on the log-probs of a fused head, on the
hidden states under a fused loss) see the gradient of your loss, whatever it is. The module `capture` says what is
computed from it, `token_alignment` which token a position predicts. Everything between two calls of `step` is one
update, however many passes it took; a forward pass that no backward pass came through is not part of it. Passes without
a graph (`torch.no_grad`, generation) are ignored.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..common.notebook_html import html_table
from ..errors import UsageError
from ..laws.checks import check_temperature
from .attached_tables import AttachedTables, Decoder, HandedUpdate, PassRows
from .capture import Capture, FusedCapture, HiddenCapture, LogitCapture
from .handed_checks import argument_names, checked_scale, parameter_versions, warn_of_another_form
from .handed_values import in_order
from .head_samples import HeadSamples
from .output_heads import find_head, last_hidden_state
from .record_spec import RecordSpec
from .token_alignment import LinedUp, line_up
from .watched_pass import WatchedPass, note_gradient, output_field

__all__ = ["Attachment", "attach"]

Given = Tensor | Callable[[Mapping[str, Any]], Tensor | None] | None


def attach(
    model: nn.Module,
    *,
    out: str | Path | None = None,
    labels: Given = None,
    completion_mask: Given = None,
    record: RecordSpec | None = None,
    temperature: float = 1.0,
    loss_scale: float | Callable[[], float] = 1.0,
    tokenizer: Decoder | None = None,
    resume: bool | int = False,
) -> Attachment:
    """Watch the training of `model` and record what each update does to its tokens; a context manager.

    Of every recorded token this gives the statistics of softmax(logits / T) before the update, and the weight
    w = −∂L/∂log π_y of your loss L, measured from the gradient that makes the update.

    Args:
        model: a causal LM of transformers, bare or inside DDP, FSDP, `torch.compile` or peft.
        out: a new run folder, committed every `record.chunk` updates, read by `load_trace`. Several processes
            (torch.distributed) write one folder: each calls `step` once for each update. None keeps the records in
            memory, those of each process by themselves.
        labels: which tokens count and what they are, instead of the labels that the model is called with: (B, T) with
            −100 where a token does not count, or a function that gives it from the arguments of the forward pass.
        completion_mask: (B, T), or (B, C) for the last C positions, true where a token was sampled; or such a function.
            Without labels and mask every token that is not padding counts.
        record: what is recorded, and how often.
        temperature: T of the distribution softmax(logits / T) that the loss is about.
        loss_scale: what the loss was multiplied by before the backward pass, as in mixed precision
            (`scaler.get_scale`); weights are divided by it. Factors of gradient accumulation and of the mean over
            processes stay in: weights are those of the loss that this process differentiated.
        tokenizer: for the text of prompts, responses and tokens; without it there is none.
        resume: True to continue the run in `out` after its last commit (a new run, where there is none), or the number
            of updates n of the checkpoint that training continues from: later commits are dropped, and none is counted
            twice. `commit` makes the commit that such a checkpoint needs, and returns n.

    Returns:
        The attachment, to be entered with `with`. Call its `step` after each optimiser step.

    Raises:
        UsageError: the model is not a causal LM, has a head of an unknown kind or is watched already; the folder holds
            a run, or one that cannot be resumed so; within the loop, tokens do not fit, or a backward pass brought no
            gradient to logits or log-probs.

    Cost: one pass over the logits of the recorded tokens for the statistics, and one over logits and their gradient for
    the weight. A fused head costs one more product of hidden states and head, a fused loss three; the statistics are
    then of that product in float32. Logits are held until their backward pass.

    Example:
        >>> with attach(model, out="runs/mine") as trace:  # doctest: +SKIP
        ...     loss_of(model(**batch)).backward()
        ...     optimizer.step()
        ...     trace.step(rewards=rewards)
    """
    return Attachment(
        model, out, labels, completion_mask, record or RecordSpec(), temperature, loss_scale, tokenizer, resume
    )


class Attachment:
    """What `attach` returns: enter it with `with`, and call `step` after each optimiser step."""

    def __init__(
        self,
        model: nn.Module,
        out: str | Path | None,
        labels: Given,
        completion_mask: Given,
        record: RecordSpec,
        temperature: float,
        loss_scale: float | Callable[[], float],
        tokenizer: Decoder | None,
        resume: bool | int = False,
    ) -> None:
        check_temperature(temperature)
        if not isinstance(record, RecordSpec):
            raise UsageError(f"record: expected a RecordSpec, got {type(record).__name__}")
        if record.contexts or record.grad_cos_every:
            raise UsageError(
                "record: expected neither held-out contexts nor a gradient cosine, which attach does not record, got "
                f"contexts={record.contexts} and grad_cos_every={record.grad_cos_every}; set both to 0"
            )
        self.head = find_head(model)
        self._watched = model
        self._samples = HeadSamples(self.head)
        self._names = argument_names(self.head.model)
        padding = getattr(getattr(self.head.model, "config", None), "pad_token_id", None)
        self._fill = frozenset({0} if padding is None else {0, padding})
        self._labels, self._mask = labels, completion_mask
        self._spec, self._temperature, self._loss_scale = record, temperature, loss_scale
        self._tables = AttachedTables(self.head, record, temperature, tokenizer, out)
        self._resume = resume
        self._handles: list[RemovableHandle] = []
        self._passes: list[WatchedPass] = []
        self._entered, self._first = False, True
        self._known_prompts: set[tuple[int, ...]] = set()  # of this update and the last one
        self._hidden: Tensor | None = None
        self._unclaimed: list[list[bool]] = []  # backbone passes that no pass of the model around them followed

    def __repr__(self) -> str:
        return f"Attachment({self.head.description}, {self._state}, updates={self._tables.updates})"

    def _repr_html_(self) -> str:
        """For notebooks: what is watched, and how much is recorded so far."""
        facts = [
            ("model", self.head.description),
            ("state", self._state),
            ("updates", self._tables.updates),
            ("tokens without a weight", self._tables.unmeasured),
            ("fraction of prompts recorded", self._spec.tokens),
            ("temperature", self._temperature),
            ("folder", self._tables.folder or "in memory"),
        ]
        return html_table("Attachment", "· step(rewards), records()", facts)

    @property
    def _state(self) -> str:
        return "watching" if self._handles else "left" if self._entered else "not entered yet"

    def __deepcopy__(self, memo: dict[int, Any]) -> Attachment:
        return self  # a copy of the model carries its hooks along, which then see that it is another model

    def __enter__(self) -> Attachment:
        model = self.head.model
        hooks = [getattr(hook, "__wrapped__", hook) for hook in model._forward_hooks.values()]
        if any(isinstance(getattr(hook, "__self__", None), Attachment) for hook in hooks):
            raise UsageError(
                f"model: expected one that is not watched, got a {type(model).__name__} that another attach watches "
                "already; leave that first"
            )
        if self._entered:
            raise UsageError("attach: expected to be entered once; call attach again for another run")
        self._tables.open(self._resume)
        self._entered = True
        self._handles = [
            self.head.module.register_forward_hook(self._samples.see),
            self.head.backbone.register_forward_hook(self._after_backbone),
            # torch.compile would trace into the hook, and take what it computes for a part of the model
            model.register_forward_hook(torch.compiler.disable(self._after_model), with_kwargs=True),
        ]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Restore the model; a backward pass that no `step` followed is recorded as the last update."""
        try:
            if kind is None and (any(self._unclaimed) or any(watched.arrived for watched in self._passes)):
                self.step()
        except BaseException:
            self.leave("interrupted")
            raise
        self.leave("complete" if kind is None else "interrupted")

    def leave(self, status: str) -> None:
        """Restore the model and end the run with `status` (complete or interrupted), as leaving the block does."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._hidden = [], None
        self._forget()
        self._tables.close(status)

    def _forget(self) -> None:
        for watched in self._passes:
            watched.remove()
        self._passes, self._unclaimed = [], []

    def batch(self, *, labels: Given = None, completion_mask: Given = None) -> None:
        """Say which tokens count in the coming forward passes; replaces both arguments of `attach`.

        Args:
            labels: as in `attach`.
            completion_mask: as in `attach`.
        """
        self._labels, self._mask = labels, completion_mask

    def step(
        self,
        rewards: Tensor | Sequence[float] | None = None,
        *,
        advantages: Tensor | Sequence[float] | None = None,
        groups: Tensor | Sequence[Any] | None = None,
        old_log_probs: Sequence[Tensor | Sequence[float]] | None = None,
        rows: Tensor | Sequence[int] | None = None,
    ) -> None:
        """Record the update that was made from the backward passes since the last call.

        The update is recorded as a step of its own: of several updates to one batch of rollouts, each counts as a step.

        Args:
            rewards: one number for each sequence of these passes, in their order. Without them responses have no sign.
            advantages: the same.
            groups: what tells the group of each sequence from the others, a number or a name. Without it sequences of
                the same prompt are one group, also where a prompt was drawn twice.
            old_log_probs: for each sequence log π_old of its response tokens that count, in nats. Without it no ratio
                is recorded, and `run.laws` of an objective that needs one is refused.
            rows: to which sequence of the passes each entry of the other arguments belongs, a permutation of
                0 … S − 1; for a loader that shuffles. Without it they are in the order of the passes.

        Raises:
            UsageError: there was no backward pass, one brought no gradient to logits or log-probs, or numbers do not
                fit the sequences.
            OSError: a commit failed (a full disk). Nothing recorded is lost, and the next commit tries again.
        """
        if not self._handles:
            raise UsageError("step: expected a call within `with attach(model) as trace:`")
        update: HandedUpdate | None = None

        def check() -> tuple[int, list[tuple[Any, str]]]:
            nonlocal update
            passes = self.pending()
            number = sum(len(watched.lined) for watched in passes)
            values = in_order(rows, number, rewards=rewards, advantages=advantages, groups=groups, old=old_log_probs)
            update = self._tables.check(
                passes, values["rewards"], values["advantages"], values["groups"], values["old"]
            )
            return update.share()

        shares = self._tables.ranks.agree(check)
        assert update is not None
        self._tables.add(update, shares)
        if self._first:
            self._first = False
            warn_of_another_form(update.passes, self._temperature)
        self._known_prompts = {tuple(prompt) for prompt in update.prompts if prompt}
        self._forget()
        self._tables.commit_when_due()

    def pending(self) -> list[PassRows]:
        """The passes of the update that the next `step` records; raises what `step` would."""
        return [watched.rows for watched in self._caught()]

    @property
    def watching(self) -> bool:
        """Whether the model is being watched."""
        return bool(self._handles)

    def _caught(self) -> list[WatchedPass]:
        """The passes of the update; UsageError where there are none, or a gradient went past one."""
        lost = [watched.what for watched in self._passes if watched.lost]
        if lost or any(self._unclaimed):
            self._forget()
            raise UsageError(
                f"step: expected a gradient through the model's {lost[0] if lost else 'output'}, got a backward pass "
                "without one; compute the loss from the output of the model's own forward pass (output.logits, "
                "output.loss or output.log_probs)"
            )
        caught = [watched for watched in self._passes if watched.arrived]
        if not caught:
            raise UsageError(
                "step: expected a backward pass since the last step, got none; call step after loss.backward(), and "
                "the model with gradients enabled"
            )
        return caught

    def commit(self) -> int:
        """Make the updates so far durable, so that the run can be resumed from a checkpoint that is saved now.

        Returns:
            The number of updates, for `resume` of `attach`; save it with the checkpoint.

        Raises:
            UsageError: records stay in memory.
            OSError: a write failed. Nothing recorded is lost, and the next commit tries again.
        """
        self._tables.commit()
        return self._tables.updates

    @property
    def updates(self) -> int:
        """Updates recorded so far, those before a resumption included."""
        return self._tables.updates

    @property
    def unmeasured(self) -> int:
        """Recorded tokens so far whose weight is missing, because the gradient does not tell it."""
        return self._tables.unmeasured

    def records(self) -> dict[str, pd.DataFrame]:
        """The tables so far.

        Returns:
            Data frames by name: tokens, rollouts and prompts, with the columns of `docs/records.md`. Of several
            processes: what is committed of all of them, and what is not yet of this one.
        """
        return self._tables.frames()

    def _after_backbone(self, module: nn.Module, args: Any, output: Any) -> None:
        if not torch.is_grad_enabled():
            return
        hidden = last_hidden_state(output)
        if hidden.requires_grad:
            reached: list[bool] = []
            hidden.register_hook(note_gradient(reached))
            self._hidden = hidden
            self._unclaimed.append(reached)

    def _after_model(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        (hidden, self._hidden), given = (self._hidden, None), self._samples.take()
        reached, self._unclaimed = self._unclaimed, []
        if module is not self.head.model or not torch.is_grad_enabled():
            return
        logits, log_probs = output_field(output, "logits"), output_field(output, "log_probs")
        flowing = next((x for x in (logits, log_probs, hidden) if x is not None), None)
        if flowing is None:
            raise UsageError(
                f"model: expected a forward pass that returns logits or log_probs or calls its backbone as a module, "
                f"got {type(output).__name__} without them; no gradient of the tokens can be seen"
            )
        if not flowing.requires_grad:
            return
        inputs = dict(zip(self._names, args, strict=False)) | kwargs
        lined = self._line_up(inputs, logits, log_probs)
        keep_rows = self._tables.choose(lined)
        counted = (lined.counts & keep_rows.to(lined.counts.device)[lined.sequence]).reshape(-1)
        keep = counted.nonzero().squeeze(1).to(flowing.device)
        tokens = lined.tokens.reshape(-1)[counted].to(flowing.device)
        if logits is not None:
            if isinstance(getattr(output, "loss", None), Tensor):  # what a model returns may be anything else's by then
                self._samples.check(given, logits)
            capture: Capture = LogitCapture(logits, tokens, keep, self._spec, self._temperature)
        elif hidden is None:
            raise UsageError(
                "model: expected a fused head whose backbone is called as a module, got log_probs without hidden "
                "states; call the model itself, not parts of it"
            )
        elif log_probs is not None:
            capture = FusedCapture(
                output,
                log_probs,
                hidden[:, : log_probs.shape[1]],
                self.head,
                tokens,
                keep,
                self._spec,
                self._temperature,
            )
        else:
            capture = HiddenCapture(hidden, self.head, tokens, keep, self._spec, self._temperature)
        scale = checked_scale(self._loss_scale() if callable(self._loss_scale) else self._loss_scale)
        what = "logits" if logits is not None else "log_probs" if log_probs is not None else "hidden states"
        versions = parameter_versions(self._watched)
        watched = WatchedPass(lined, keep_rows, keep, capture, reached, scale, what, versions)
        watched.watch(flowing, self._passes)
        self._passes.append(watched)

    def _line_up(self, inputs: Mapping[str, Any], logits: Tensor | None, log_probs: Tensor | None) -> LinedUp:
        labels, mask = (given(inputs) if callable(given) else given for given in (self._labels, self._mask))
        if logits is not None:
            if logits.ndim != 3:
                raise UsageError(
                    f"model: expected logits of shape (batch, length, vocabulary), got {tuple(logits.shape)}"
                )
            return self._lined(inputs, logits.shape[1], logits.shape[2], labels, mask)
        # a fused head leaves out the last position, which predicts nothing, or scores every one (shift_labels)
        lined = self._lined(inputs, None, self.head.vocabulary, labels, mask)
        if log_probs is None:
            return lined
        batch, length = lined.tokens.shape
        if log_probs.shape not in ((batch, length - 1), (batch, length)):
            raise UsageError(
                f"model: expected log_probs of shape {(batch, length - 1)} or {(batch, length)}, got "
                f"{tuple(log_probs.shape)}"
            )
        return lined.first(log_probs.shape[1])

    def _lined(self, inputs: Mapping[str, Any], positions: int | None, vocabulary: int, *counting: Any) -> LinedUp:
        labels, mask = counting
        lined = line_up(
            inputs,
            positions,
            vocabulary,
            labels=labels,
            completion_mask=mask,
            known_prompts=self._known_prompts,
            fill=self._fill,
        )
        if lined.unknown:
            warnings.warn(
                f"attach: no token counts in sequence {min(lined.unknown)} of a forward pass ({len(lined.unknown)} of "
                f"{len(lined)}), and no other sequence has a prompt that it begins with: it is not recorded. Give "
                "completion_mask= over the last C positions, so that its prompt is known",
                stacklevel=2,
            )
        self._known_prompts |= {tuple(prompt) for prompt in lined.prompts if prompt}
        return lined
