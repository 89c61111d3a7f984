"""Windows and batches hold every rollout once, within their budgets."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.offline.forward import batches_of, windows


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
