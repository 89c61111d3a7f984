"""mypy sees the public signatures: a wrong call is an error, and the types of results are known."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]

RIGHT = """
from typing import assert_type
import analysis
import pandas as pd
from analysis.objectives import Objective, get
from analysis.records import Run

run = analysis.load_trace("runs/x")
if isinstance(run, Run):
    assert_type(run, Run)
    assert_type(run.laws(), pd.DataFrame)
    assert_type(run.table("tokens", where=[("update", "==", 0)]), pd.DataFrame)
else:
    assert_type(run["PSR"], Run)
recipe = analysis.Recipe.load("tiny")
assert_type(recipe, analysis.Recipe)
assert_type(analysis.run(recipe), analysis.Experiment)
assert_type(get("psr-ratio"), Objective)
assert_type(analysis.UsageError("x"), analysis.UsageError)
"""

WRONG = {
    "analysis.attach(1, 2, nonsense=4)": "nonsense",
    "analysis.load_trace(1)": "load_trace",
    "analysis.Recipe.load('tiny').no_such_method()": "no_such_method",
    "analysis.run(3)": '"run" has incompatible type',
}


def check(code: str, folder: Path) -> tuple[int, str]:
    file = folder / "snippet.py"
    file.write_text(code)
    command = [sys.executable, "-m", "mypy", "--config-file", str(REPOSITORY / "pyproject.toml"), str(file)]
    command += ["--cache-dir", str(REPOSITORY / ".mypy_cache")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_right_calls_pass_and_wrong_ones_fail(tmp_path: Path) -> None:
    status, output = check(RIGHT, tmp_path)
    assert status == 0, output
    wrong = "import analysis\n" + "\n".join(WRONG) + "\n"
    status, output = check(wrong, tmp_path)
    assert status == 1
    for number, (call, word) in enumerate(WRONG.items(), 2):
        assert any(f"snippet.py:{number}: error" in line and word in line for line in output.splitlines()), (
            call,
            output,
        )
