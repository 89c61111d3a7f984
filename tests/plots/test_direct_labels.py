"""Names at the ends of lines: which, where, and none upon another."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from analysis import plots
from analysis.plots.direct_labels import spread


@pytest.fixture
def ax() -> Axes:
    with plots.style():
        return Figure(figsize=(3, 2), layout="constrained").subplots()


def test_names_stand_in_the_order_of_the_lines_and_apart(ax: Axes) -> None:
    for name, end in (("a", 0.50), ("b", 0.51), ("c", 0.52), ("d", 0.0), ("e", 1.0)):
        ax.plot([0, 1], [0.2, end], label=name, color="#123456")
    ax.plot([0, 1], [0, 0])  # no name of its own
    plots.direct_labels(ax)
    FigureCanvasAgg(ax.figure).draw()
    boxes = {text.get_text(): Text.get_window_extent(text) for text in ax.texts}  # without the pointers
    assert sorted(boxes, key=lambda name: boxes[name].y0) == ["d", "a", "b", "c", "e"]
    ordered = sorted(boxes.values(), key=lambda box: box.y0)
    assert all(low.y1 <= high.y0 + 1 for low, high in pairwise(ordered))
    assert all(box.x0 >= ax.get_window_extent().x1 for box in boxes.values())
    assert all(box.x1 <= ax.figure.bbox.x1 for box in boxes.values())
    assert all(text.get_color() == "#123456" for text in ax.texts)


def test_a_line_that_ends_early_or_is_not_finite(ax: Axes) -> None:
    ax.plot([0, 1, 2], [0, 1, np.nan], label="early")
    ax.plot([0, 2], [np.nan, np.nan], label="nothing")
    ax.set_xlim(0, 2)
    plots.direct_labels(ax)
    (text,) = ax.texts
    assert text.get_text() == "early"
    assert text.arrow_patch is not None
    assert text.xy[0] == pytest.approx(0.5)  # half way: the pointer goes to the last finite point


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9))
def test_places_are_apart_in_order_and_within_the_axes(places: list[float]) -> None:
    gap = 0.1
    found = spread(np.sort(np.array(places)), gap)
    assert (np.diff(found) >= gap - 1e-9).all()
    assert found.min() >= 0
    assert found.max() <= 1
