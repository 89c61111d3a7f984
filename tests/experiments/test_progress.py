from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from analysis.experiments.progress import RunProgress
from analysis.recipes import Recipe

EVENT = {
    "run_id": "psr-seed0",
    "label": "PSR",
    "phase": "update",
    "step": 1,
    "steps": 6,
    "reward": 0.25,
    "correct": 0.5,
    "entropy": 0.75,
    "tokens_per_s": 12345.6,
}


def shown(*events: dict[str, Any], terminal: bool = False, quiet: bool = False, seeds: str = "[0]") -> str:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=160)
    planned = Recipe.load("tiny").override(f"grid.seed={seeds}").expand()
    with RunProgress(planned, quiet=quiet, console=console) as progress:
        for event in events:
            progress(event)
    return stream.getvalue()


def test_plain_line() -> None:
    line = shown(EVENT)
    assert line == "PSR  update  1/6  reward 0.25  H 0.75\n"


def test_plain_lines_are_rare_but_never_miss_the_end() -> None:
    end = {"run_id": "psr-seed0", "label": "PSR", "phase": "failed", "error": "[no luck]"}
    lines = shown(EVENT, EVENT | {"step": 2}, EVENT | {"step": 3}, end).splitlines()
    assert len(lines) == 2
    assert lines[1] == "PSR  failed  [no luck]"


def test_plain_lines_come_again_after_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr("analysis.common.progress.time.monotonic", lambda: float(next(clock)))
    lines = shown(*({**EVENT, "step": 0} for _ in range(7))).splitlines()
    assert len(lines) == 3


def test_a_base_has_its_own_line() -> None:
    assert shown({"run_id": None, "label": "base tiny", "phase": "pretrain", "step": 0, "steps": 300}).startswith(
        "base tiny  pretrain  0/300"
    )


@pytest.mark.parametrize("terminal", [False, True])
def test_a_stop_says_how_to_get_the_prompt_back_at_once(terminal: bool) -> None:
    stopping = {"run_id": "psr-seed0", "label": "PSR", "phase": "stopping", "note": "Ctrl-C again kills it"}
    text = shown(EVENT, stopping, terminal=terminal)
    assert "stopping" in text
    assert "Ctrl-C again kills it" in text


def test_equal_labels_are_told_apart_by_their_run() -> None:
    assert shown(EVENT, seeds="[0, 1]").startswith("psr-seed0  update")


def test_on_a_terminal_one_line_a_run_and_one_for_all() -> None:
    text = shown(EVENT, EVENT | {"run_id": "nsr-seed0", "label": "NSR", "step": 3}, terminal=True)
    for part in ("PSR", "NSR", "all runs", "1/6", "3/6", "4/12", "reward 0.25"):
        assert part in text


@pytest.mark.parametrize("terminal", [False, True])
def test_quiet(terminal: bool) -> None:
    assert shown(EVENT, terminal=terminal, quiet=True) == ""
