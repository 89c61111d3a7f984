"""Tokens in the plane of π_y and c: their places, their colours, and the boundaries."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from analysis import UsageError, plots
from analysis.plots.phase_plane import MOST_TOKENS


@pytest.fixture
def ax() -> Axes:
    with plots.style():
        return Figure(figsize=(3, 3)).subplots()


def tokens(count: int) -> pd.DataFrame:
    """Sampled tokens of random distributions; whether dH under −(e_y − π) is positive, by its definition."""
    rng = np.random.default_rng(3)
    rows = []
    for _ in range(count):
        probs = rng.dirichlet(np.full(12, 0.4)) + 1e-12
        probs /= probs.sum()
        y = int(rng.choice(12, p=probs))
        push = -(np.eye(12)[y] - probs)
        dentropy = -np.sum(probs * (np.log(probs) - np.sum(probs * np.log(probs))) * push)
        rows.append((probs[y], np.sum(probs**2), dentropy > 0))
    return pd.DataFrame(rows, columns=["prob", "collision", "raises"])


def test_each_token_is_at_its_place_in_the_colour_of_its_sign(ax: Axes) -> None:
    data = tokens(200)
    plots.phase_plane(ax, data)
    by_label = {str(line.get_label()): line for line in ax.lines}
    for text, raises, color in (("raises", True, "#0072b2"), ("lowers", False, "#d55e00")):
        line = by_label[f"it {text} the entropy"]
        rows = data[data["raises"] == raises]
        np.testing.assert_allclose(line.get_xydata(), rows[["prob", "collision"]].to_numpy())
        assert to_hex(line.get_color()) == color
    assert len(data["raises"].unique()) == 2


def test_the_squeeze_boundary_is_the_diagonal(ax: Axes) -> None:
    plots.phase_plane(ax, tokens(5))
    assert ax.lines[0].get_xydata().tolist() == [[0, 0], [1, 1]]


def test_along_the_curve_the_entropy_does_not_change() -> None:
    y, c = plots.entropy_sign_curve(6)
    for ratio, prob, collision in zip(np.linspace(0.01, 0.99, 6), y, c, strict=True):
        rest = ratio ** np.arange(400.0)
        probs = np.concatenate([[prob], (1 - prob) * rest / rest.sum()])
        log_probs = np.log(np.maximum(probs, 1e-300))
        assert collision == pytest.approx((probs**2).sum(), rel=1e-9)
        push = np.eye(len(probs))[0] - probs
        dentropy = -np.sum(probs * (log_probs - np.sum(probs * log_probs)) * push)
        scale = np.sum(np.abs(probs * (log_probs - np.sum(probs * log_probs)) * push))
        assert abs(dentropy) < 1e-9 * scale  # a root found to 1e-15 in π_y


def test_of_many_tokens_evenly_many_are_drawn(ax: Axes) -> None:
    data = pd.concat([tokens(50)] * 200, ignore_index=True)
    plots.phase_plane(ax, data)
    drawn = {str(line.get_label()): len(line.get_xdata()) for line in ax.lines if "it " in str(line.get_label())}
    assert sum(drawn.values()) <= MOST_TOKENS + 2
    assert drawn["it raises the entropy"] / sum(drawn.values()) == pytest.approx(data["raises"].mean(), abs=0.01)


def test_what_no_distribution_has_is_refused(ax: Axes) -> None:
    with pytest.raises(UsageError, match="at least one token, got none"):
        plots.phase_plane(ax, tokens(3).iloc[:0])
    for prob, collision in ((0.5, 0.9), (0.5, 0.1), (1.2, 1.0), (np.nan, 0.5), (0.5, np.nan)):
        bad = pd.DataFrame({"prob": [0.5, prob], "collision": [0.5, collision], "raises": True})
        with pytest.raises(UsageError, match=r"got π_y = .* in row 1"):
            plots.phase_plane(ax, bad)
