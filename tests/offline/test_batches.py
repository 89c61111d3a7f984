"""Windows and batches hold every rollout once, within their budgets; progress says how long it takes."""

from __future__ import annotations

import io
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from analysis.offline import trace_progress as progress
from analysis.offline.batches import batches_of, windows
from analysis.offline.trace_progress import TokenProgress


class Sized(NamedTuple):
    index: int
    length: int


ITEMS = st.lists(st.integers(1, 50), max_size=60).map(lambda sizes: [Sized(i, n) for i, n in enumerate(sizes)])


@settings(deadline=None)
@given(ITEMS, st.integers(1, 200))
def test_batches_hold_every_item_once_within_the_budget(items: list[Sized], budget: int) -> None:
    batches = batches_of(items, budget)
    assert sorted(item.index for batch in batches for item in batch) == list(range(len(items)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(item.length for item in batch) <= budget


@settings(deadline=None)
@given(ITEMS, st.integers(1, 40))
def test_windows_follow_the_file_and_go_on_from_any_of_their_ends(items: list[Sized], budget: int) -> None:
    found = list(windows(items, 0, budget))
    assert [item for _, window in found for item in window] == items
    for i, (end, window) in enumerate(found):
        assert window[-1].index == end - 1
        assert len(window) == 1 or sum(item.length for item in window) <= 8 * budget
        assert list(windows(items, end, budget)) == found[i + 1 :]


class TestProgress:
    def test_lines_with_the_time_left(self, monkeypatch: pytest.MonkeyPatch) -> None:
        now = [0.0]
        monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
        out = io.StringIO()
        with TokenProgress(1000, 400, console=Console(file=out, width=200)) as shown:
            for seconds, tokens in ((4.0, 100), (11.0, 120), (12.0, 20)):
                now[0] = seconds
                shown.advance(tokens)
        # 220 tokens in 11 seconds, 380 to go; what was traced before has no say in the speed
        assert out.getvalue() == "traced 620 of 1,000 tokens  20 tok/s  19 s left\n"

    def test_quiet(self) -> None:
        out = io.StringIO()
        with TokenProgress(10, quiet=True, console=Console(file=out, force_terminal=True)) as shown:
            shown.advance(10)
            shown.say("out of memory")
        assert out.getvalue() == ""

    def test_a_bar_on_a_terminal(self) -> None:
        out = io.StringIO()
        with TokenProgress(10, console=Console(file=out, force_terminal=True, width=100)) as shown:
            shown.advance(5)
            shown.say("out of memory")
        assert "out of memory" in out.getvalue()
        assert "50%" in out.getvalue()
