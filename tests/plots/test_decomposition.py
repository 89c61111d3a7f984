"""The figure of the decomposition: which dots are filled, where intervals end, and what lies beyond the scale."""

from __future__ import annotations

import math

import pandas as pd
import pytest
from matplotlib.figure import Figure

from analysis.claims.fraction import COUNTDOWN, PLACES, RATIO_FACTORS
from analysis.claims.front_figure import front_figure
from analysis.plots import decomposition_figure, share_dots

SHARES = pd.DataFrame(
    [
        ("noise", "low", -0.02, -0.03, -0.01, 0.01),
        ("noise", "high", 0.01, -0.01, 0.03, 0.4),
        ("optimizer", "low", math.nan, math.nan, math.nan, math.nan),
        ("optimizer", "high", 0.0, -0.01, 0.01, 1.0),
    ],
    columns=["factor", "place", "value", "low", "high", "adjusted"],
)
FACTORS = {"noise": "fewer responses", "optimizer": "AdamW"}
PLACE_TEXT = {"low": "base at 0.35", "high": "base at 0.85"}


def test_dots_are_filled_where_holm_says_so() -> None:
    ax = Figure().subplots()
    share_dots(ax, SHARES, FACTORS, PLACE_TEXT, {"noise": 0.01, "optimizer": 0.16})
    assert [label.get_text() for label in ax.get_yticklabels()] == ["AdamW", "fewer responses"]
    dots = [line for line in ax.lines if line.get_marker() in ("o", "s")]
    assert [float(dot.get_xdata()[0]) for dot in dots[:2]] == [-0.02, 0.01]
    assert dots[0].get_markerfacecolor() == dots[0].get_color()
    assert dots[1].get_markerfacecolor() == "white"
    crosses = [line for line in ax.lines if line.get_marker() == "x"]
    assert float(crosses[0].get_xdata()[0]) == 0.01
    assert float(crosses[1].get_xdata()[0]) == pytest.approx(ax.get_xlim()[1])
    assert [text.get_text() for text in ax.texts] == ["+0.16 →"]


def test_each_metric_has_a_panel() -> None:
    shares = pd.concat([SHARES.assign(metric=name) for name in ("one", "two")])
    figure = decomposition_figure(
        shares, FACTORS, PLACE_TEXT, {"one": ("One", "nats"), "two": ("Two", "")}, {}, note="A caption."
    )
    assert [ax.get_xlabel() for ax in figure.axes] == ["nats", ""]


def test_a_decision_is_enough_for_the_front_figure() -> None:
    rows = [
        {"factor": factor.name, "place": place.name, "metric": metric, "kind": kind}
        | {"value": 0.01, "low": None, "high": None, "adjusted": None}  # as JSON gives what does not exist
        for factor in RATIO_FACTORS
        for place in (*PLACES, COUNTDOWN)
        for metric in ("entropy_fixed", "pass@64")
        for kind in ("Shapley", "first in")
    ]
    exact = [{"factor": "noise", "kind": "Shapley", "metric": "entropy", "value": 0.1}]
    tables = {"shares": pd.DataFrame(rows).to_dict("list"), "exact policies": pd.DataFrame(exact).to_dict("list")}
    figure = front_figure(tables)
    assert len(figure.axes) == 2
    assert len(figure.legends[0].get_texts()) == 5
