"""Noise against success probability: points, bars, and the mark of a crossing."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from analysis import plots


@pytest.fixture
def ax() -> Axes:
    with plots.style():
        return Figure(figsize=(3, 2)).subplots()


def test_points_in_order_of_p_with_their_intervals(ax: Axes) -> None:
    data = pd.DataFrame(
        {
            "label": ["NSR", "PSR", "NSR"],
            "p": [0.8, 0.5, 0.2],
            "value": [2.0, 5.0, 30.0],
            "low": [1.0, 4.0, 20.0],
            "high": [4.0, 6.0, 45.0],
        }
    )
    plots.noise_curve(ax, data)
    lines = {container.get_label(): container for container in ax.containers}
    line, _, (bars,) = lines["NSR"]
    np.testing.assert_array_equal(line.get_xydata(), [[0.2, 30.0], [0.8, 2.0]])
    assert to_hex(line.get_color()) == plots.look("NSR").color.lower()
    np.testing.assert_allclose([segment[:, 1] for segment in bars.get_segments()], [[20.0, 45.0], [1.0, 4.0]])
    assert ax.get_yscale() == "log"
    assert ax.get_xlim() == (0, 1)


@pytest.mark.parametrize(
    ("low", "high", "span"), [(0.6, 0.8, (0.6, 0.8)), (None, 0.8, (0.0, 0.8)), (0.6, None, (0.6, 1.0))]
)
def test_crossing(ax: Axes, low: float | None, high: float | None, span: tuple[float, float]) -> None:
    plots.crossing_mark(ax, at=0.7, low=low, high=high)
    (patch,) = ax.patches
    box = patch.get_extents().transformed(ax.transData.inverted())
    np.testing.assert_allclose((box.x0, box.x1), span, atol=1e-12)
    assert [line.get_xdata()[0] for line in ax.lines if line.get_linestyle() == "--"] == [0.7]
    assert [text.get_text() for text in ax.texts] == ["p* = 0.70"]


def test_no_crossing_leaves_the_line_at_one(ax: Axes) -> None:
    plots.crossing_mark(ax, at=None, low=None, high=None)
    assert not ax.patches
    assert not ax.texts
    assert [line.get_ydata()[0] for line in ax.lines] == [1.0]
