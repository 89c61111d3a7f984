"""How much of what updates did the first order explains, and whose gradients the explained part came from.

A context's JVP is the sum of the JVPs of the parts of the parameter step (`schema.SHARES`), read in two ways:

    source   pos, neg, reg, decay: each gradient's whole impulse, in momentum too, credited to where it came from
    time     history, all that stood in momentum before the update; and pos, neg, reg, decay of this update alone
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .effects import context_flows, in_ranges, median_or_nan, r_squared, slope
from .frames import SHARES_COLUMNS, with_units
from .schema import SHARES

if TYPE_CHECKING:
    from .recorded import Recorded

__all__ = ["VIEWS", "shares_summary", "view"]

_SOURCES = ("pos", "neg", "reg", "decay")

# view -> part -> what it is made of
VIEWS: dict[str, dict[str, tuple[str, ...]]] = {
    "source": {source: (f"{source}_now", f"{source}_past") for source in _SOURCES},
    "time": {"history": tuple(f"{source}_past" for source in _SOURCES)}
    | {source: (f"{source}_now",) for source in _SOURCES},
}

_GROUP = ["first_update", "last_update", "kind", "sign"]


def view(shares: np.ndarray, name: str) -> dict[str, np.ndarray]:
    """The parts of a view, each (n,), from the recorded ones (n, len(SHARES)).

    >>> parts = view(np.arange(8.0)[None], "time")
    >>> {name: float(values[0]) for name, values in parts.items()}
    {'history': 22.0, 'pos': 0.0, 'neg': 1.0, 'reg': 2.0, 'decay': 3.0}
    """
    return {
        part: shares[:, [SHARES.index(member) for member in members]].sum(1) for part, members in VIEWS[name].items()
    }


def shares_summary(run: Recorded, *, ranges: int = 1) -> pd.DataFrame:
    """The first order beside the realised changes, and its parts, over contexts whose JVP was recorded by part.

    Args:
        run: a run whose step was recorded by part (`record.shares_every`).
        ranges: into how many equal ranges the updates are split.

    Returns:
        One row for each of `ranges` equal ranges of updates (first_update to last_update, both included), kind, sign
    (missing where the response had none), quantity (log_prob or entropy), view and part. Of the quantity, the same for
    every part:

        n, realised_mean, realised_median_abs    number of contexts; mean and median |·| of the realised change
        jvp_mean, jvp_r2, jvp_slope              of the whole step; R² and slope as in `prediction_summary`

    Of the part, with x_i the change that it predicts at context i and j_i that of the whole step; over the parts of a
    view means add to jvp_mean and each of the shares to one:

        mean        mean x_i
        net         Σ x_i / Σ j_i: fraction of the net change; unstable where rises and falls cancel
        projected   Σ x_i·j_i / Σ j_i²: fraction of the changes' pattern, negative where the part works against it
        absolute    Σ |x_i| / Σ_parts Σ |x_i|: fraction of all that was pushed, whatever its direction

    A statistic that its numbers do not determine is missing.

    Raises:
        UsageError: fewer than one range.
    """
    flows = in_ranges(context_flows(run), ranges)
    flows = flows[np.array([np.isfinite(parts).all() for parts in flows["jvp_dlog_prob_shares"]], dtype=bool)]
    out: list[dict[str, Any]] = []
    for group, rows in flows.groupby(_GROUP, dropna=False, sort=True):
        for quantity in ("log_prob", "entropy"):
            whole, shares = rows[f"jvp_d{quantity}"].to_numpy(float), np.stack(rows[f"jvp_d{quantity}_shares"].tolist())
            realised = rows[f"d{quantity}"].to_numpy(float)
            common = dict(zip(_GROUP, group, strict=True)) | {
                "quantity": quantity,
                "n": len(rows),
                "realised_mean": realised.mean(),
                "realised_median_abs": median_or_nan(np.abs(realised)),
                "jvp_mean": whole.mean(),
                "jvp_r2": r_squared(realised, whole),
                "jvp_slope": slope(whole, realised),
            }
            out += [common | {"view": name} | part for name in VIEWS for part in _parts(view(shares, name))]
    return with_units(pd.DataFrame(out, columns=[column.name for column in SHARES_COLUMNS]), SHARES_COLUMNS)


def _parts(parts: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    whole = np.sum(list(parts.values()), axis=0)
    pushed = sum(np.abs(values).sum() for values in parts.values())
    return [
        {
            "part": name,
            "mean": values.mean(),
            "net": _share(values.sum(), whole.sum()),
            "projected": _share((values * whole).sum(), (whole**2).sum()),
            "absolute": _share(np.abs(values).sum(), pushed),
        }
        for name, values in parts.items()
    ]


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole else np.nan
