"""The figure of S2: what makes NSR and PSR differ at equal Pass@1, by factor and accuracy, from a decision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .fraction import COUNTDOWN, HIGH, LABELS, LOW, MIDDLE, RATIO_FACTORS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["front_figure"]

_PLACES = {
    LOW.name: "path, base at 0.35",
    MIDDLE.name: "path, base at 0.6",
    HIGH.name: "path, base at 0.85",
    COUNTDOWN.name: "countdown, base at 0.4",
}
_METRICS = {
    "entropy_fixed": ("entropy on fixed prefixes", "share of NSR − PSR (nats per 0.1 of Pass@1)"),
    "pass@64": ("Pass@64", "share of NSR − PSR (per 0.1 of Pass@1)"),
}
_EXACT = {"entropy_fixed": "entropy", "pass@64": "pass@8"}  # the metric of the exact policy in each panel
_NOTE = (
    "Shapley shares of four departures from the identity of the two expected gradients, at equal Pass@1 and for "
    "each 0.1 of it that was gained. Bars: 95% Student's t over seeds, each with a base of its own; filled: "
    "different from 0 after Holm's correction over the shares of path. Exact policy: 40 responses a prompt, where "
    "off is the expected gradient; its Pass@k is at k = 8."
)


def front_figure(tables: Mapping[str, Mapping[str, Sequence[Any]]]) -> Figure:
    """Draw the tables of the decision about S2.

    Args:
        tables: `Decision.tables`; "shares" and "exact policies" are read.
    """
    import pandas as pd

    from ..plots.decomposition import decomposition_figure

    shares, exact = (pd.DataFrame(dict(tables[name])) for name in ("shares", "exact policies"))
    shares = shares[shares["kind"] == "Shapley"].astype(dict.fromkeys(("value", "low", "high", "adjusted"), float))
    exact = exact[exact["kind"] == "Shapley"]
    return decomposition_figure(
        shares,
        {factor.name: LABELS[factor.name] for factor in RATIO_FACTORS},
        _PLACES,
        _METRICS,
        {
            metric: dict(zip(rows["factor"], rows["value"].astype(float), strict=True))
            for metric, name in _EXACT.items()
            if len(rows := exact[exact["metric"] == name])
        },
        note=_NOTE,
    )
