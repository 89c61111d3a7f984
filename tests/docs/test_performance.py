"""What the commands cost: jobs are those of the Makefile, are run and timed, and their results are put together."""

from __future__ import annotations

import json
import os
import types
from pathlib import Path
from typing import Any

import pytest

from analysis.errors import UsageError
from benchmarks.ratios import note_ratios
from docs.generators import measure, results, timing
from docs.generators.benchmark_files import MADE, benchmarks
from docs.generators.timing import Job

ROOT = Path(__file__).parents[2]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Jobs that take no time, in a folder of their own."""
    write = "import os, pathlib, sys; p = pathlib.Path(sys.argv[1]); p.mkdir(exist_ok=True); "
    write += "(p / 'x').write_text(os.environ['WORD'])"
    made = {
        "good": Job("make good", (("-c", write, "{out}/run"),), environment={"WORD": "{out}"}),
        "again": Job("make good", (("-c", "pass"),), of="good"),
        "bad": Job("make bad", (("-c", "raise SystemExit(3)"),)),
    }
    monkeypatch.setattr(timing, "jobs", lambda: made)
    monkeypatch.setattr(timing, "FOLDER", tmp_path / "runs")
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    return tmp_path


def test_jobs_run_what_make_runs() -> None:
    makefile = (
        (ROOT / "Makefile").read_text(encoding="utf-8").replace("$(PYTEST)", "$(PY) -m pytest -q -n 2 --dist worksteal")
    )
    jobs = timing.jobs()
    for name in ("first", "cached", "eight-seeds", "factorial", "quick", "test"):
        for step in jobs[name].steps:
            words = [word for word in step if "{out}" not in word and word not in ("--out", "--figures")]
            command = " ".join(words).split(" --set")[0].replace("not slow", '"not slow"')
            assert f"$(PY) {command}" in makefile or command.startswith("-c "), command
        assert f"\n{jobs[name].shown.removeprefix('make ')}" in makefile
    assert ".venv/bin/lint-imports --no-logo" in makefile
    assert "lint_imports" in jobs["test"].steps[3][1]
    assert f"--set '{jobs['eight-seeds'].steps[0][5]}' --out" in makefile


def test_a_job_is_timed(small: Path) -> None:
    measured = timing.run_job("good")
    assert measured["command"] == "make good"
    assert measured["cores"] >= 1
    assert measured["cpu_seconds"] > 0
    assert measured["seconds"] > 0
    assert measured["folder_bytes"] == len(os.fsencode(small / "runs/good"))
    assert measured["others"] is None or 0 <= measured["others"] <= 1
    assert timing.run_job("again")["folder_bytes"] == measured["folder_bytes"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("good-bye", "job: expected one of good, again, bad, packages, got good-bye"),
        ("again", "job again: expected the finished folder of good, got none; measure good first"),
        ("bad", "job bad: expected exit status 0, got 3; .*bad.log says why"),
    ],
)
def test_a_job_that_cannot_be_timed_is_an_error(small: Path, name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        timing.run_job(name)


def test_a_job_that_fails_does_not_stop_the_others(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert measure.main(["performance", "bad", "good"]) == 2
    assert "error: job bad" in capsys.readouterr().err
    assert list(results.read("performance")["commands"]) == ["good"]


def test_without_a_job_their_names_are_listed(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert measure.main(["performance"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["good", "again", "bad", "packages"]


def file_of_benchmarks(folder: Path, name: str, median: float, **extra: Any) -> Path:
    entry = {"fullname": f"benchmarks/test_attach.py::test_{name}", "stats": {"median": median}, "extra_info": extra}
    path = folder / "benchmarks.json"
    path.write_text(json.dumps({MADE: {"command": "make bench"}, "benchmarks": [entry]}))
    return path


def test_benchmarks_are_put_beside_those_that_are_there(small: Path) -> None:
    for name, median in (("a[x]", 1.0), ("b", 2.0), ("a[x]", 3.0)):
        assert measure.main(["benchmarks", str(file_of_benchmarks(small, name, median, layers=4))]) == 0
    stored = results.read("performance")["benchmarks"]
    assert {name: entry["seconds"] for name, entry in stored.items()} == {"attach: a[x]": 3.0, "attach: b": 2.0}
    assert stored["attach: b"]["extra"] == {"layers": 4}
    assert stored["attach: b"]["command"] == "make bench"


def test_a_file_that_is_not_of_make_bench_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"got .*x\.json, which is not there"):
        benchmarks(tmp_path / "x.json")
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(UsageError, match="expected a file with the key 'made'"):
        benchmarks(tmp_path / "x.json")


def test_ratios_are_within_a_pass() -> None:
    benchmark = types.SimpleNamespace(extra_info={})
    note_ratios(benchmark, {"bare": [1.0, 10.0, 100.0], "ours": [2.0, 30.0, 150.0]}, "bare", "seconds", rows=3)
    assert benchmark.extra_info == {
        "passes": 3,
        "against": "bare",
        "ratios": {"ours": {"median": 2.0, "low": 1.5, "high": 3.0}},
        "median_seconds": {"bare": 10.0, "ours": 30.0},
        "rows": 3,
    }
