"""Sequences in a temporary file are the lists that they stand for, and memory does not grow with them."""

from __future__ import annotations

import pickle
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toy_models import spooled
from toy_models.spooled import Mapped, Spooled
from toy_models.table_formats import Place


@settings(deadline=None)
@given(st.lists(st.text(max_size=3), max_size=40), st.integers(1, 7), st.data())
def test_it_is_the_list_of_its_values(values: list[str], block: int, data: st.DataObject) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spooled, "BLOCK", block)
        sequence = Spooled(values[: len(values) // 2])
        sequence.extend(values[len(values) // 2 :])
        assert len(sequence) == len(values)
        assert list(sequence) == values
        assert sequence == values == Spooled(values)
        assert sequence != [*values, ""]
        assert not values or sequence != Spooled([*values[1:], "another"])
        assert list(reversed(sequence)) == values[::-1]
        index = data.draw(st.integers(-50, 50))
        low, high = data.draw(st.tuples(st.integers(-50, 50), st.integers(-50, 50)))
        assert sequence[low:high] == values[low:high]
        assert list(Mapped(sequence, len)[low:high]) == [len(value) for value in values[low:high]]
        if -len(values) <= index < len(values):
            assert sequence[index] == values[index]
        else:
            with pytest.raises(IndexError):
                sequence[index]


def test_two_walks_at_a_time_do_not_disturb_each_other() -> None:
    values = Spooled(range(5000))
    assert all(a == b for a, b in zip(values, values, strict=True))
    assert sum(1 for a, b in zip(values, reversed(values), strict=True) if a + b == 4999) == 5000


def test_short_ones_touch_no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> Any:
        raise AssertionError("a file was made")

    monkeypatch.setattr(spooled.tempfile, "TemporaryFile", refuse)
    assert len(Spooled(range(spooled.BLOCK - 1))) == spooled.BLOCK - 1


def test_memory_does_not_grow_with_its_length() -> None:
    tracemalloc.start()
    try:
        values = Spooled([f"{i} " * 500] for i in range(10_000))  # 29 MB of text
        assert sum(len(value[0]) for value in values) > 24_000_000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 6_000_000  # blocks of 0.8 MB: the last, the one that is read, and what is pickled


def test_places_come_back_as_they_were() -> None:
    place = pickle.loads(pickle.dumps(Place("a.jsonl", "line", 7, ", response 2")))
    assert place == "a.jsonl line 7, response 2"
    assert (place.file, place.kind, place.number) == ("a.jsonl", "line", 7)
