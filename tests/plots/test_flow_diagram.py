"""Ribbons between groups of tokens: who loses to whom, and how high they are drawn."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch, Rectangle

from analysis import UsageError, plots

GROUPS = [plots.SAMPLED, "rank 1", "rank 2–4"]


@pytest.fixture
def ax() -> Axes:
    with plots.style():
        return Figure(figsize=(3, 2)).subplots()


def test_what_leaves_a_group_minus_what_arrives_is_its_mean_change() -> None:
    rng = np.random.default_rng(0)
    change = rng.normal(size=(50, 5))
    change -= change.mean(1, keepdims=True)
    names = list("abcde")
    found = plots.transfers(change, names)
    assert (found["value"] > 0).all()
    leaving = found.groupby("source")["value"].sum().reindex(names, fill_value=0.0)
    arriving = found.groupby("target")["value"].sum().reindex(names, fill_value=0.0)
    np.testing.assert_allclose(arriving - leaving, change.mean(0), atol=1e-12)


def test_a_loss_is_shared_in_proportion_to_the_gains_of_its_own_context() -> None:
    change = np.array([[-0.3, 0.2, 0.1], [-0.1, 0.0, 0.1]])
    found = plots.transfers(change, list("abc")).set_index(["source", "target"])["value"]
    assert found.to_dict() == pytest.approx({("a", "b"): 0.1, ("a", "c"): 0.1})


def test_opposite_flows_of_two_contexts_cancel() -> None:
    assert plots.transfers(np.array([[0.1, -0.1], [-0.1, 0.1]]), ["a", "b"]).empty


def test_changes_that_are_none_are_refused() -> None:
    with pytest.raises(UsageError, match=r"change: expected at least one context and 2 groups, got shape \(1, 3\)"):
        plots.transfers(np.zeros((1, 3)), ["a", "b"])
    with pytest.raises(UsageError, match="got a NaN"):
        plots.transfers(np.array([[np.nan, 0.0]]), ["a", "b"])
    with pytest.raises(UsageError, match=r"rows that sum to 0, got 0\.5 in context 1"):
        plots.transfers(np.array([[0.0, 0.0], [0.5, 0.0]]), ["a", "b"])


def test_ribbons_and_bars_are_as_high_as_their_mass(ax: Axes) -> None:
    data = pd.DataFrame({"source": [GROUPS[0], GROUPS[2]], "target": ["rank 1"] * 2, "value": [0.03, 0.01]})
    plots.flow_diagram(ax, data, GROUPS)
    ribbons = [patch.get_path().vertices for patch in ax.patches if isinstance(patch, PathPatch)]
    bars = [patch for patch in ax.patches if isinstance(patch, Rectangle)]
    left, right = (sorted(b.get_height() for b in bars if (b.get_x() < 0.5) == side) for side in (True, False))
    assert left[1] / left[0] == pytest.approx(3)
    assert right == pytest.approx([sum(left)])
    heights = sorted(vertices[7][1] - vertices[0][1] for vertices in ribbons)
    assert heights == pytest.approx(left)
    arrive = sorted((vertices[3][1], vertices[4][1]) for vertices in ribbons)
    assert arrive[0][1] == pytest.approx(arrive[1][0])  # one below the other in the bar of rank 1
    assert [text.get_text() for text in ax.texts] == ["★ sampled  −3%", "rank 2–4  −1%", "rank 1  +4%"]
    assert all(vertices[:, 1].min() >= 0 and vertices[:, 1].max() <= 1 + 1e-9 for vertices in ribbons)


def test_without_a_flow_the_picture_says_so(ax: Axes) -> None:
    plots.flow_diagram(ax, pd.DataFrame({"source": [], "target": [], "value": []}), GROUPS)
    assert [text.get_text() for text in ax.texts] == ["no mass moved"]


def test_ribbons_that_cannot_be_drawn_are_refused(ax: Axes) -> None:
    row = {"source": ["rank 1"], "target": [plots.SAMPLED], "value": [0.1]}
    with pytest.raises(UsageError, match="got 'rank 9'; name it in groups"):
        plots.flow_diagram(ax, pd.DataFrame(row | {"source": ["rank 9"]}), GROUPS)
    with pytest.raises(UsageError, match=r"masses of at least 0, got -0\.1"):
        plots.flow_diagram(ax, pd.DataFrame(row | {"value": [-0.1]}), GROUPS)
    with pytest.raises(UsageError, match="masses of at least 0, got nan"):
        plots.flow_diagram(ax, pd.DataFrame(row | {"value": [np.nan]}), GROUPS)
