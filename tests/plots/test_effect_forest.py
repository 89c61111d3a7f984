"""Effects and verdicts as pictures: what is drawn where, and that no verdict is told by colour alone."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from analysis.claims.claim import FAMILIES, VERDICTS
from analysis.claims.figures import claim_figure, family_figure, ledger_figures
from analysis.plots import VERDICT_LOOKS, effect_forest, verdict_forest
from tests.claims.by_hand_claims import DECISION, hand_claim, hand_entry

EFFECTS = pd.DataFrame(
    {
        "label": ["first", "second"],
        "value": [0.1, -0.2],
        "low": [0.05, np.nan],
        "high": [0.15, np.nan],
        "null": 0.0,
        "margin": [0.02, np.nan],
    }
)


def test_every_verdict_has_a_shape_of_its_own() -> None:
    assert set(VERDICTS) <= VERDICT_LOOKS.keys()
    assert len({marker for _, marker in VERDICT_LOOKS.values()}) == len(VERDICT_LOOKS)


def test_effects_stand_from_top_to_bottom_and_hollow_without_an_interval() -> None:
    ax = Figure().subplots()
    effect_forest(ax, EFFECTS, verdict="holds")
    dots = [line for line in ax.lines if line.get_marker() == "o"]
    assert [float(np.ravel(dot.get_xdata())[0]) for dot in dots] == [0.1, -0.2]
    assert [float(np.ravel(dot.get_ydata())[0]) for dot in dots] == [1.0, 0.0]
    assert [dot.get_markerfacecolor() for dot in dots] == [VERDICT_LOOKS["holds"][0], "white"]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["second", "first"]
    (band,) = ax.patches
    assert band.get_bbox().intervalx == pytest.approx([-0.02, 0.02])  # type: ignore[attr-defined]


def test_a_row_of_the_page_has_its_own_scale_and_its_verdict_in_words() -> None:
    ax = Figure().subplots()
    rows = EFFECTS.assign(claim=["A", "B"], verdict=["holds", "not yet"], group="one", text="in words")
    rows.loc[1, "value"] = np.nan
    verdict_forest(ax, rows, {"one": "A group", "two": "An empty one"})
    assert [text.get_text() for text in ax.get_yticklabels()] == ["A group", "A", "B"]
    assert [text.get_text() for text in ax.texts] == ["holds", "in words", "not yet"]
    interval = next(line for line in ax.lines if len(line.get_xdata()) == 2 and line.get_linewidth() == 1.0)  # type: ignore[arg-type]
    assert list(interval.get_xdata()) == pytest.approx([1 / 3, 1.0])  # type: ignore[arg-type]


def test_figures_of_a_ledger() -> None:
    claims = [hand_claim("P1"), hand_claim("P2"), hand_claim("G1", "gradients")]
    entries = [hand_entry(claim) for claim in claims[:2]]
    figures = ledger_figures(claims, entries)
    assert list(figures) == ["ledger.png", "ledger_pass-at-k.png"]
    assert len(figures["ledger_pass-at-k.png"].axes) == 2
    assert set(FAMILIES) >= {"pass-at-k", "gradients"}
    assert ledger_figures(claims, []) == {}


def test_a_decision_without_effects_has_no_figure() -> None:
    from dataclasses import replace

    bare = replace(DECISION, effects=())
    claim = hand_claim()
    assert claim_figure(claim, hand_entry(claim, bare)) is None
    assert family_figure([(claim, hand_entry(claim, bare))]) is None
