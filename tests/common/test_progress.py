"""Progress of any number of jobs: bars that fit a terminal, lines that come rarely elsewhere."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from analysis.common import progress
from analysis.common.progress import Progress


def terminal(width: int) -> tuple[io.StringIO, Console]:
    stream = io.StringIO()
    return stream, Console(file=stream, force_terminal=True, width=width, color_system=None)


def test_lines_with_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    with Progress(console=Console(file=stream, width=200)) as shown:
        for seconds, done in ((0.0, 400), (4.0, 500), (11.0, 620), (12.0, 640)):
            now[0] = seconds
            shown.show("tokens", "traced", done=done, total=1000, detail="H 0.5")
    # 220 in 11 seconds, 380 to go; what was there at the start has no say in the speed
    assert stream.getvalue() == "traced  400/1,000  H 0.5\ntraced  620/1,000  H 0.5  19 s left\n"


@pytest.mark.parametrize("live", [False, True])
def test_quiet(live: bool) -> None:
    stream, console = terminal(100)
    with Progress(quiet=True, console=console if live else Console(file=stream)) as shown:
        shown.show("a", "a", done=1, total=10, always=True)
        shown.say("out of memory")
    assert stream.getvalue() == ""


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_count_and_time_are_never_cut(width: int) -> None:
    stream, console = terminal(width)
    with Progress(console=console) as shown:
        for job in ("W-REINFORCE λ = 0.1, seed 0", "PSR"):
            for done in (1, 1234):
                shown.show(
                    job, job, done=done, total=12345, phase="rollout", detail="reward 0.39  H 0.53  " + "note " * 20
                )
    lines = [re.sub(r"\x1b\[[^A-Za-z]*[A-Za-z]", "", line) for line in stream.getvalue().splitlines()]
    bars = [line for line in lines if "1,234/12,345" in line]
    assert len(bars) >= 2
    assert all(len(line) <= width for line in lines)
    assert all(re.search(r"1,234/12,345 (-:--:--|\d+:\d\d:\d\d)", line) for line in bars)
    assert width < 80 or all("reward 0.39" in line for line in bars if line.startswith("PSR"))


def test_a_line_among_the_bars() -> None:
    stream, console = terminal(100)
    with Progress(console=console) as shown:
        shown.show("a", "a", done=5, total=10)
        shown.say("out of memory")
    assert "out of memory" in stream.getvalue()
