"""What the figures of the ledger write beside an effect, on the decisions of the committed ledger."""

from __future__ import annotations

from matplotlib.text import Text

from analysis.claims.claim import FAMILIES
from analysis.claims.figures import claim_figure, family_figure, page_figure
from analysis.claims.registry import all_claims
from analysis.claims.results import committed

ENTRIES = {entry.id: entry for entry in committed()}


def _labels(name: str) -> list[str]:
    figure = claim_figure(all_claims()[name], ENTRIES[name])
    assert figure is not None
    return [tick.get_text().replace("\n", " ") for tick in figure.axes[0].get_yticklabels()]


def test_a_condition_is_not_said_twice() -> None:
    labels = _labels("D1")
    assert "entropy on fixed prefixes: NSR − PSR, equal steps (path, regime B)" in labels
    assert all(label.count("equal steps") <= 1 for label in labels)
    assert len(set(labels)) == len(labels)  # what is left still tells them apart


def test_no_text_leaves_the_page() -> None:
    claims = list(all_claims().values())
    figures = [page_figure(claims, list(ENTRIES.values()))]
    for family in FAMILIES:
        decided = [(claim, ENTRIES[claim.id]) for claim in claims if claim.family == family and claim.id in ENTRIES]
        figure = family_figure(decided)
        assert figure is not None
        figures.append(figure)
    for figure in figures:
        figure.draw_without_rendering()
        width = figure.bbox.width
        for ax in figure.axes:
            for text in ax.get_children():  # headings and texts; tick labels belong to the axis
                if isinstance(text, Text) and text.get_text():
                    assert text.get_window_extent().x1 <= width, text.get_text()
