"""`watch` for any other Trainer of transformers: TRL's SFT, DPO and KTO trainers, and your own subclasses.

There are no rollouts here and no rewards: a sequence of the data is filed as a rollout whose response is what its
labels count. Everything else is `attach`, which this attaches when training begins, steps after each optimiser step and
takes away when training ends.

Weights are those of the update's loss: the factor of gradient accumulation, which is part of that loss, stays in; the
mean over processes and the scale of mixed precision are undone, w = −(∂L_process/∂log π_y)/(processes · scale). So a
run of two processes records what a run of one does on the same data. Which tokens count is decided by the first of the
following that is present, so that a prompt is never taken for a response:

    labels of the model's call          SFT, DPO, KTO with a fused head
    labels among the trainer's inputs   a loss of the trainer's own (label smoothing, `compute_loss_func`)
    completion_mask among them          the same, for trainers whose data has no labels

The trainer's logs get, of the recorded tokens of each update, averaged over the updates since the last log:

    entropy                     mean H of the distribution that predicts the token (nats)
    weight_pos, weight_neg      Σ w over w > 0;  Σ |w| over w < 0
    lambda                      weight_pos / weight_neg; missing where no weight is negative
    dentropy_pos, dentropy_neg  mean first-order change of H by the token's own direction, by the sign of w
    squeezed_neg                fraction of the tokens with w < 0 and π_y < Σ π²
    updates                     updates so far
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from transformers import TrainerCallback

from ..errors import UsageError
from ..laws import entropy_change, squeeze_boundary
from ..probes.attached_tables import PassRows
from ..probes.attachment import Attachment
from ..probes.output_heads import find_head
from ..probes.process_ranks import process_ranks
from ..probes.record_spec import RecordSpec
from ..records.reader import Run
from .watch_base import WatchBase

__all__ = ["TrainerWatch", "watch_other"]

_HOOKED = ("train", "compute_loss", "log")


def watch_other(trainer: Any, out: str | Path | None, record: RecordSpec, on_error: str, prefix: str) -> TrainerWatch:
    """Record what each update of a Trainer does to the tokens of its data; call it before `trainer.train()`.

    Args:
        trainer: a `transformers.Trainer` of a causal LM.
        out: a new run folder; committed every `record.chunk` updates and with each checkpoint. With
            `train(resume_from_checkpoint=…)` the folder of that run, whose later commits are dropped. None keeps the
            records in memory.
        record: what is recorded, and how often.
        on_error: what an error of recording in a forward pass or at the end of an update does: "stop" raises it, "warn"
            warns and lets training go on without records.
        prefix: of the names in the trainer's logs.

    Returns:
        The watch; it ends with `train()`, or with the block where it is used with `with`.

    Raises:
        UsageError: what is not a Trainer, is watched already, or cannot be watched (DeepSpeed, a batch size that is
            searched for).

    Example:
        >>> analysis.watch(SFTTrainer(model, args=config, train_dataset=data), out="runs/sft")  # doctest: +SKIP
    """
    kind = type(trainer).__name__
    if missing := [name for name in (*_HOOKED, "add_callback", "model", "args") if not hasattr(trainer, name)]:
        raise UsageError(
            f"trainer: expected a Trainer of transformers, got {kind} without {missing[0]}; for a loop of your own use "
            "analysis.attach(model, …)"
        )
    if getattr(trainer.train, "watched_by", None) is not None:
        raise UsageError(
            f"trainer: expected a {kind} that is not watched, got one that another watch is on; train with that one, "
            "or leave it first"
        )
    if getattr(trainer, "is_deepspeed_enabled", False):
        raise UsageError(
            f"trainer: expected a {kind} whose processes hold the model's head, got one under DeepSpeed; train with "
            "DDP or FSDP"
        )
    if getattr(trainer.args, "auto_find_batch_size", False):
        raise UsageError(
            "trainer: expected a fixed batch size, got auto_find_batch_size=True, which starts training again after an "
            "update was recorded; set per_device_train_batch_size"
        )
    if record.contexts or record.grad_cos_every:
        raise UsageError(
            f"record: expected no held-out contexts and no gradient cosine for {kind}, which samples no rollouts, got "
            f"contexts={record.contexts} and grad_cos_every={record.grad_cos_every}; set both to 0"
        )
    return TrainerWatch(trainer, out, record, on_error, prefix)


class TrainerWatch(WatchBase):
    """What `watch` returns for a Trainer without rollouts: its records, while it trains and afterwards."""

    def __init__(self, trainer: Any, out: str | Path | None, record: RecordSpec, on_error: str, prefix: str) -> None:
        self._trainer, self._spec, self._on_error, self._prefix = trainer, record, on_error, prefix
        self._folder = None if out is None else Path(out)
        self._head = find_head(trainer.model)
        self._ranks = process_ranks()
        self._trace: _Guarded | None = None
        self._inputs: Mapping[str, Any] = {}
        self._sums: list[dict[str, float]] = []
        self._status = "waiting"
        self._callback = _Callback(self)
        self._before = {name: vars(trainer)[name] for name in _HOOKED if name in vars(trainer)}
        for name, hook in {"train": self._train, "compute_loss": self._compute_loss, "log": self._log}.items():
            setattr(
                trainer, name, functools.wraps(getattr(trainer, name))(functools.partial(hook, getattr(trainer, name)))
            )
        trainer.train.watched_by = self
        trainer.add_callback(self._callback)

    def __enter__(self) -> TrainerWatch:
        return self

    @property
    def updates(self) -> int:
        """Updates recorded so far, those before a resumption included."""
        return 0 if self._trace is None else self._trace.updates

    @property
    def run(self) -> Run:
        """The run as it was committed so far, as `load_trace` reads it."""
        if self._folder is None:
            raise UsageError("watch: expected a run folder, got records that stay in memory; give out= to watch")
        if self._trace is None:
            raise UsageError("watch: expected a run that has started, got one before trainer.train(); train first")
        return Run(self._folder)

    def records(self) -> dict[str, pd.DataFrame]:
        """The tables so far.

        Returns:
            Data frames by name: tokens, rollouts and prompts, with the columns of `docs/records.md`.
        """
        if self._trace is None:
            raise UsageError("watch: expected a run that has started, got one before trainer.train(); train first")
        return self._trace.records()

    def close(self, status: str = "complete") -> None:
        """Take the hooks away and end the run with `status`; `train()` does so by itself when it ends."""
        if self._status == "left":
            return
        for name in _HOOKED:
            delattr(self._trainer, name)
        vars(self._trainer).update(self._before)
        self._trainer.remove_callback(self._callback)
        self._status = "left"
        if self._trace is not None:
            self._trace.leave("interrupted" if self._error is not None else status)

    # -- what the trainer does -------------------------------------------------------------------------------------

    def _train(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            output = original(*args, **kwargs)
        except BaseException:
            self.close("interrupted")
            raise
        self.close()
        return output

    def _compute_loss(self, original: Callable[..., Any], model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        self._inputs = dict(inputs) if isinstance(inputs, Mapping) else {}  # a loss may take the labels out
        try:
            return original(model, inputs, *args, **kwargs)
        finally:
            self._inputs = {}

    def _log(self, original: Callable[..., Any], logs: dict[str, float], *args: Any, **kwargs: Any) -> Any:
        if "loss" in logs and self._sums:
            values = [_scalars(sums) for sums in self._sums]
            self._sums = []
            for name in dict.fromkeys(name for value in values for name in value):
                known = [value[name] for value in values if name in value]
                logs[f"{self._prefix}{name}"] = sum(known) / len(known)
            logs[f"{self._prefix}updates"] = float(self.updates)
        return original(logs, *args, **kwargs)

    def began(self, global_step: int) -> None:
        """Attach, at the beginning of training or of a resumption."""
        resume = global_step if global_step and self._folder is not None else False
        tokenizer = getattr(self._trainer, "processing_class", None)
        with self.guard():
            trace = _Guarded(
                self._trainer.model,
                self._folder,
                self._labels,
                None,
                self._spec,
                1.0,
                self._scale,
                tokenizer if hasattr(tokenizer, "decode") else None,
                resume,
            )
            trace.watch = self
            trace.__enter__()
            self._trace, self._status = trace, "recording"

    def stepped(self) -> None:
        """Record the update that the optimiser has just made; every process meets here."""
        trace = self._trace
        if trace is None or not trace.watching:
            return
        with self.guard():
            if self._error is not None:  # in a forward pass of this process: the others wait for it to be told
                self._ranks.agree(self._raise)
            passes = trace.pending()
            trace.step(groups=[tuple(prompt) for rows in passes for prompt in rows.lined.prompts])
            everyone = self._ranks.all(_sums(passes))
            self._sums.append({name: sum(sums[name] for sums in everyone) for name in everyone[0]})
        if self._error is not None:
            trace.leave("interrupted")

    def saved(self) -> None:
        """Commit, so that the checkpoint that was just saved can be resumed from."""
        if self._trace is not None and self._trace.watching and self._folder is not None:
            with self.guard():
                self._trace.commit()

    def _raise(self) -> None:
        assert self._error is not None
        raise self._error

    def _scale(self) -> float:
        scaler = getattr(self._trainer.accelerator, "scaler", None)
        return float(self._trainer.accelerator.num_processes) * (1.0 if scaler is None else float(scaler.get_scale()))

    def _labels(self, call: Mapping[str, Any]) -> Tensor | None:
        """The labels of a forward pass, None where its own are to be used."""
        if call.get("labels") is not None or call.get("shift_labels") is not None:
            return None
        ids, labels, mask = call.get("input_ids"), self._inputs.get("labels"), self._inputs.get("completion_mask")
        if isinstance(ids, Tensor):
            if isinstance(labels, Tensor) and labels.shape == ids.shape:
                return labels
            if isinstance(mask, Tensor) and mask.shape == ids.shape:
                return ids.masked_fill(mask == 0, -100)
        raise UsageError(
            "trainer: expected labels or a completion_mask of the shape of input_ids among what the model or the loss "
            f"is called with, got {', '.join(sorted({*call, *self._inputs})) or 'neither'}; without them a prompt "
            "cannot be told from a response, so let the data collator add labels"
        )


class _Guarded(Attachment):
    """An attachment whose errors in a forward pass are those of a watch."""

    watch: TrainerWatch

    def _after_backbone(self, module: Any, args: Any, output: Any) -> None:
        if not self.watch.failed:
            with self.watch.guard():
                super()._after_backbone(module, args, output)

    def _after_model(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if not self.watch.failed:
            with self.watch.guard():
                super()._after_model(module, args, kwargs, output)


class _Callback(TrainerCallback):
    def __init__(self, watch: TrainerWatch) -> None:
        self._watch = watch

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._watch.began(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._watch.stepped()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._watch.saved()


def _sums(passes: list[PassRows]) -> dict[str, float]:
    """Sums over the recorded tokens of an update whose weight is known."""
    sums = dict.fromkeys(("tokens", "entropy", "push_pos", "push_neg", "pos", "neg", "d_pos", "d_neg", "squeezed"), 0.0)
    for rows in passes:
        known = torch.isfinite(rows.weight)
        weight = rows.weight[known].double()
        stats = rows.stats.map(functools.partial(_known, known=known))
        change = entropy_change(stats, weight, torch.ones_like(weight))
        sums["tokens"] += len(weight)
        sums["entropy"] += float(stats.entropy.sum())
        for sign, chosen in (("pos", weight > 0), ("neg", weight < 0)):
            sums[f"push_{sign}"] += float(weight[chosen].abs().sum())
            sums[sign] += float(chosen.sum())
            sums[f"d_{sign}"] += float(change[chosen].sum())
        sums["squeezed"] += float(((weight < 0) & (squeeze_boundary(stats) > 0)).sum())
    return sums


def _known(values: Tensor, known: Tensor) -> Tensor:
    return (values.double() if values.is_floating_point() else values)[known]


def _scalars(sums: Mapping[str, float]) -> dict[str, float]:
    """The numbers of the module's head; one that would divide by nothing is left out."""
    ratios = {
        "entropy": ("entropy", "tokens"),
        "lambda": ("push_pos", "push_neg"),
        "dentropy_pos": ("d_pos", "pos"),
        "dentropy_neg": ("d_neg", "neg"),
        "squeezed_neg": ("squeezed", "neg"),
    }
    values = {"weight_pos": sums["push_pos"], "weight_neg": sums["push_neg"]}
    return values | {name: sums[above] / sums[below] for name, (above, below) in ratios.items() if sums[below] > 0}
