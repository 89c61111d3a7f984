"""Several processes that trace together: one folder with the records of one process, whatever ends one of them."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import Run, UsageError, load_trace, trace, trace_rollouts
from analysis.offline import forward, rounds, tracing
from analysis.offline.processes import started_together
from analysis.offline.rounds import rounds as rounds_of
from analysis.offline.rounds import share_of
from analysis.records import Ranks, digest
from tests.offline.small import make_model, make_tokenizer, rows_of, save, write_jsonl
from tests.offline.test_forward import ITEMS, Sized
from tests.records.together import Together

REPOSITORY = Path(__file__).parents[2]
ROLLOUTS = 60


@settings(deadline=None)
@given(ITEMS, st.integers(1, 40), st.integers(1, 5))
def test_rounds_follow_the_file_whatever_the_number_of_processes(items: list[Sized], budget: int, count: int) -> None:
    found = list(rounds_of(items, 0, budget, count))
    assert [item for _, parts in found for window in parts for item in window] == items
    assert all(parts[-1][-1].index == end - 1 for end, parts in found)
    alone = [window for _, parts in rounds_of(items, 0, budget, 1) for window in parts]
    assert [window for _, parts in found for window in parts] == alone  # so that batches are the same
    for i, (end, _) in enumerate(found):
        assert list(rounds_of(items, end, budget, count)) == found[i + 1 :]


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(1, 50), min_size=1, max_size=4), max_size=30), st.integers(1, 6))
def test_shares_hold_every_batch_once_and_are_balanced(sizes: list[list[int]], count: int) -> None:
    batches = [[Sized(i, n) for n in lengths] for i, lengths in enumerate(sizes)]
    shares = [share_of(batches, rank, count) for rank in range(count)]
    assert sorted(batch[0].index for share in shares for batch in share) == list(range(len(batches)))
    cost = [len(batch) * max(item.length for item in batch) for batch in batches]
    load = [sum(cost[batch[0].index] for batch in share) for share in shares]
    # largest first, each to the least loaded: apart by one batch at most
    assert max(load) - min(load) <= max(cost, default=0)


# Commits after every round; process 1 kills itself in its third round where argv[1] says so.
PROGRAM = """
import itertools, os, signal, sys
from analysis import trace
from analysis.offline import forward, rounds

rounds._COMMIT_SECONDS = 0.0
calls, call = itertools.count(1), forward.Forward.__call__

