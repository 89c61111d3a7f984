"""Plots of the laws and of the factorial: what is drawn is what was handed over."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis import laws, plots


def axes():
    return Figure().subplots()


def test_push_bars_and_flow():
    ax, values = axes(), np.array([0.3, -0.5, 0.2])
    plots.push_bars(ax, values, 1, "NSR", unit="Δz")
    assert [bar.get_height() for bar in ax.patches] == values.tolist()
    assert [bool(bar.get_hatch()) for bar in ax.patches] == [False, True, False]
    ax, probs = axes(), np.array([0.5, 0.3, 0.2])
    plots.flow_against_prior(ax, probs, values, 1, "PSR", boundary=0.25)
    line = ax.lines[0]
    assert line.get_xdata().tolist() == [0.2, 0.5]
    assert line.get_ydata().tolist() == [0.2, 0.3]
    assert any(list(found.get_xdata()) == [0.25, 0.25] for found in ax.lines)


def test_boundaries():
    curves = {"uniform": laws.boundary_curves(np.full(9, 1 / 9), np.linspace(0.05, 0.9, 20))}
    ax, other = axes(), axes()
    plots.boundary_lines(ax, curves)
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), curves["uniform"].against)
    plots.entropy_sign_lines(other, curves)
    drawn = other.lines[0].get_ydata()
    assert np.abs(drawn).max() == 1
    assert (np.sign(drawn) == np.sign(curves["uniform"].covariance)).all()


def test_factorial():
    shares = pd.DataFrame(
        [
            {"factor": "noise", "kind": "first in", "value": 0.1, "low": 0.05, "high": 0.2},
            {"factor": "form", "kind": "Shapley", "value": -0.3, "low": -0.4, "high": -0.2},
        ]
    )
    ax = axes()
    plots.factor_effects(ax, shares, ["noise", "form"])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["form", "noise"]
    points = sorted((float(c[0].get_xdata()[0]), round(float(c[0].get_ydata()[0]))) for c in ax.containers)
    assert points == [(-0.3, 0), (0.1, 1)]
    ax = axes()
    pairs = pd.DataFrame([{"first": "noise", "second": "form", "value": 0.25, "low": 0.1, "high": 0.4}])
    plots.interaction_grid(ax, pairs, ["noise", "form"])
    assert [(t.get_text(), t.get_weight()) for t in ax.texts] == [("+0.25", "bold")]
    ax, x = axes(), np.array([[0.1, 0.3], [0.2, 0.4]])
    plots.metric_against_success(ax, {"PSR": (x, 2 * x)})
    assert ax.lines[-1].get_ydata().tolist() == [0.4, 0.6000000000000001]
