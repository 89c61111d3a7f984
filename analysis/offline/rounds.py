"""The loop of a trace: rounds of rollouts, shared out to the processes that trace together, and committed together.

A round is as many windows of the file as there are processes. Every process makes the same batches of it, takes those
that `share_of` gives to it, and meets the others when all of them are done: a round is recorded as a whole or not at
all. Batches do not depend on the number of processes, so that neither do the numbers, and what one number of processes
began another may resume.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import torch

from toy_models.policy import evaluation_mode
from toy_models.verifiers import Verifier

from ..common.progress import Progress
from ..common.stop_requests import StopRequests
from ..probes.record_spec import RecordSpec
from ..records import RunWriter
from ..records.ranks import Ranks
from .forward import Columns, Forward, Sized, windows
from .reward_source import judged_of
from .tokenization import Encoded
from .trace_rows import prompt_rows, rollout_rows, token_rows
from .trace_settings import TraceSettings

__all__ = ["rounds", "share_of", "trace_rounds"]

_COMMIT_SECONDS = 10.0

T = TypeVar("T", bound=Sized)


def rounds(
    items: Sequence[T], start: int, budget: int, count: int, measured: Callable[[T], bool] = lambda item: True
) -> Iterator[tuple[int, list[list[T]]]]:
    """(end, windows) of successive rounds from `start`, each of at most `count` windows."""
    waiting: list[list[T]] = []
    end = start
    for end, window in windows(items, start, budget, measured):
        waiting.append(window)
        if len(waiting) == count:
            yield end, waiting
            waiting = []
    if waiting:
        yield end, waiting


def share_of(batches: Sequence[list[T]], rank: int, count: int) -> list[list[T]]:
    """The batches that one of `count` processes takes: the largest first, each to the process with the least so far.

    >>> from types import SimpleNamespace
    >>> batches = [[SimpleNamespace(length=n)] for n in (5, 4, 3, 1)]
    >>> [[batch[0].length for batch in share_of(batches, rank, 2)] for rank in (0, 1)]
    [[5, 1], [4, 3]]
    """
    sizes = [len(batch) * max(item.length for item in batch) for batch in batches]
    load, own = [0] * count, set()
    for place in sorted(range(len(batches)), key=lambda i: -sizes[i]):
        taker = load.index(min(load))
        load[taker] += sizes[place]
        if taker == rank:
            own.add(place)
    return [batch for place, batch in enumerate(batches) if place in own]


@dataclass(frozen=True)
class _Outcome:
    """What a process tells the others after its share of a round. `due`: it is time to commit, by rank 0's clock."""

    stopped: bool
    budget: int
    single: bool
    notes: tuple[str, ...]
    due: bool


