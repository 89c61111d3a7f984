"""Several ranks, here threads that meet at a barrier, write one run folder: whole commits of all of them, or none."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from analysis import UsageError
from analysis.records import Ranks, Run, RunWriter, digest, load_trace
from tests.records.breaking import Killed
from tests.records.rows import RUN_JSON, some_rows
from tests.records.together import Together

STEPS = 3


def rows_of(table: str, step: int, rollouts: range) -> dict[str, Any]:
    """Rows of one step, each with values of its own, whichever rank writes it."""
    count = len(rollouts)
    columns: dict[str, Any] = dict(some_rows(table, count, 0))
    whole = dict(some_rows(table, 6, 100 + step))
    for name, values in whole.items():
        if hasattr(values, "__len__") and not isinstance(values, str):
            columns[name] = [values[i] for i in rollouts]
    return columns | {"step": [step] * count, "rollout": list(rollouts)}


def record(folder: Path, ranks: Ranks, *, steps: int = STEPS, resume: bool | int = False) -> RunWriter:
    writer = RunWriter(folder, run_json=RUN_JSON, ranks=ranks, resume=resume)
    share = 6 // ranks.count
    for step in range(writer.committed_step or 0, steps):
        rollouts = range(ranks.rank * share, (ranks.rank + 1) * share)
        writer.append("rollouts", rows_of("rollouts", step, rollouts) | {"rank": 0})
        names = [f"shared-{step}", f"own-{ranks.rank}-{step}", "first"]
        prompts: dict[str, Any] = dict(some_rows("prompts", len(names), 0))
        writer.append("prompts", prompts | {"prompt_id": names})
        writer.commit(step + 1, {})
    return writer


def test_two_ranks_hold_what_one_holds(tmp_path):
    record(tmp_path / "one", Ranks()).finish("complete")
    for result in Together(2).run(lambda ranks: record(tmp_path / "two", ranks).finish("complete")):
        assert result is None
    one, two = (load_trace(tmp_path / name, verify=True) for name in ("one", "two"))
    assert isinstance(one, Run)
    assert isinstance(two, Run)
    assert two.status == "complete"
    assert two.rows("rollouts") == one.rows("rollouts") == 6 * STEPS
    rollouts = one.table("rollouts")
    assert two.table("rollouts").equals(rollouts)
    assert two.table("rollouts", ["reward"]).columns.tolist() == ["reward"]
    assert two.table("rollouts", ["rollout"], as_="duckdb").fetchall() == [(number,) for number in rollouts["rollout"]]
    both = [
        {name: list(column) for name, column in zip(batch.schema.names, batch.columns, strict=True)}
        for batch in two.batches("rollouts")
    ]
    assert [value.as_py() for batch in both for value in batch["rollout"]] == rollouts["rollout"].tolist()
    assert len(list((tmp_path / "two/rollouts").glob("*.r1.parquet"))) == STEPS
    prompts = two.table("prompts")["prompt_id"].tolist()
    assert sorted(prompts) == sorted(
        ["first", *(f"{kind}-{step}" for step in range(STEPS) for kind in ("shared", "own-0", "own-1"))]
    )


def test_the_digest_does_not_depend_on_the_number_of_ranks(tmp_path):
    def write(name: str, ranks: Ranks) -> None:
        writer = RunWriter(tmp_path / name, run_json=RUN_JSON, ranks=ranks)
        share = 6 // ranks.count
        for step in range(STEPS):
            rollouts = range(ranks.rank * share, (ranks.rank + 1) * share)
            writer.append("rollouts", rows_of("rollouts", step, rollouts))
            if step:  # the first commit holds two steps, of which each rank writes its share in one file
                writer.commit(step + 1, {})

    write("one", Ranks())
    one = Run(tmp_path / "one")
    for count in (2, 3):
        assert Together(count).run(lambda ranks, count=count: write(f"{count}", ranks)) == [None] * count
        run = Run(tmp_path / f"{count}", verify=True)
        assert digest(run) == digest(one)
        assert run.table("rollouts").equals(one.table("rollouts"))
        assert run.table("rollouts", ["reward"]).equals(one.table("rollouts", ["reward"]))
        rows = run.table("rollouts", ["step", "rollout"], as_="duckdb").fetchall()
        assert rows == [(step, rollout) for step in range(STEPS) for rollout in range(6)]


@pytest.mark.parametrize("failing", [0, 1])
def test_a_rank_that_cannot_write_leaves_the_last_commit_and_its_rows(tmp_path, failing, monkeypatch):
    """Every rank raises, nothing is lost, and the commit can be tried again."""
    from analysis.records import writer as module

    full = {"now": True}
    plain = module.write_durably

    def write(path: Path, data: Any) -> Any:
        if full["now"] and f"000001-000002.r{failing}" in path.name:
            raise OSError(28, "No space left on device")
        return plain(path, data)

    monkeypatch.setattr(module, "write_durably", write)
    meet = threading.Barrier(2, timeout=20)

    def work(ranks: Ranks) -> str:
        writer = RunWriter(tmp_path, run_json=RUN_JSON, ranks=ranks)
        message = ""
        for step in range(2):
            rollouts = range(ranks.rank * 3, ranks.rank * 3 + 3)
            writer.append("rollouts", rows_of("rollouts", step, rollouts))
            try:
                writer.commit(step + 1, {})
            except OSError as error:
                message = str(error)
                assert load_trace(tmp_path).rows("rollouts") == 6  # type: ignore[union-attr]
                meet.wait()
                full["now"] = False
                meet.wait()
                writer.commit(step + 1, {})
        return message

    messages = Together(2).run(work)
    assert all("No space left on device" in str(message) for message in messages), messages
    assert f"rank {failing}: " in messages[1 - failing]
    assert len(load_trace(tmp_path, verify=True).table("rollouts")) == 12


def test_a_rank_that_dies_leaves_the_last_whole_commit(tmp_path):
    """Its parts of the next commit may be on disk; without those of all ranks they do not count."""

    def work(ranks: Ranks) -> None:
        writer = record(tmp_path, ranks, steps=2)
        writer.append("rollouts", rows_of("rollouts", 2, range(ranks.rank * 3, ranks.rank * 3 + 3)))
        if ranks.rank == 1:
            raise Killed
        writer.commit(3, {})

    survivor, dead = Together(2).run(work)
    assert isinstance(dead, Killed)
    assert isinstance(survivor, RuntimeError)
    run = load_trace(tmp_path, verify=True)
    assert (run.committed_step, len(run.table("rollouts"))) == (2, 12)  # type: ignore[union-attr]
    assert Together(2).run(lambda ranks: record(tmp_path, ranks, resume=True).finish("complete")) == [None, None]
    run = load_trace(tmp_path, verify=True)
    assert (run.committed_step, len(run.table("rollouts"))) == (3, 18)  # type: ignore[union-attr]
    assert not run.table("prompts")["prompt_id"].duplicated().any()


def test_ranks_that_commit_different_steps_are_refused(tmp_path):
    def work(ranks: Ranks) -> None:
        writer = RunWriter(tmp_path, run_json=RUN_JSON, ranks=ranks)
        writer.append("rollouts", rows_of("rollouts", 0, range(3)))
        writer.commit(1 + ranks.rank, {})

    for number, result in enumerate(Together(2).run(work)):
        assert isinstance(result, UsageError)
        assert f"step: expected the same on every rank, got {1 + number} and {2 - number}" in str(result)
    assert load_trace(tmp_path).committed_step is None  # type: ignore[union-attr]


def test_a_folder_that_is_refused_is_refused_on_every_rank(tmp_path):
    record(tmp_path, Ranks())
    results = Together(2).run(lambda ranks: RunWriter(tmp_path, run_json=RUN_JSON, ranks=ranks))
    assert all(isinstance(result, UsageError) and "which holds a run already" in str(result) for result in results)
    assert str(results[1]).startswith("rank 0: ")


def test_a_folder_that_ranks_do_not_share_is_refused(tmp_path):
    """Two nodes with disks of their own: rank 0 does not see the other's files."""

    def work(ranks: Ranks) -> None:
        writer = RunWriter(tmp_path / "shared", run_json=RUN_JSON, ranks=ranks)
        if ranks.rank:
            (tmp_path / "elsewhere/rollouts").mkdir(parents=True)
            writer.folder = tmp_path / "elsewhere"
        writer.append("rollouts", rows_of("rollouts", 0, range(ranks.rank * 3, ranks.rank * 3 + 3)))
        writer.commit(1, {})

    for result in Together(2).run(work):
        assert "out: expected a folder that all ranks share" in str(result)


def test_any_failure_of_one_rank_is_told_to_the_others():
    def work(ranks: Ranks) -> None:
        def action() -> None:
            if ranks.rank == 1:
                raise KeyError("left")

        ranks.agree(action)

    here, there = Together(2).run(work)
    assert isinstance(there, KeyError)
    assert isinstance(here, RuntimeError)
    assert str(here) == "rank 1: KeyError: 'left'"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rank": 2, "count": 2}, "rank: expected a number from 0 to 1, got 2"),
        ({"rank": 0, "count": 2}, "gather: expected a collective call for 2 ranks, got None"),
    ],
)
def test_ranks_that_do_not_fit(arguments, message):
    with pytest.raises(UsageError, match=message):
        Ranks(**arguments)
