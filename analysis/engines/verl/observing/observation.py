"""One observed training by verl: from what the engine saw to the run folder and to verl's logs.

Errors of recording are remembered and not raised where they happen: other ranks are on their way to a collective call
and would wait for ever. All ranks meet at the start of an update, before its optimiser step and at the end of a batch;
there they learn of an error of any of them, and all stop training (`on_error="stop"`) or all stop recording ("warn").

Commits are made where a batch of rollouts ends: when `chunk` updates have been made since the last one, with every
checkpoint of verl, and after the last batch of the training, with which the run is complete. verl ends its workers
without a word; a training that ends in another way keeps what was committed and stays "running", see `finish`.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor
from verl.utils import tensordict_utils as tu

from ....errors import UsageError
from ....records.folders import TOKENIZER_FILE
from ....records.ranks import Ranks
from ....records.reader import Run
from ....records.rows import TokenColumns, prompt_rows, rollout_rows, token_rows
from ....records.writer import RunWriter
from ...run_so_far import continued
from ...scalars import UpdateSums, dead_groups
from ...self_check import check_weights, is_finite
from ..left_out import fetch
from .facts import Marker, of_first_update, run_info
from .parts import ObservedPart
from .record_settings import RecordSettings
from .response_rows import ResponseRows
from .rollouts import RolloutBatch, global_step_of, left_out_of, read_rollouts
from .token_columns import tokens_of

__all__ = ["PREFIX", "ROW", "Observation"]

ROW = "dynamics_row"  # key of a minibatch while it is cut into micro batches: the number of each row
PREFIX = "dynamics/"
_INSTEAD = "Set VERL_ENGINE_VENDOR to nothing to train without records"


class Observation:
    """The records of one training, of this process.

    Args:
        settings: what is recorded, and where.
        engine: verl's engine, after `initialize`.
        ranks: the processes that train.
        end_ids: tokens that end a response.
        total_steps: batches of the whole training; 0 where it is not known, so that each batch is committed.
    """

    def __init__(
        self, settings: RecordSettings, engine: Any, ranks: Ranks, end_ids: frozenset[int], total_steps: int
    ) -> None:
        self.settings, self._ranks, self._ends, self._total = settings, ranks, end_ids, total_steps
        self._info = run_info(settings, engine, ranks.count)
        self._tokenizer = engine.model_config.tokenizer
        self._writer: RunWriter | None = None
        self._error: Exception | None = None
        self._ended, self._status = False, "running"  # whether recording has ended, in all ranks, and how
        self._described = False  # run.json has what the first update told
        self._checked = False  # a whole update was compared with verl's loss
        self._known_prompts: set[str] = set()
        self._last_step = -1
        self._updates = 0  # filed, over all of training, skipped ones included
        self._made = 0  # without those that were skipped
        self._batch: RolloutBatch | None = None
        self._local: Tensor | None = None  # (B,) numbers of the minibatch's rows among this process's rollouts
        self._chosen: frozenset[str] = frozenset()
        self._parts: list[ObservedPart] = []
        self._waiting: list[tuple[TokenColumns, Any]] = []  # tokens of the batch, until its rollouts have numbers
        self._of_batch: list[UpdateSums] = []
        self._update_sums = UpdateSums()

    # -- the run folder --------------------------------------------------------------------------------------------

    @property
    def recording(self) -> bool:
        """Whether anything is still recorded."""
        return not self._ended

    @property
    def failed(self) -> bool:
        """Whether recording has failed in this process; it ends where the ranks meet next."""
        return self._error is not None

    @property
    def needs_replay(self) -> bool:
        """Whether the weights of this update are compared with a replay of its loss."""
        return not self._checked and self._error is None

    def open(self, marker: Marker | None = None) -> None:
        """Make the run folder, or open it again after the updates of a checkpoint. Once; every rank calls it.

        Raises:
            UsageError: the folder holds a run although verl starts anew, or another run than the checkpoint's.
        """
        if self._writer is not None:
            return
        out = self.settings.out
        if marker is not None:
            self._ranks.agree(lambda: marker.check(out))
        self._writer = RunWriter(
            out, run_json=self._info, resume=False if marker is None else marker.updates, ranks=self._ranks
        )
        if marker is not None and marker.updates:
            run = Run(out)
            before = continued(run)
            self._last_step, self._made, self._updates = before.next_step - 1, before.updates, marker.updates
            self._known_prompts = set(run.table("prompts", ["prompt_id"])["prompt_id"])
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is not None and self._ranks.rank == 0:  # so that readers of the folder know the text of tokens
            backend.save(str(out / TOKENIZER_FILE))

    def checkpoint(self, folder: Path) -> None:
        """verl saved a checkpoint in `folder`: commit, and note there what was recorded until then."""
        if self._writer is None or (self._ended and self._status != "complete"):
            return
        if not self._ended:
            self._commit()
        if (self._writer.committed_step or 0) == self._updates and self._ranks.rank == 0:
            info = self._writer.info
            self._try(
                lambda: Marker(info["run_id"], info["created"], self._updates).write(folder), "a checkpoint's note"
            )

    # -- one update ------------------------------------------------------------------------------------------------

    def begin_update(self, data: TensorDict) -> None:
        """A minibatch has come; its rows get numbers. Every rank calls it."""
        self._release()
        self._update_sums, found, step = UpdateSums(), None, None
        with self._guard():
            self.open()
            rows = ResponseRows.of(data)
            found = read_rollouts(data, rows, rows.of_responses(data["response_mask"]).bool())
            step = global_step_of(data)
        names = [] if found is None else [rollout.prompt_id for rollout in found if rollout is not None]
        everyone = self._meet((names, step))
        if self._ended or found is None:
            return
        if self._batch is None:
            steps = [other for _, other in everyone if other is not None]
            self._batch = RolloutBatch(max([step - 1 for step in steps] + [self._last_step + 1]))
        self._local = self._batch.add(found)
        self._batch.name_left_out(self._local, left_out_of(data))
        every_name = [name for own, _ in everyone for name in own]
        self._chosen = self.settings.spec.drawn(self._batch.step, every_name)
        data[ROW] = torch.arange(len(found), device=data["input_ids"].device)

    def begin_part(self, data: TensorDict) -> ObservedPart | None:
        """The forward pass of a micro batch is next."""
        part = None
        with self._guard():
            assert self._batch is not None
            assert self._local is not None
            places = ResponseRows.of(data)
            mask = places.of_responses(data["response_mask"]).bool()
            rows = self._local[data[ROW].cpu()]
            names = [self._batch.rollouts[row].prompt_id if row >= 0 else None for row in rows.tolist()]
            chosen = torch.tensor([name in self._chosen for name in names], dtype=torch.bool, device=mask.device)
            temperature = tu.get(data, "temperature")

            def of_responses(key: str) -> Tensor | None:
                return None if data.get(key, None) is None else places.of_responses(data[key])

            advantages = of_responses("advantages")
            assert advantages is not None
            part = ObservedPart(
                update=self._updates,
                epoch=self._batch.epoch,
                minibatch=self._batch.minibatch,
                rows=rows,
                places=places,
                tokens=places.of_responses(data["responses"]),
                mask=mask,
                advantages=advantages,
                entropy_mask=torch.zeros_like(mask),
                keep=(mask & chosen[:, None]).flatten().nonzero()[:, 0],
                temperature=temperature if isinstance(temperature, Tensor) else float(temperature),
                old_log_probs=of_responses("old_log_probs"),
                ref_log_probs=of_responses("ref_log_prob"),
                sampling_log_probs=of_responses("rollout_log_probs"),
            )
            self._parts.append(part)
        return part

    def describe(self, config: Any, part: ObservedPart) -> None:
        """The first loss was computed: complete run.json."""
        if self._described or self._writer is None:
            return
        self._described = True
        self._writer.update_run_json(**of_first_update(self._writer.info, self.settings, config, part.temperature))

    def before_step(self) -> None:
        """All backward passes of an update are done; its optimiser step is next. Every rank calls it.

        Raises:
            UsageError: recording failed on some rank, and training is to stop.
        """
        if self._ended:
            return
        sums, tokens, complete = UpdateSums(), [], bool(self._parts)
        with self._guard():
            for part in self._parts:
                if not part.caught:
                    if bool(part.mask.any()):
                        raise UsageError(
                            "trainer: expected a gradient through the log-probs of each micro batch, got a backward "
                            f"pass without one; the loss does not depend on them. {_INSTEAD}"
                        )
                    continue
                weights = part.take()
                finite = is_finite(weights)
                if part.replayed is not None and finite:
                    check_weights(part, weights, _INSTEAD)
                complete &= finite  # the loss scale of fp16 overflowed: the update is skipped
                sums.add(part, weights)
                tokens.append((tokens_of(part, weights, self._step), part.rows.numpy()))
        sums.over_processes(self._added)
        if self._ended:
            return
        self._checked |= complete
        self._waiting += tokens
        self._update_sums = sums

    def after_step(self, *, lr: float, grad_norm: float, clip_grad: float) -> None:
        """The optimiser step is done."""
        if self._ended or self._batch is None or self._writer is None:
            return
        skipped = not torch.isfinite(torch.tensor(grad_norm)).item()
        first = self._parts[0] if self._parts else None
        if self._ranks.rank == 0:
            row = {
                "update": self._updates,
                "step": self._batch.step,
                "epoch": self._batch.epoch,
                "minibatch": self._batch.minibatch,
                "skipped": skipped,
                "normalizer": None if first is None else first.normalizer,
                "lr": lr,
                "grad_norm_total": grad_norm,
                # as torch.nn.utils.clip_grad_norm_ does; a norm that is not finite clips nothing, the step is skipped
                "clip_coef": None if skipped else min(1.0, clip_grad / (grad_norm + 1e-6)),
            } | self._update_sums.columns()
            with self._guard():
                self._writer.append("updates", {name: [value] for name, value in row.items()})
        self._of_batch.append(self._update_sums)
        self._updates += 1
        self._made += not skipped
        self._batch.updates += not skipped
        self._release()

    def end_batch(self) -> dict[str, float]:
        """The last update of a batch is done: number its rollouts, file everything, commit where it is due.

        Every rank calls it.

        Returns:
            The numbers of the batch for verl's logs, the same on every rank.
        """
        if self._ended or self._batch is None:
            return {}
        batch, writer = self._batch, self._writer
        assert writer is not None
        with self._guard():
            batch.add_left_out(fetch)
        numbered = batch.number(self._meet)
        if self._ended:
            return {}
        settings, rank = self.settings, self._ranks.rank
        with self._guard():
            prompts = batch.prompt_rows(self._known_prompts, self._decode)
            if prompts:
                writer.append("prompts", prompt_rows(prompts))
            rows = batch.rollout_rows(numbered, rank, settings.correct, self._ends, self._decode)
            writer.append("rollouts", rollout_rows(rows))
            for columns, local in self._waiting:
                if len(columns.position):
                    places = numbered.numbers[local[columns.rollout]]
                    writer.append("tokens", token_rows(replace(columns, rollout=places)))
            if rank == 0:
                row = batch.step_row(numbered, settings.correct)
                writer.append("steps", {name: [value] for name, value in row.items()})
        values = self._scalars() | {
            "dead_groups": dead_groups(numbered.signs, numbered.groups),
            "updates": float(self._made),
        }
        self._waiting, self._of_batch, self._batch, self._last_step = [], [], None, batch.step
        self._meet(None)
        if self._ended:
            return {}
        last = not self._total or batch.step + 1 >= self._total
        if last or self._updates - (writer.committed_step or 0) >= settings.spec.chunk:
            self._commit()
        if last and self._total and not self._ended:
            self.finish("complete")
        return {f"{PREFIX}{name}": value for name, value in values.items()}

    def finish(self, status: str) -> None:
        """End the run; what is not committed is lost. Nothing is recorded from here on."""
        self._release()
        if self._ended:
            return
        self._ended, self._status = True, status
        if self._writer is not None:
            writer = self._writer
            self._try(lambda: writer.finish(status), "the status of the run", raises=status == "complete")

    # -- helpers ---------------------------------------------------------------------------------------------------

    @property
    def _step(self) -> int:
        assert self._batch is not None
        return self._batch.step

    def _scalars(self) -> dict[str, float]:
        """The scalars of the batch: fractions and means over its updates together, weights a mean over them."""
        total = UpdateSums()
        for sums in self._of_batch:
            total.merge(sums)
        values = total.scalars()
        for name in ("weight_pos", "weight_neg"):
            values[name] /= max(len(self._of_batch), 1)
        return values

    def _commit(self) -> None:
        """Commit what was filed; every rank calls it. Where that fails and training goes on, the next one has it all.

        Raises:
            OSError: a rank could not write, and training is to stop.
        """
        assert self._writer is not None
        writer, updates = self._writer, self._updates
        if updates > (writer.committed_step or 0):
            self._try(lambda: writer.commit(updates, {}), "a commit; the next one will have it")

    def _try(self, write: Callable[[], None], what: str, *, raises: bool = True) -> None:
        """Write, or warn where that fails and training is to go on."""
        try:
            write()
        except OSError as error:
            if raises and self.settings.on_error == "stop":
                raise
            self._complain(f"could not write {what}: {error}")

    def _added(self, values: Tensor) -> Tensor:
        return torch.tensor(self._meet(values.tolist()), dtype=torch.float64).sum(0)

    def _meet(self, value: Any) -> list[Any]:
        """The values of all ranks; where recording has failed in one of them, it ends in all."""
        outcomes = self._ranks.all((value, None if self._error is None else str(self._error)))
        failures = [(rank, text) for rank, (_, text) in enumerate(outcomes) if text is not None]
        if failures:
            self.finish("interrupted")
            rank, text = failures[0]
            error = self._error or UsageError(f"recording has failed in rank {rank}: {text}")
            if self.settings.on_error == "stop":
                raise error
            self._complain(f"recording ends at update {self._updates}, training goes on: {error}")
        return [value for value, _ in outcomes]

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        """Remember an error of recording until the ranks meet; after one, nothing of the block matters."""
        try:
            yield
        except Exception as error:
            self._error = self._error or error

    guard = _guard

    def _complain(self, what: str) -> None:
        warnings.warn(f"analysis.engines.verl: {what}", stacklevel=3)

    def _release(self) -> None:
        for part in self._parts:
            part.release()
        self._parts = []

    def _decode(self, ids: list[int]) -> str:
        return "" if self._tokenizer is None else str(self._tokenizer.decode(ids))
