"""The results of the runs of SmolLM2-135M-Instruct, for docs/smollm2.md: training on arithmetic, gradient noise, and an
offline trace of its answers to problems of MATH."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .main_job import plain, recorded

if TYPE_CHECKING:
    from analysis.records import Run

__all__ = ["FIGURES", "KS", "TASKS", "smollm2"]

TASKS = ("sums", "addition")
KS = (8, 64)
MATH = "smollm2_math"
NOISE = ("smollm2_noise", "smollm2_noise_seed1")
# Figures that the trace draws, and their names in figures/.
FIGURES: Mapping[str, str] = {
    "smollm2_math/figures/boundaries.png": "smollm2_math_boundaries.png",
    "smollm2_math/figures/positions.png": "smollm2_math_positions.png",
}


def smollm2(folder: Path) -> dict[str, Any]:
    """What the page needs, as plain data.

    Args:
        folder: holds the experiments of the recipes, `smollm2_sums`, `smollm2_addition`, `smollm2_noise` and
            `smollm2_noise_seed1`, and the trace `smollm2_math`.

    Keys: for each task its `recorded`, `steps`, `base` and `runs` (a row for each method, seed and evaluation),
    `predictions` (R² of the JVP), `seconds` and `peak_rss_bytes` of a run, and `claims` (the verdict of each entry of
    the ledger that its records can decide); `noise`, the measurement around the exact gradient; and `math`, the tables
    of the trace.
    """
    tasks = {name: _training(folder / f"smollm2_{name}") for name in TASKS}
    return {"tasks": tasks, "noise": _noise([folder / name for name in NOISE]), "math": _math(folder / MATH)}


def _training(folder: Path) -> dict[str, Any]:
    from analysis.records import Experiment

    runs = list(Experiment(folder).runs.values())
    rows = [row for run in runs for row in _evaluations(run)]
    return {
        "recorded": recorded(runs),
        "steps": runs[0].committed_step,
        "prompts": len({row["prompt_id"] for row in _test_rows(runs[0])}),
        "runs": rows,
        "predictions": _predictions(runs),
        **_cost(runs),
        "claims": _claims(folder),
    }


def _test_rows(run: Run) -> list[dict[str, Any]]:
    """Evaluations of the test prompts at temperature 1."""
    splits = run.table("prompts", ["prompt_id", "split"]).drop_duplicates("prompt_id").set_index("prompt_id")["split"]
    table = run.table("evals")
    chosen = table[(table["temperature"] == 1.0) & (table["prompt_id"].map(splits) == "test")]
    return [{str(name): value for name, value in row.items()} for row in chosen.to_dict("records")]


def _evaluations(run: Run) -> list[dict[str, Any]]:
    """The evaluation of the base and of the last policy on all test prompts: means over the prompts."""
    import numpy as np

    rows = _test_rows(run)
    out = []
    for step in (0, run.committed_step):
        here = [row for row in rows if row["step"] == step]
        p = np.array([row["p"] for row in here], dtype=float)
        out.append(
            {
                "method": run.label,
                "seed": run.seed,
                "step": step,
                "pass_at_1": float(p.mean()),
                **{f"pass_at_{k}": float((1 - (1 - p) ** k).mean()) for k in KS},
                "effective": float(np.exp(np.log([row["effective_solutions"] for row in here]).mean())),
                "entropy_nats": float(np.mean([row["entropy_fixed"] for row in here])),
            }
        )
    return out


def _predictions(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """R² of the JVP and the fraction of contexts whose own law had the sign right, for each method and seed."""
    out = []
    for run in runs:
        table = run.prediction_summary()
        rows = table[table["quantity"].isin(["log_prob", "entropy"])]
        columns = ["kind", "sign", "weights", "quantity", "law_n", "law_sign_agreement", "jvp_n", "jvp_r2"]
        out += [
            {"method": run.label, "seed": run.seed} | {name: plain(row[name]) for name in columns}
            for row in rows.to_dict("records")
        ]
    return out


def _cost(runs: Sequence[Run]) -> dict[str, Any]:
    """Seconds of a run by phase, and its peak memory; the largest over runs, which shared the machine."""
    import pandas as pd

    tables = [run.table("timings") for run in runs]
    seconds = pd.concat([table.groupby("phase")["seconds"].sum() for table in tables], axis=1).max(axis=1)
    return {
        "seconds": {str(phase): round(float(value), 1) for phase, value in seconds.items()},
        "peak_rss_bytes": int(max(table["peak_rss_bytes"].max() for table in tables)),
        "folder_bytes": max(sum(f.stat().st_size for f in run.folder.rglob("*") if f.is_file()) for run in runs),
    }


def _claims(folder: Path) -> list[dict[str, str]]:
    from analysis.claims import judge

    _, entries, _ = judge(folder)
    return [{"id": e.id, "verdict": e.decision.verdict, "reason": e.decision.reason} for e in entries]


def _noise(folders: Sequence[Path]) -> dict[str, Any]:
    """The measurements of several seeds, and their mean: `projection` and `variance` with the standard error of the
    mean of independent batches of rollouts."""
    from analysis.records import Experiment

    runs = [next(iter(Experiment(folder).runs.values())) for folder in folders]
    seeds = [
        {"seed": run.seed, **{str(name): plain(value) for name, value in row.items()}}
        for run in runs
        for row in run.table("noise").to_dict("records")
    ]
    together = []
    for estimator in dict.fromkeys(row["estimator"] for row in seeds):
        rows = [row for row in seeds if row["estimator"] == estimator]
        mean: dict[str, Any] = {"estimator": estimator, "expected": rows[0]["expected"]}
        for name in ("projection", "variance", "cosine_batch"):
            mean[name] = sum(row[name] for row in rows) / len(rows)
            mean[f"{name}_se"] = math.sqrt(sum(row[f"{name}_se"] ** 2 for row in rows)) / len(rows)
        together.append(mean)
    return {
        "recorded": recorded(runs[:1]),
        "lora_rank": runs[0].info["recipe"]["policy"]["lora.r"],
        "degrees": sum(row["replicates"] - 1 for row in seeds if row["estimator"] == "PSR"),
        "seeds": seeds,
        "together": together,
    }


def _math(folder: Path) -> dict[str, Any]:
    from analysis.records import Run
    from analysis.report import summarize_trace

    run = Run(folder)
    rollouts = run.table("rollouts", ["prompt_id", "reward", "length", "finished"])
    return {
        "recorded": recorded([run]),
        "problems": int(rollouts["prompt_id"].nunique()),
        "answers": len(rollouts),
        "correct": int((rollouts["reward"] > 0).sum()),
        "finished": int(rollouts["finished"].sum()),
        "tokens": int(rollouts["length"].sum()),
        "tables": summarize_trace(run).to_json()["tables"],
    }
