"""Titles of figures: sentences computed from the data that the figure draws."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from ..common.tables import Cell
from ..common.whole_numbers import floor as whole_floor
from ..plots import BASE
from .comparison import EFFECTIVE, ENTROPY, Comparison, MetricColumn
from .verdict import short_gap

__all__ = [
    "LOG_EFFECTIVE",
    "entropy_against_steps_title",
    "equal_pass_at_1_titles",
    "furthest_title",
    "gaps_title",
    "head_title",
    "losers_title",
    "pass_at_k_title",
    "unexplained_title",
]

LOG_EFFECTIVE = "log_effective_solutions"
EQUAL = 0.005  # Pass@1 that is shown as equal


def furthest_title(data: pd.DataFrame, name: str, *, x: str = "step") -> str:
    """Who got furthest in a quantity: columns label, `x`, value.

    Args:
        data: curves, each in order of `x`.
        name: of the quantity.
        x: step or update.
    """
    last = data.sort_values(x).groupby("label", sort=False).tail(1).sort_values("value", ascending=False)
    best = last.iloc[0]
    if len(last) == 1:
        return f"{name} {_moves(float(data['value'].iloc[0]), float(best['value']))}"
    leaders = last[last["value"] > best["value"] - EQUAL]["label"].tolist()
    if len(leaders) == len(last):
        return f"At {x} {best[x]:.0f} all have nearly the same {name}: {best['value']:.2f}"
    who = leaders[0] if len(leaders) == 1 else f"{', '.join(leaders[:-1])} and {leaders[-1]}"
    verb = "has" if len(leaders) == 1 else "have"
    return f"At {x} {best[x]:.0f} {who} {verb} the highest {name}: {best['value']:.2f}"


def entropy_against_steps_title(comparison: Comparison | None, data: pd.DataFrame) -> str:
    """The gap between two methods at the last common step; of one method, how its entropy moved."""
    column = None if comparison is None else comparison.metric(ENTROPY)
    if comparison is None or column is None or not comparison.pairs:
        if data["label"].nunique() > 1:
            return "Entropy"
        return f"Entropy {_moves(float(data['value'].iloc[0]), float(data['value'].iloc[-1]))} nats"
    ends_only = comparison.at_ends()
    matching, pair = ends_only.match("step", [ends_only.last_step], [column]), comparison.pairs[0]
    cell = ends_only.difference(matching, ends_only.last_step, pair, column)
    return f"At step {ends_only.last_step:.0f} {short_gap(*pair, cell)}"


def equal_pass_at_1_titles(comparison: Comparison) -> tuple[str, str]:
    """Gaps between two methods at the highest common level of Pass@1: in entropy, and in effective solutions.

    Raises:
        EmptyRangeError: there is no common level.
    """
    pair, entropy = comparison.pairs[0], comparison.metric(ENTROPY)
    if entropy is None:
        return "", ""
    effective = comparison.metric(EFFECTIVE)
    columns = [entropy] if effective is None else [entropy, effective]
    matching = comparison.match("pass@1", metrics=columns, fractions=(1.0,))
    level = matching.levels[-1]
    cell = comparison.difference(matching, level, pair, entropy)
    first = f"At equal Pass@1 {short_gap(*pair, cell, what='')}"
    if effective is None:
        return first, f"{pair[0]} − {pair[1]} at equal Pass@1"
    values = [comparison.value(matching, level, label, effective).value for label in pair]
    gap = comparison.difference(matching, level, pair, effective)
    return first, gaps_title(values[0], values[1], gap)


def gaps_title(of_first: float, of_second: float, gap: Cell) -> str:
    """Effective solutions of two methods as a sentence.

    >>> gaps_title(7.38, 9.27, Cell(-1.89, -2.4, -1.4))
    '… and fewer effective solutions: 7.4 against 9.3'
    """
    if math.isfinite(gap.low) and gap.low <= 0 <= gap.high:
        return f"… nor in effective solutions: {of_first:.1f} and {of_second:.1f}"
    if round(of_first, 1) == round(of_second, 1):
        return f"… and as many effective solutions: {of_first:.1f} and {of_second:.1f}"
    more = "more" if of_first > of_second else "fewer"
    return f"… and {more} effective solutions: {of_first:.1f} against {of_second:.1f}"


def pass_at_k_title(data: pd.DataFrame, minus: str) -> str:
    """A difference in Pass@k at the smallest k, and where it is largest the other way round, else at the largest k.

    `data`: rows of one panel, columns label, k, value, low, high. The method is NSR if it is there, else the first.
    """
    labels = [label for label in data["label"].unique() if label != BASE]
    if not labels:
        return ""
    label = "NSR" if "NSR" in labels else labels[0]
    rows = data[data["label"] == label].sort_values("k")
    first, last = rows.iloc[0], rows.iloc[-1]
    against = rows[(np.sign(rows["value"]) != np.sign(first["value"])) & ((rows["low"] > 0) | (rows["high"] < 0))]
    if len(against):
        last = against.iloc[int(against["value"].abs().to_numpy().argmax())]
    verb = _standing(first)
    text = f"{label} {verb} {minus} at k = {first['k']} ({_signed(first['value'])})"
    if last["k"] == first["k"]:
        return text
    then = "and" if _standing(last) == verb else _standing(last).removesuffix(" with")
    return f"{text},\n{then} at k = {last['k']} ({_signed(last['value'])})"


def _standing(row: pd.Series) -> str:
    """How a method stands to another, from a difference in Pass@k with its interval."""
    if row["low"] <= 0 <= row["high"] or row["value"] == 0:
        return "is level with"
    return "leads" if row["value"] > 0 else "trails"


def head_title(flows: pd.DataFrame) -> str:
    """Whose most probable token gained most by the last update: columns label, bucket, update, value.

    >>> head_title(pd.DataFrame({"label": ["PSR", "NSR"], "bucket": "1", "update": 3, "value": [0.15, 0.11]}))
    'The most probable token gains most under PSR: +0.15'
    """
    head = flows[flows["bucket"] == flows["bucket"].iloc[0]].sort_values("update", kind="stable")
    ends = head.groupby("label", sort=False)["value"].last()
    change = f"{ends.max():+.2f}".replace("-", "−")
    way = "gains" if ends.max() > 0 else "loses"
    if len(ends) == 1:
        return f"{ends.index[0]}: the most probable token {way} mass: {change}"
    return f"The most probable token {way} {'most' if way == 'gains' else 'least'} under {ends.idxmax()}: {change}"


def losers_title(ends: pd.DataFrame) -> str:
    """Which ranks lost mass by the last update, on the mean over methods: columns bucket, value; most first.

    >>> losers_title(pd.DataFrame({"bucket": ["1", "2–4", "5–16", "17–128"], "value": [0.2, -0.05, -0.15, 0.0]}))
    '… the mass comes from ranks 5–16 and 2–4'
    """
    means = ends.groupby("bucket", sort=False)["value"].mean()
    lost = means[means < -0.05 * means.abs().max()].sort_values().index.tolist()
    if not lost or means.index[0] in lost:
        return "Change by rank"
    ranks = lost[0] if len(lost) == 1 else f"{', '.join(lost[:-1])} and {lost[-1]}"
    return f"… the mass comes from ranks {ranks}"


def unexplained_title(data: pd.DataFrame) -> str:
    """How much the first order misses, at the worst point of the curves: column value, 1 − R²."""
    worst = data.iloc[int(data["value"].to_numpy().argmax())]
    if worst["value"] > 1:
        return f"The first order fails in places ({worst['label']}, update {worst['update']:.0f})"
    return f"The first order explains at least {_percent(1 - worst['value'])} of Δ log π(y)"


def log_effective(comparison: Comparison) -> MetricColumn | None:
    """The column whose differences are log ratios of effective solutions."""
    column = comparison.metric(EFFECTIVE)
    return None if column is None else column._replace(key=LOG_EFFECTIVE, metric=LOG_EFFECTIVE)


def _percent(fraction: float) -> str:
    """A fraction near one without rounding it up to all.

    >>> _percent(0.99876), _percent(0.9999987), _percent(0.57)
    ('99.8%', '99.999%', '57.0%')
    """
    for digits in (1, 2, 3):
        floor = whole_floor(100 * fraction * 10**digits) / 10**digits
        if floor < 100 - 10.0**-digits / 2 and (100 - floor) >= 10.0**-digits * 1.5:
            break
    return f"{floor:.{digits}f}%"


def _moves(first: float, last: float) -> str:
    if abs(last - first) < EQUAL:
        return f"stays at {last:.2f}"
    return f"{'rises' if last > first else 'falls'} from {first:.2f} to {last:.2f}"


def _signed(value: float) -> str:
    return f"{np.round(value, 3) + 0.0:+.3f}".replace("-", "−")
