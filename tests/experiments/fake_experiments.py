"""Experiments of stand-ins for training (`fake_training`): starting, waiting, looking at what they did."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from analysis.experiments import run
from analysis.recipes import Recipe

ROOT = Path(__file__).parents[2]
WAIT_SECONDS = 300.0  # less than `fake_training.LONG_SECONDS`, enough for a machine that is busy
FAILED = r"^psr-seed0 failed: {} \(more in .*error\.txt\)\nfix the cause, then resume with\n  python .* --resume \S+$"


def go(recipe: Recipe, train: str = "complete", **options: Any) -> Any:
    return run(recipe, train=f"tests.experiments.fake_training:{train}", quiet=True, **options)


def calls(folder: Path, run_id: str) -> list[list[str]]:
    return [line.split() for line in (folder / run_id / "calls.txt").read_text().splitlines()]


def script(recipe: Recipe, train: str, **options: Any) -> str:
    """A script without a main guard, which a start method that imports the main module again would run for ever."""
    return (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from analysis import Recipe, run\n"
        f"recipe = Recipe.from_dict({recipe.to_dict()!r})\n"
        f"print(run(recipe, train='tests.experiments.fake_training:{train}', quiet=True, **{options!r}).status)\n"
    )


def wait_for(condition: Callable[[], bool], seconds: float = WAIT_SECONDS) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]
