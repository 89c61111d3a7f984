"""The results of the main job: what README.md and docs/findings.md say of PSR, NSR, W-REINFORCE and GRPO."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.evaluation import interval

if TYPE_CHECKING:
    import pandas as pd

    from analysis.records import Run

__all__ = ["PAIR", "RANGES", "main_job", "plain", "recorded"]

PAIR = ("NSR", "PSR")
RANGES = 3  # of updates, for the shares of momentum


def main_job(folder: Path) -> dict[str, Any]:
    """What the pages need of an experiment of several seeds, as plain data.

    Keys: `recorded`, with what the runs were made, which may be older than the code that reads them; `seeds` and
    `steps` of the job; `summary`, the tables of the report; `pass_at_k`, the curves at the end and the differences to
    PSR; `w_reinforce`, its differences to NSR at equal Pass@1; `own_law`, how often the laws of single tokens had the
    right sign; `momentum`, what part of all that updates pushed log π(y) earlier updates gave.
    """
    from analysis.records import Experiment
    from analysis.report import summarize
    from analysis.report.curves import pass_at_k_curves

    experiment = Experiment(folder)
    runs = list(experiment.runs.values())
    curves = pass_at_k_curves(runs, minus=PAIR[1])
    summary = summarize(experiment).to_json()
    summary["tables"] = [table for table in summary["tables"] if table["key"] != "times"]  # of this machine
    return {
        "recorded": recorded(runs),
        "seeds": len({run.seed for run in runs}),
        "steps": runs[0].committed_step,
        "summary": summary,
        "pass_at_k": [{name: plain(value) for name, value in row.items()} for row in curves.to_dict("records")],
        "w_reinforce": _w_reinforce(runs),
        "own_law": _own_law(runs),
        "momentum": _momentum(runs),
    }


def recorded(runs: list[Run]) -> dict[str, Any]:
    """When the first run was made, from which commit (null outside of a checkout), with which versions and where."""
    info = runs[0].info
    return {
        "created": info["created"],
        "commit": info.get("commit"),
        "versions": info["versions"],
        "processor": info["machine"]["processor"],
    }


def plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _w_reinforce(runs: list[Run]) -> dict[str, Any]:
    """W-REINFORCE − NSR at the highest level of Pass@1 that all methods share, by column of the tables."""
    from analysis.report.comparison import comparisons

    (comparison,) = comparisons({run.run_id: run for run in runs})
    matching = comparison.match("pass@1", comparison.levels())
    level = matching.levels[-1]
    return {
        column.key: comparison.difference(matching, level, ("W-REINFORCE", "NSR"), column).to_json()
        for column in comparison.metrics
    }


def _own_law(runs: list[Run]) -> dict[str, Any]:
    """The least and the greatest fraction, over runs and signs, of contexts whose log π(y) moved as the law of its own
    token says; and of contexts of the batches whose log π(y) moved as the JVP of the whole step says, over runs."""
    law, whole = [], []
    for run in runs:
        rows = run.prediction_summary()
        rows = rows[(rows["weights"] == "nonzero") & (rows["quantity"] == "log_prob") & rows["sign"].isin([-1, 1])]
        law += [float(value) for value in rows["law_sign_agreement"]]
        flows = run.flows().query("kind == 'batch' and jvp_dlog_prob.notna() and dlog_prob != 0")
        whole.append(float((flows["jvp_dlog_prob"] * flows["dlog_prob"] > 0).mean()))
    return {"least": min(law), "greatest": max(law), "jvp_least": min(whole), "jvp_greatest": max(whole)}


def _momentum(runs: list[Run]) -> list[dict[str, Any]]:
    """The share `absolute` of `history` in log π(y): mean over seeds for each method, range of updates and kind of
    contexts, with its interval over seeds."""
    values: dict[tuple[str, int, str], list[float]] = {}
    for run in runs:
        rows = run.shares_summary(ranges=RANGES)
        rows = rows[(rows["view"] == "time") & (rows["part"] == "history") & (rows["quantity"] == "log_prob")]
        places = rows["first_update"].rank(method="dense").astype(int)
        for place, contexts, share in zip(places, _contexts(rows), rows["absolute"], strict=True):
            values.setdefault((run.label, int(place), contexts), []).append(float(share))
    out = []
    for (method, place, contexts), shares in sorted(values.items()):
        mean = interval(shares, over="seeds")
        out.append(
            {"method": method, "range": place, "contexts": contexts}
            | {"value": mean.estimate, "low": mean.low, "high": mean.high}
        )
    return out


def _contexts(rows: pd.DataFrame) -> list[str]:
    """panel, rewarded or unrewarded."""
    signs = rows["sign"].astype("Float64").fillna(0.0)
    return [
        "panel" if kind == "panel" else "rewarded" if sign == 1 else "unrewarded"
        for kind, sign in zip(rows["kind"], signs, strict=True)
    ]