def dies(self, *arguments):
    if sys.argv[1] == "dies" and os.environ["RANK"] == "1" and next(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return call(self, *arguments)

forward.Forward.__call__ = dies
sys.exit(trace.main(sys.argv[2:]))
"""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    save(folder / "base")
    write_jsonl(folder / "rollouts.jsonl", rows_of(ROLLOUTS))
    (folder / "program.py").write_text(PROGRAM)
    return folder


def arguments(inputs: Path, out: Path, *options: str) -> list[str]:
    line = ["--model", inputs / "base", "--rollouts", inputs / "rollouts.jsonl", "--out", out, "--no-figures"]
    return [*map(str, line), "--batch-tokens", "20", "--objective", "nsr-log", *options]


def torchrun(inputs: Path, out: Path, how: str = "lives", *options: str) -> list[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    return [sys.executable, *launcher, str(inputs / "program.py"), how, *arguments(inputs, out, *options)]


ENVIRONMENT = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}


def start(inputs: Path, out: Path, how: str = "lives") -> subprocess.CompletedProcess[str]:
    return subprocess.run(torchrun(inputs, out, how), env=ENVIRONMENT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def alone(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("alone") / "run"
    assert trace.main(arguments(inputs, out)) == 0
    return load_trace(out)


@pytest.mark.slow  # processes that import torch
def test_two_processes_record_what_one_records(inputs: Path, alone: Run, tmp_path: Path) -> None:
    finished = start(inputs, tmp_path / "run")
    assert finished.returncode == 0, finished.stderr[-3000:]
    run = load_trace(tmp_path / "run", verify=True)
    assert run.status == "complete"
    assert digest(run) == digest(alone)
    parts = [path.name for path in (tmp_path / "run" / "tokens").iterdir()]
    assert {name.split(".")[1] for name in parts} == {"r0", "r1"}
    assert finished.stdout.count("records  ") == 1  # one process says what came out
    assert (tmp_path / "run" / "summary.md").is_file()


@pytest.mark.slow  # processes that import torch
def test_a_process_that_is_killed_leaves_whole_rounds_which_are_resumed(
    inputs: Path, alone: Run, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    finished = start(inputs, out, "dies")
    assert finished.returncode != 0
    run = load_trace(out, verify=True)
    assert 0 < run.rows("rollouts") < ROLLOUTS
    assert run.status in ("running", "interrupted")
    rollouts = run.table("rollouts")
    assert rollouts["rollout"].tolist() == list(range(len(rollouts)))
    assert run.table("tokens").groupby("rollout").size().tolist() == rollouts["length"].tolist()
    assert trace.main(arguments(inputs, out, "--resume")) == 0  # by another number of processes
    assert digest(out) == digest(alone)


def in_threads(
    monkeypatch: pytest.MonkeyPatch, out: Path, change: Callable[[int, dict[str, Any]], None], count: int = 2
) -> list[Any]:
    """What tracing returned or raised on each of some ranks, whose arguments `change` may change."""
    here = threading.local()
    monkeypatch.setattr(tracing, "process_ranks", lambda: here.ranks)
    monkeypatch.setattr(rounds, "_COMMIT_SECONDS", 0.0)
    models = [make_model() for _ in range(count)]

    def work(ranks: Ranks) -> Run:
        here.ranks = ranks
        options: dict[str, Any] = {"out": out, "batch_tokens": 20, "quiet": True}
        change(ranks.rank, options)
        return trace_rollouts(models[ranks.rank], make_tokenizer(), rows_of(ROLLOUTS), **options)

    return Together(count).run(work)


def test_three_ranks_write_the_rows_of_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    expected = trace_rollouts(make_model(), make_tokenizer(), rows_of(ROLLOUTS), out=tmp_path / "one", batch_tokens=20)
    runs = in_threads(monkeypatch, tmp_path / "three", lambda rank, options: None, 3)
    assert [digest(run) for run in runs] == 3 * [digest(expected)]
    again = in_threads(monkeypatch, tmp_path / "three", lambda rank, options: options.update(label="again"), 3)
    assert [run.label for run in again] == 3 * ["again"]


def test_an_error_on_one_rank_ends_all_and_names_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    call, calls = forward.Forward.__call__, itertools.count()

    def fails(self: Any, *others: Any) -> Any:
        if self.model is unlucky[0] and next(calls) == 2:
            raise UsageError("model: this rank is out of luck")
        return call(self, *others)

    unlucky: list[Any] = []
    monkeypatch.setattr(forward.Forward, "__call__", fails)
    find = tracing.find_head

    def head_of(model: Any) -> Any:
        if tracing.process_ranks().rank == 1:
            unlucky.append(model)
        return find(model)

    monkeypatch.setattr(tracing, "find_head", head_of)
    first, second = in_threads(monkeypatch, tmp_path / "run", lambda rank, options: None)
    assert isinstance(first, UsageError)
    assert str(first) == "rank 1: model: this rank is out of luck"
    assert str(second) == "model: this rank is out of luck"
    run = load_trace(tmp_path / "run", verify=True)
    assert run.status == "interrupted"
    assert 0 < run.rows("rollouts") < ROLLOUTS


def test_ranks_that_were_given_different_things(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def change(rank: int, options: dict[str, Any]) -> None:
        options["temperature"] = 1.0 - 0.5 * rank

    for error in in_threads(monkeypatch, tmp_path / "run", change):
        assert isinstance(error, UsageError)
        assert "got others on rank 1 than on rank 0; what differs: setting temperature (1.0 then, 0.5" in str(error)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow  # processes that import torch
def test_ctrl_c_ends_all_processes(inputs: Path, tmp_path: Path) -> None:
    """Of torchrun, which passes it on; readers see whole rounds meanwhile."""
    rows = [row for seed in range(30) for row in rows_of(ROLLOUTS, seed=seed)]
    write_jsonl(tmp_path / "many.jsonl", rows)
    out = tmp_path / "run"
    line = torchrun(inputs, out, "lives", "--rollouts", str(tmp_path / "many.jsonl"))
    with subprocess.Popen(line, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not list((out / "commits").glob("*.json")):
            time.sleep(0.05)
        meanwhile = load_trace(out)
        assert 0 < meanwhile.rows("rollouts") <= len(rows)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate()
    assert process.returncode != 0
    run = load_trace(out, verify=True)
    assert run.status == "interrupted"
    assert meanwhile.rows("rollouts") <= run.rows("rollouts") < len(rows)
    assert said.count(f"stopped after {run.rows('rollouts'):,} of {len(rows):,} rollouts; resume with") == 1


def test_variables_of_torchrun_that_are_incomplete(monkeypatch: pytest.MonkeyPatch) -> None:
    with started_together() as ranks:
        assert ranks.count == 1
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(UsageError, match=r"RANK: expected a number, as torchrun sets it, got None"), started_together():
        pass
