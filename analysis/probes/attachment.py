"""`attach`: records from a training loop of one's own, read off the forward and backward passes as they happen.

    with analysis.attach(model, out="runs/mine") as trace:
        for batch in batches:
            loss = my_loss(model(**batch), …)
            loss.backward()
            optimizer.step(); optimizer.zero_grad()
            trace.step(rewards=…)

Hooks on the model see each forward pass that has a graph, and hooks on its logits (on the log-probs of a fused head, on
the hidden states under a fused loss) the gradient of the user's own loss, whatever that is: see `capture.py` for what
is worked out, `passes.py` for which token a position predicts. Everything between two calls of `step` is one update,
however many passes it took; a pass that no backward pass came through is no part of it. Passes without a graph
(`torch.no_grad`, generation) are not looked at.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..laws.checks import check_temperature
from .attached_tables import AttachedTables, PassRows
from .capture import FusedCapture, HiddenCapture, LogitCapture
from .output_heads import find_head, last_hidden_state
from .record_spec import RecordSpec
from .token_alignment import LinedUp, line_up

__all__ = ["Attachment", "attach"]

Given = Tensor | Callable[[Mapping[str, Any]], Tensor] | None


def attach(
    model: nn.Module,
    *,
    out: str | Path | None = None,
    labels: Given = None,
    completion_mask: Given = None,
    record: RecordSpec | None = None,
    temperature: float = 1.0,
    loss_scale: float | Callable[[], float] = 1.0,
    tokenizer: Any = None,
) -> Attachment:
    """Watch the training of `model`, a causal LM of transformers, bare or wrapped; a context manager.

    out              a new run folder, committed every `record.chunk` updates, read by `load_trace`. With several
                     processes (torch.distributed) each writes `out/r<rank>`. None keeps the records in memory
    labels           which tokens count and what they are, instead of the labels that the model is called with: (B, T)
                     with −100 where a token does not count, or a function of the forward pass's arguments that gives it
    completion_mask  (B, T), or (B, C) for the last C positions, true where a token was sampled; or such a function.
                     Without labels and mask every token that is not padding counts
    record           what is recorded (`RecordSpec`)
    temperature      T of the law softmax(logits / T) that the loss is about
    loss_scale       what the loss was multiplied by before the backward pass, as mixed precision does
                     (`scaler.get_scale`); weights are divided by it. Gradient accumulation, averaging over processes
                     and other factors stay as they are: weights are those of the loss differentiated in this process
    tokenizer        for the text of prompts and responses; without it the text is empty

    Cost: one pass over the logits of the recorded tokens for the statistics, one over logits and their gradient for the
    weight. With a fused head the product of hidden states and head once more, with a fused loss three times; the
    statistics are then of that product in float32. Logits are held until their backward pass.
    Raises UsageError for a model that is no causal LM or has a head of an unknown kind, one that is watched already,
    a folder that holds a run; within the loop for tokens that do not fit, and where a backward pass was seen that
    brought no gradient to logits or log-probs.
    """
    return Attachment(model, out, labels, completion_mask, record or RecordSpec(), temperature, loss_scale, tokenizer)


class Attachment:
    """What `attach` gives; enter it with `with`."""

    def __init__(
        self,
        model: nn.Module,
        out: str | Path | None,
        labels: Given,
        completion_mask: Given,
        record: RecordSpec,
        temperature: float,
        loss_scale: float | Callable[[], float],
        tokenizer: Any,
    ) -> None:
        check_temperature(temperature)
        if not isinstance(record, RecordSpec):
            raise UsageError(f"record: expected a RecordSpec, got {type(record).__name__}")
        self.head = find_head(model)
        self._names = list(inspect.signature(self.head.model.forward).parameters)
        self._labels, self._mask = labels, completion_mask
        self._spec, self._temperature, self._loss_scale = record, temperature, loss_scale
        self._tables = AttachedTables(self.head, record, temperature, tokenizer, out)
        self._handles: list[Any] = []
        self._passes: list[_Pass] = []
        self._entered = False
        self._hidden: Tensor | None = None
        self._unclaimed: list[list[bool]] = []  # backbone passes that no pass of the model around them followed

    def __deepcopy__(self, memo: dict[int, Any]) -> Attachment:
        return self  # a copy of the model carries its hooks along, which then see that it is another model

    def __enter__(self) -> Attachment:
        model = self.head.model
        if any(isinstance(getattr(hook, "__self__", None), Attachment) for hook in model._forward_hooks.values()):
            raise UsageError(
                f"model: this {type(model).__name__} is watched by another attach already; leave that first"
            )
        if self._entered:
            raise UsageError("attach: expected to be entered once; call attach again for another run")
        self._tables.open()
        self._entered = True
        self._handles = [
            self.head.backbone.register_forward_hook(self._after_backbone),
            model.register_forward_hook(self._after_model, with_kwargs=True),
        ]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Restore the model; a backward pass that no `step` followed is filed as the last update."""
        try:
            if kind is None and (any(self._unclaimed) or any(one.caught or one.reached for one in self._passes)):
                self.step()
        except BaseException:
            self._leave("interrupted")
            raise
        self._leave("complete" if kind is None else "interrupted")

    def _leave(self, status: str) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles, self._hidden = [], None
        self._forget()
        self._tables.close(status)

    def _forget(self) -> None:
        for one in self._passes:
            one.capture.remove()
        self._passes, self._unclaimed = [], []

    def batch(self, *, labels: Given = None, completion_mask: Given = None) -> None:
        """What the coming forward passes are of: takes the place of both arguments of `attach`."""
        self._labels, self._mask = labels, completion_mask

    def step(
        self, rewards: Tensor | Sequence[float] | None = None, *, advantages: Tensor | Sequence[float] | None = None
    ) -> None:
        """An update has been made from the backward passes since the last call.

        `rewards` and `advantages` have one number for each sequence that went through them, in the order of the passes.
        The update is filed as a step of its own: with several updates to one batch of rollouts, each counts as a step.

        Raises UsageError where there was no backward pass, where one was seen that brought no gradient to logits or
        log-probs, and for numbers that do not fit. OSError where a commit fails (a full disk); nothing filed is lost,
        and the next commit tries again.
        """
        if not self._handles:
            raise UsageError("step: expected a call within `with attach(model) as trace:`")
        lost = [one.what for one in self._passes if one.reached and not one.caught]
        if lost or any(self._unclaimed):
            self._forget()
            raise UsageError(
                "step: a backward pass was seen, but no gradient came through the model's "
                f"{lost[0] if lost else 'output'}; the loss must be computed from the output of the model's own "
                "forward pass (output.logits, output.loss or output.log_probs)"
            )
        caught = [one for one in self._passes if one.caught]
        if not caught:
            raise UsageError(
                "step: no backward pass since the last step; call it after loss.backward(), and the model with its "
                "gradient on"
            )
        self._tables.add([one.rows for one in caught], rewards, advantages)
        self._forget()
        self._tables.commit_when_due()

    def records(self) -> dict[str, Any]:
        """The tables so far as pandas data frames: tokens, rollouts and prompts, with the columns of the schema."""
        return self._tables.frames()

    def _after_backbone(self, module: nn.Module, args: Any, output: Any) -> None:
        if not torch.is_grad_enabled():
            return
        hidden = last_hidden_state(output)
        if hidden.requires_grad:
            reached: list[bool] = []
            hidden.register_hook(_note(reached))
            self._hidden = hidden
            self._unclaimed.append(reached)

    def _after_model(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        hidden, self._hidden = self._hidden, None
        reached, self._unclaimed = self._unclaimed, []
        if module is not self.head.model or not torch.is_grad_enabled():
            return
        logits, log_probs = _field(output, "logits"), _field(output, "log_probs")
        flowing = next((x for x in (logits, log_probs, hidden) if x is not None), None)
        if flowing is None:
            raise UsageError(
                f"model: its forward pass returned neither logits nor log_probs ({type(output).__name__}) and did not "
                "call its backbone as a module, so no gradient of the tokens can be seen"
            )
        if not flowing.requires_grad:
            return
        inputs = dict(zip(self._names, args, strict=False)) | kwargs
        lined = self._line_up(inputs, logits, log_probs)
        keep_rows = self._tables.choose(lined)
        counted = (lined.counts & keep_rows.to(lined.counts.device)[:, None]).reshape(-1)
        keep = counted.nonzero().squeeze(1).to(flowing.device)
        tokens = lined.tokens.reshape(-1)[counted].to(flowing.device)
        if logits is not None:
            capture: Any = LogitCapture(logits, tokens, keep, self._spec, self._temperature)
        elif hidden is None:
            raise UsageError(
                "model: its fused head gave log_probs, but its backbone was not called as a module, so "
                "that its hidden states are not known"
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
        scale = self._loss_scale() if callable(self._loss_scale) else self._loss_scale
        what = "logits" if logits is not None else "log_probs" if log_probs is not None else "hidden states"
        self._passes.append(_Pass(lined, keep_rows, keep, capture, reached, scale, what))

    def _line_up(self, inputs: Mapping[str, Any], logits: Tensor | None, log_probs: Tensor | None) -> LinedUp:
        labels, mask = (given(inputs) if callable(given) else given for given in (self._labels, self._mask))
        if logits is not None:
            if logits.ndim != 3:
                raise UsageError(
                    f"model: expected logits of shape (batch, length, vocabulary), got {tuple(logits.shape)}"
                )
            return line_up(inputs, logits.shape[1], logits.shape[2], labels=labels, completion_mask=mask)
        if log_probs is None:
            return line_up(inputs, None, self.head.vocabulary, labels=labels, completion_mask=mask)
        # a fused head leaves out the last position, which predicts nothing, or scores every one (shift_labels)
        lined = line_up(inputs, None, self.head.vocabulary, labels=labels, completion_mask=mask)
        batch, length = lined.tokens.shape
        if log_probs.shape not in ((batch, length - 1), (batch, length)):
            raise UsageError(
                f"model: expected log_probs of shape {(batch, length - 1)} or {(batch, length)}, got "
                f"{tuple(log_probs.shape)}"
            )
        return lined.first(log_probs.shape[1])


class _Pass:
    """One forward pass of the update that is under way."""

    def __init__(
        self,
        lined: LinedUp,
        keep_rows: Tensor,
        keep: Tensor,
        capture: Any,
        reached: list[list[bool]],
        scale: float,
        what: str,
    ) -> None:
        self.lined, self.keep_rows, self.keep, self.capture = lined, keep_rows, keep, capture
        self._reached, self._scale, self.what = reached, scale, what

    @property
    def caught(self) -> bool:
        return bool(self.capture.caught)

    @property
    def reached(self) -> bool:
        """Whether a backward pass came by the hidden states."""
        return any(self._reached)

    @cached_property
    def rows(self) -> PassRows:
        """What was caught, read once."""
        weight, residual, entropy_weight = self.capture.take()
        width = self.lined.tokens.shape[1]
        return PassRows(
            self.lined,
            self.keep_rows,
            self.keep // width,
            self.keep % width,
            self.capture.stats,
            weight / self._scale,
            residual,
            entropy_weight,
        )


def _note(reached: list[bool]) -> Callable[[Tensor], None]:
    def hook(gradient: Tensor) -> None:
        reached.append(True)

    return hook


def _field(output: Any, name: str) -> Tensor | None:
    if isinstance(output, tuple):  # return_dict=False: the loss may come first
        found = [x for x in output if isinstance(x, Tensor) and x.ndim == 3] if name == "logits" else []
        return found[0] if found else None
    value = getattr(output, name, None)
    return value if isinstance(value, Tensor) else None
