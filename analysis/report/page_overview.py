"""The overview of a page: the summary's tables and sentences, curves with intervals, and what the runs are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from ..plots import look
from .bands import band
from .curves import evaluations, pass_at_1, pass_at_k_curves
from .summary import Summary
from .trace_data import TraceData

if TYPE_CHECKING:
    from ..records import Run

__all__ = ["charts", "describe_run", "describe_summary", "recipe_fields"]

_EVALUATED = (  # key, title, unit; on the test prompts
    ("pass_at_1", "Pass@1", "fraction"),
    ("entropy_fixed", "Entropy on fixed prefixes", "nats"),
    ("effective_solutions", "Effective solutions", "count"),
)
_STEPS = (
    ("correct_ratio", "Correct rollouts", "fraction"),
    ("entropy_own", "Entropy on own rollouts", "nats"),
    ("length_pos", "Length of rewarded responses", "tokens"),
    ("length_neg", "Length of unrewarded responses", "tokens"),
)
_TOKENS = (
    ("entropy", "Entropy at the recorded tokens", "nats"),
    ("prob", "π(y) at the recorded tokens", "probability"),
    ("weight", "Mean weight", "weight"),
)
_OF = ": "  # between the sign of rewards and the run, in the name of a line; a narrow chart shows how a name begins


def describe_summary(summary: Summary) -> dict[str, Any]:
    """Tables as text, notes and the verdict."""
    return {
        "verdict": list(summary.verdict),
        "notes": list(summary.notes),
        "tables": [
            {
                "title": table.title,
                "rows": [[_plain(text) for text in row] for row in table.texts()],
                "note": table.full_note,
            }
            for table in summary.tables
        ],
    }


def _plain(text: str) -> str:
    """The text of a cell without the marks that make it code in Markdown."""
    return text[1:-1] if len(text) > 2 and text[0] == text[-1] == "`" else text


def describe_run(run: Run) -> dict[str, Any]:
    """Identity, state and look of a run."""
    info = run.info
    return {
        "id": run.run_id,
        "label": run.label,
        "seed": run.seed,
        "status": run.status,
        "steps": run.committed_step,
        "engine": info["engine"],
        "temperature": info["temperature"],
        "task": info.get("task"),
        "device": info.get("device"),
        "dtype": info.get("dtype"),
        "commit": info.get("git_commit"),
        "versions": info.get("versions") or {},
        "schema": info["schema_version"],
        "color": look(run.label).color,
    }


def recipe_fields(runs: Sequence[Run]) -> list[list[str]]:
    """Rows `field, value of each run` of the recipes; fields without a value anywhere are left out."""
    flat = [_flatten(run.recipe or {}) for run in runs]
    names = dict.fromkeys(name for fields in flat for name in fields)
    rows = [[name, *(_shown(fields.get(name)) for fields in flat)] for name in names]
    return [row for row in rows if any(row[1:])]


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            fields |= _flatten(value, f"{prefix}{name}.")
        else:
            fields[prefix + name] = value
    return fields


def _shown(value: Any) -> str:
    return "" if value is None else str(value)


def charts(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Curves of the runs: `{key, title, unit, axis, series}`, a series with one row a point.

    `axis` is `step` (points have step, update, reached Pass@1, value, low, high) or `k` (k, value, low, high). Runs
    without evaluations give the means of their tokens over updates instead.
    """
    stepped = [run for run in runs if run.rows("steps")]
    evaluated = [run for run in runs if run.rows("evals")]
    found = _of_evaluations(evaluated) if evaluated else []
    found += _of_steps(stepped) if stepped else []
    if not evaluated:
        found += _of_tokens([run for run in runs if run.rows("tokens")])
    return [chart for chart in found if chart["series"]]


def _of_evaluations(runs: Sequence[Run]) -> list[dict[str, Any]]:
    rows = evaluations(runs, "test")
    updates = rows.groupby(["label", "step"])["update"].mean()
    reached = pass_at_1(runs).set_index(["label", "step"])["value"]
    found = []
    for key, title, unit in _EVALUATED:
        data = pass_at_1(runs, "test") if key == "pass_at_1" else band(rows, ["step"], key)
        data = data.join(updates.rename("update"), on=["label", "step"]).join(
            reached.rename("reached"), on=["label", "step"]
        )
        found.append(_chart(key, title, unit, "step", data))
    if any((run.table("evals", ["step"])["step"] > 0).any() for run in runs):
        for sampling, part in pass_at_k_curves(runs).groupby("sampling", sort=False):
            values = part[part["quantity"] == "value"]
            found.append(_chart("pass_at_k", f"Pass@k at the end, {sampling}", "fraction", "k", values))
    return found


def _of_steps(runs: Sequence[Run]) -> list[dict[str, Any]]:
    names = [key for key, _, _ in _STEPS]
    rows = pd.concat(
        [run.table("steps", ["step", "n_updates", *names]).assign(label=run.label, seed=run.seed or 0) for run in runs]
    )
    rows["update"] = rows.groupby(["label", "seed"])["n_updates"].cumsum()
    updates = rows.groupby(["label", "step"])["update"].mean()
    found = []
    for key, title, unit in _STEPS:
        data = band(rows, ["step"], key).join(updates, on=["label", "step"])
        found.append(_chart(key, title, unit, "step", data.assign(reached=math.nan)))
    return found


def _of_tokens(runs: Sequence[Run]) -> list[dict[str, Any]]:
    parts = []
    for run in runs:
        means = TraceData.of(run).by_update()
        parts.append(means if len(runs) == 1 else means.assign(label=means["label"] + _OF + run.label))
    if not parts:
        return []
    rows = pd.concat(parts).assign(step=math.nan, reached=math.nan)
    return [_chart(key, title, unit, "step", rows[rows["quantity"] == key]) for key, title, unit in _TOKENS]


def _chart(key: str, title: str, unit: str, axis: str, data: pd.DataFrame) -> dict[str, Any]:
    columns = ["k"] if axis == "k" else ["step", "update", "reached"]
    series = [
        {
            "label": str(label),
            "color": look(str(label).split(_OF, 1)[0]).color,
            "points": [
                [None if pd.isna(value) else float(f"{value:.6g}") for value in row]
                for row in part[[*columns, "value", "low", "high"]].itertuples(index=False)
            ],
        }
        for label, part in data.groupby("label", sort=False)
    ]
    return {"key": key, "title": title, "unit": unit, "axis": axis, "series": series}