def trace_rounds(
    writer: RunWriter,
    ranks: Ranks,
    trace: dict[str, Any],
    forward: Forward,
    items: Sequence[Encoded],
    settings: TraceSettings,
    judge: Verifier | None,
    *,
    quiet: bool,
) -> None:
    """Trace all rollouts that are not committed yet, and finish the run.

    Args:
        writer: Of the folder; every process has one.
        ranks: The processes that trace together.
        trace: The entry `trace` of run.json, whose notes grow.
        forward: The statistics of rollouts under the model.
        items: All rollouts, the same on every process.
        settings: Of the trace.
        judge: The verifier, if there is one.
        quiet: Show no progress.

    Raises:
        KeyboardInterrupt: SIGINT or SIGTERM on any process; complete rounds are committed first. A second one stops at
            once.
        UsageError: As `Forward` and the verifier raise it, on every process, also where another one failed.
    """
    start = writer.committed_step or 0
    measured = _measured(items, settings)
    lengths = np.fromiter((item.length if measured(item) else 0 for item in items), dtype=np.int64)
    total, done = int(lengths.sum()), int(lengths[:start].sum())
    seen = {item.prompt_id for item in islice(items, start)}
    with (
        StopRequests() as requests,
        evaluation_mode(forward.model),
        torch.no_grad(),
        Progress(quiet=quiet) as progress,
        _settled(writer, ranks),
    ):
        requests.interrupt, requests.patience = False, 1
        committed, pending = time.monotonic(), start
        for end, parts in rounds(items, start, forward.budget, ranks.count, measured):
            wanted = [[item for item in window if measured(item)] for window in parts]
            batches = [batch for window in wanted for batch in forward.batches(window)]
            mine = share_of(batches, ranks.rank, ranks.count)
            others = [item for window in parts for item in window if not measured(item)]
            own = [*(item for batch in mine for item in batch), *others[ranks.rank :: ranks.count]]
            own.sort(key=lambda item: item.rollout.index)
            size, in_round = (sum(item.length for some in group for item in some) for group in (mine, wanted))
            meter = _Meter(progress, done, total, in_round / size if size else 1.0)
            rows: dict[str, Any] = {}

            def work(
                mine: list[list[Encoded]] = mine,
                own: list[Encoded] = own,
                meter: _Meter = meter,
                rows: dict[str, Any] = rows,
                committed: float = committed,
            ) -> _Outcome:
                columns = forward(mine, meter.advance, lambda: requests.count > 0, progress.say)
                if columns is not None and own:
                    rows.update(_rows(own, columns, judge, settings))
                notes = tuple(forward.notes)
                forward.notes.clear()
                due = time.monotonic() - committed > _COMMIT_SECONDS
                return _Outcome(columns is None, forward.budget, forward.single, notes, due)

            outcomes = ranks.agree(work)
            if any(outcome.stopped for outcome in outcomes):
                break
            forward.follow(min(o.budget for o in outcomes), single=any(o.single for o in outcomes))
            if new_notes := [note for outcome in outcomes for note in outcome.notes]:
                trace["notes"][:] = list(dict.fromkeys([*trace["notes"], *new_notes]))
                writer.update_run_json(trace=trace)
            new = {item.prompt_id: item for window in parts for item in window if item.prompt_id not in seen}
            seen |= new.keys()
            if new and not ranks.rank:  # one process, so that their order does not depend on the number of processes
                writer.append("prompts", prompt_rows(list(new.values())))
            for table, columns_of_table in rows.items():
                writer.append(table, columns_of_table)
            done, pending = done + in_round, end
            progress.show("tokens", "tokens traced", done=done, total=total)
            if end == len(items) or outcomes[0].due:
                writer.commit(end, {"rollouts": end})
                committed = time.monotonic()
        if pending > (writer.committed_step or 0):
            writer.commit(pending, {"rollouts": pending})
        if pending < len(items):
            raise KeyboardInterrupt(
                f"stopped after {pending:,} of {len(items):,} rollouts; resume with the same command and --resume"
            )


def _rows(
    own: Sequence[Encoded], columns: dict[int, Columns], judge: Verifier | None, settings: TraceSettings
) -> dict[str, Any]:
    """Rows of rollouts and tokens, in the order of the file."""
    rows = {"rollouts": rollout_rows(own, judged_of(own, judge, settings))}
    if measured := [item for item in own if item.rollout.index in columns]:
        statistics = [columns[item.rollout.index] for item in measured]
        rows["tokens"] = token_rows(measured, statistics, on_policy=settings.on_policy)
    return rows


def _measured(items: Sequence[Encoded], settings: TraceSettings) -> Callable[[Encoded], bool]:
    """Whether the tokens of a rollout are recorded: those of all prompts, or of a draw of the prompts of each step."""
    if settings.record_tokens == 1:
        return lambda item: True
    spec = RecordSpec(tokens=settings.record_tokens)
    prompts: dict[int, dict[str, None]] = {}
    for item in items:
        prompts.setdefault(item.rollout.step, {})[item.prompt_id] = None
    drawn = {step: spec.drawn(step, list(names)) for step, names in prompts.items()}
    return lambda item: item.prompt_id in drawn[item.rollout.step]


class _Meter:
    """Progress over all processes within a round, judged by what this one has done of its share."""

    def __init__(self, progress: Progress, before: int, total: int, factor: float) -> None:
        self._progress, self._before, self._total, self._factor = progress, before, total, factor
        self._own = 0
        progress.show("tokens", "tokens traced", done=before, total=total)

    def advance(self, tokens: int) -> None:
        self._own += tokens
        done = self._before + round(self._own * self._factor)
        self._progress.show("tokens", "tokens traced", done=done, total=self._total)


@contextlib.contextmanager
def _settled(writer: RunWriter, ranks: Ranks) -> Iterator[None]:
    """The run ends complete, or interrupted by whatever was raised."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            writer.finish("interrupted")
        raise
    ranks.agree(lambda: writer.finish("complete"))
