"""One watched run of a TRL trainer: from what the hooks saw to the run folder and the trainer's logs."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import pandas as pd
from torch import Tensor

from toy_models.end_tokens import end_tokens

from ...errors import UsageError
from ...probes.output_heads import find_head
from ...probes.process_ranks import process_ranks
from ...probes.record_spec import RecordSpec
from ...records.encoding import Columns
from ...records.folders import RUN_FILE, TOKENIZER_FILE, read_run_json
from ...records.reader import Run
from ...records.rows import prompt_rows, rollout_rows
from ...records.writer import RunWriter
from ..run_so_far import continued
from ..scalars import UpdateSums, dead_groups
from ..self_check import check_weights, is_finite
from ..watch_base import WatchBase
from .batches import Generation, Microbatch
from .gradient_split import GradientSplit
from .hooks import TrlHooks
from .info import ENGINE, correctness, run_info
from .panel import Panel, Prompt
from .refusals import check_trainer
from .rows import batch_row, new_prompts, rollouts_of, tokens_of

__all__ = ["Watch", "watch_trl"]


def watch_trl(
    trainer: Any,
    out: str | Path | None,
    record: RecordSpec,
    correct: float | str | None,
    on_error: str,
    prefix: str,
    panel: Sequence[Prompt] | None,
) -> Watch:
    """Put the hooks on a TRL trainer; `analysis.engines.watch.watch` documents the arguments."""
    check_trainer(trainer)
    return Watch(trainer, out, record, correct, on_error, prefix, panel)


class Watch(WatchBase):
    """What `watch` returns: the records of one training, while it runs and afterwards."""

    _no_folder = "temporary"

    def __init__(
        self,
        trainer: Any,
        out: str | Path | None,
        record: RecordSpec,
        correct: float | str | None,
        on_error: str,
        prefix: str,
        panel: Sequence[Prompt] | None,
    ) -> None:
        if getattr(trainer.train, "watched_by", None) is not None:
            raise UsageError(
                f"trainer: expected a {type(trainer).__name__} that is not watched, got one that another watch is on; "
                "train with that one, or leave it first"
            )
        self._trainer, self._spec, self._on_error, self._prefix = trainer, record, on_error, prefix
        self._folder = None if out is None else Path(out)
        if self._folder is not None and (self._folder / RUN_FILE).exists():
            engine = read_run_json(self._folder).get("engine")
            if engine != ENGINE:
                raise UsageError(
                    f"out: expected a new folder, got {self._folder}, which holds a run of {engine}; choose another"
                )
        if self._folder is None and trainer.accelerator.num_processes > 1:
            raise UsageError(
                f"out: expected a folder that all {trainer.accelerator.num_processes} processes share, got None; give "
                "out= the same folder in each of them"
            )
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._writer: RunWriter | None = None
        self._tokenizer = getattr(trainer, "_tokenizer", None) or trainer.processing_class
        self._head = find_head(trainer.model)
        self._head.weight()  # refuses a head that this process does not hold (DeepSpeed ZeRO-3)
        self._panel = Panel(trainer, self._head, record, panel)
        self._split = GradientSplit(trainer, record)
        self._status = "waiting"
        self._known_prompts: set[str] = set()
        self._generation: Generation | None = None
        self._next_step, self._updates, self._checked = 0, 0, False
        self._update = 0  # number of the update under way
        self._sums = UpdateSums()
        self._row: dict[str, Any] = {}
        self._tokens: list[Columns] = []  # of the update under way
        self._filed = 0  # updates filed, over all of training
        self._next_commit = 0  # number of updates from which the next commit is due
        self._in_block = False
        ends = set(end_tokens(self._tokenizer, self._head.model)) | set(getattr(trainer, "eos_token_ids", None) or ())
        self._hooks = TrlHooks(
            trainer,
            self._head,
            record,
            self._decode,
            frozenset(ends),
            correctness(correct, list(trainer.reward_func_names)),
            self,
        )
        self._hooks.install()
        trainer.train.watched_by = self

    def __enter__(self) -> Watch:
        self._in_block = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close("complete" if kind is None else "interrupted")
        self._in_block = False
        if vars(self._trainer).get("train") == self._refuse_another:
            del self._trainer.train

    def _refuse_another(self, *args: Any, **kwargs: Any) -> None:
        raise UsageError("watch: expected one train(), got a second; call analysis.watch again for another run")

    def close(self, status: str = "complete") -> None:
        """Take the hooks away and end the run with `status`; `train()` does so by itself when it ends."""
        if self._hooks.installed:
            self._hooks.restore()
            self.ended(status)

    # -- reading ---------------------------------------------------------------------------------------------------

    @property
    def updates(self) -> int:
        """Optimiser updates recorded, without those that were skipped."""
        return self._updates

    @property
    def run(self) -> Run:
        """The run as it was committed so far, as `load_trace` reads it."""
        if self._writer is None:
            raise UsageError("watch: expected a run that has started, got one before trainer.train(); train first")
        return Run(self._writer.folder)

    def records(self) -> dict[str, pd.DataFrame]:
        """The committed tables.

        Returns:
            Data frames by name: prompts, rollouts, tokens, contexts, flows, updates and steps, with the columns of
            `docs/records.md`.
        """
        run = self.run
        names = ("prompts", "rollouts", "tokens", "contexts", "flows", "updates", "steps")
        return {name: run.table(name) for name in names}

    # -- what the hooks tell ---------------------------------------------------------------------------------------

    @property
    def next_step(self) -> int:
        """See `Observer.next_step`."""
        return self._next_step

    def needs_replay(self, update: int) -> bool:
        """See `Observer.needs_replay`."""
        return not self._checked or self._split.due(update)

    def computed(self, part: Microbatch, log_probs: Tensor) -> None:
        """See `Observer.computed`."""
        if self._split.due(part.update):
            self._split.add(part, log_probs)

    def started(self, global_step: int) -> None:
        """See `Observer.started`."""
        folder, ranks = self._folder, process_ranks()
        if folder is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="rlvr-dynamics-")
            folder = Path(self._temporary.name) / "run"
        self._writer = RunWriter(
            folder,
            run_json=run_info(self._trainer, self._head, self._spec, folder.name),
            resume=global_step or False,
            ranks=ranks,
        )
        if global_step:
            before = continued(Run(folder))
            self._next_step, self._updates = before.next_step, before.updates
            self._known_prompts = set(Run(folder).table("prompts", ["prompt_id"])["prompt_id"])
            self._panel.resume(before.panel)
            if before.step_row is not None and self._rank == 0:
                self._writer.append("steps", _one_row(before.step_row))
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is not None and self._rank == 0:  # so that readers of the folder know the text of tokens
            backend.save(str(folder / TOKENIZER_FILE))
        self._status, self._filed = "recording", global_step
        self._next_commit = global_step + self._spec.chunk

    def generated(self, generation: Generation) -> None:
        """See `Observer.generated`."""
        assert self._writer is not None
        self._end_step()
        self._generation = generation
        self._next_step = generation.step + 1
        held_out = [row for row in self._panel.fix(generation) if row.prompt_id not in self._known_prompts]
        self._known_prompts |= {row.prompt_id for row in held_out}
        prompts = held_out + new_prompts(generation, self._known_prompts)
        if prompts:
            self._writer.append("prompts", prompt_rows(prompts))
        self._writer.append("rollouts", rollout_rows(rollouts_of(generation, self._rank)))

    def _end_step(self) -> None:
        assert self._writer is not None
        if self._generation is not None and self._rank == 0:
            args = self._trainer.args
            updates = -(-args.steps_per_generation // args.gradient_accumulation_steps)
            self._writer.append("steps", _one_row(batch_row(self._generation, updates_a_batch=updates)))
        self._generation = None

    def differentiated(self, parts: list[Microbatch], lr: float, grad_norm: float | None, skipped: bool) -> None:
        """See `Observer.differentiated`."""
        assert self._writer is not None
        self._sums, self._tokens, factor, checked = UpdateSums(), [], 1.0, bool(parts)
        self._update = self._trainer.state.global_step
        for part in parts:
            weights = part.take()
            overflow = getattr(self._trainer.accelerator, "scaler", None) is not None and not is_finite(weights)
            if not self._checked and not overflow:
                check_weights(part, weights)
            self._sums.add(part, weights)
            factor = weights.factor
            self._tokens.append(tokens_of(part, weights))
            checked &= not overflow  # the loss scale of fp16 overflowed: the update is skipped
        self._checked |= checked
        generation = self._generation
        first = parts[0] if parts else None
        limit = float(self._trainer.args.max_grad_norm or 0.0)
        clip = None
        if grad_norm is not None and limit > 0:
            clip = min(1.0, limit / (grad_norm + 1e-6))  # as torch.nn.utils.clip_grad_norm_ does
        self._row = {
            "update": self._update,
            "step": 0 if generation is None else generation.step,
            "epoch": 0 if first is None else first.epoch,
            "minibatch": 0 if first is None else first.minibatch,
            "normalizer": None if first is None else first.normalizer,
            "lr": lr,
            "grad_norm_total": grad_norm,
            "clip_coef": clip,
        } | self._split.take(factor)
        for columns in self._panel.before(self._update):
            self._writer.append("contexts", columns)

    def updated(self, skipped: bool) -> None:
        """See `Observer.updated`."""
        if self.failed:
            self._sums.fail()
        self._sums.over_processes(self._added)  # every process takes part
        if self._sums["failed"]:
            with self.guard():
                if not self.failed:
                    raise UsageError("watch: recording has failed in another process; its own message says why")
            self.close("interrupted")
            return
        with self.guard():
            self._file_update(skipped)

    def begun(self) -> None:
        """See `Observer.begun`. No process has failed since `updated`, so that all of them commit or none."""
        if self._filed >= self._next_commit:
            if self._generation is not None and self._trainer._step % self._generation.microbatches == 0:
                self._end_step()
            self._commit()

    def _file_update(self, skipped: bool) -> None:
        assert self._writer is not None
        for columns in self._tokens:
            self._writer.append("tokens", columns)
        self._tokens, self._filed = [], self._update + 1
        for columns in self._panel.after(self._update):
            self._writer.append("flows", columns)
        self._updates += not skipped
        if self._generation is not None:
            self._generation.updates += not skipped
            if self._row["epoch"] == 0:
                self._generation.entropy.append((self._sums["entropy"], self._sums["tokens"]))
        if self._rank == 0:
            self._writer.append("updates", _one_row(self._row | {"skipped": skipped} | self._sums.columns()))
        values = self._sums.scalars() | {"updates": float(self._updates)}
        if self._generation is not None:
            values["dead_groups"] = dead_groups(self._generation.signs, self._generation.groups)
        if self._row.get("grad_cos") is not None:
            values["grad_cos"] = self._row["grad_cos"]
        metrics = self._trainer._metrics["train"]
        for name, value in values.items():
            metrics[f"{self._prefix}{name}"].append(value)

    def saved(self, last: bool) -> None:
        """See `Observer.saved`."""
        if last:
            self._end_step()
        self._commit()

    def ended(self, status: str) -> None:
        """See `Observer.ended`."""
        self._status = status = "interrupted" if self.failed else status
        if self._in_block and "train" not in vars(self._trainer):
            self._trainer.train = self._refuse_another
        if self._writer is None:
            return
        try:
            if not self.failed and (status == "complete" or self._trainer.accelerator.num_processes == 1):
                self._end_step()  # of several processes only this one may have been interrupted, and none would join
                self._write()
            self._writer.finish(status)
        except OSError as error:
            self._status = "interrupted"
            if self._on_error == "stop" and status == "complete":
                raise
            warnings.warn(f"analysis.watch: the last commit failed: {error}", stacklevel=2)

    def _commit(self) -> None:
        """Commit what was filed. Where that fails and training goes on, nothing is lost: the next commit has it all."""
        self._next_commit = self._filed + self._spec.chunk
        try:
            self._write()
        except OSError as error:
            if self._on_error == "stop":
                raise
            warnings.warn(
                f"analysis.watch: a commit failed ({error}); it is tried again at update {self._next_commit}",
                stacklevel=2,
            )

    def _write(self) -> None:
        assert self._writer is not None
        if self._filed > (self._writer.committed_step or 0):
            self._writer.commit(self._filed, {})

    def _added(self, values: Tensor) -> Tensor:
        """The sum over processes."""
        accelerator = self._trainer.accelerator
        if accelerator.num_processes == 1:
            return values
        summed: Tensor = accelerator.reduce(values.to(accelerator.device), reduction="sum")
        return summed

    @property
    def _rank(self) -> int:
        return int(self._trainer.accelerator.process_index)

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids))


def _one_row(row: dict[str, Any]) -> dict[str, Any]:
    return {name: [value] for name, value in row.items()}
