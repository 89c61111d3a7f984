"""Entry F9: whether pushing wrong responses down takes likelihood from the correct ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from ...errors import UsageError
from ...records import Run
from ...records.rewarded import rewarded, sign_column
from ...records.schema import SHARES
from ..claim import Claim
from ..comparisons import since_start
from ..conjunctions import Part, SeedValues, all_of, by_condition, judged
from ..decision import Decision
from ..evidence import Methods
from ..studies import ONE_SGD_UPDATE
from ..study import GRPO, METHODS, PSR, Study

__all__ = ["CLAIMS"]

# Two passes over a batch: the tokens of the second show what the first did to every response.
_RECORDED: dict[str, Any] = {
    "steps": 4,
    "update.epochs": 2,
    "eval.every": 4,
    "eval.samples": 1,
    "record.tokens": 1.0,
    "record.columns": "core",
    "record.rollouts": 1.0,
    "record.contexts": 128,
    "record.contexts_every": 1,
    "record.jvp_every": 1,
    "record.shares_every": 1,
    "record.signs_every": 1,
}
_SGD = {**_RECORDED, **ONE_SGD_UPDATE, "optimizer.lr": 0.15}
_TWO = {name: METHODS[name] for name in (GRPO, PSR)}
_STUDIES = (
    Study("path, SGD", "default", _TWO, _SGD, seeds=4),
    Study("path, AdamW", "default", _TWO, _RECORDED, seeds=4),
    Study("countdown, AdamW", "countdown", _TWO, _RECORDED, seeds=4),
)
_DISPLACED = 0.1  # fraction of the correct responses
_TAKEN = 0.1  # of what the correct rows give
_ROUNDING = 1e-4  # nats over a response; sums of float32 log-probs differ by less


def _changes(run: Run) -> pd.DataFrame:
    """Δ log π(y) over one pass, of correct responses in groups with both rewards.

    Returns:
        One row for each response: change, and solved, the fraction of its group that is correct.
    """
    tokens = run.table("tokens", ["step", "rollout", "epoch", "log_prob"])
    passes = tokens.groupby(["step", "rollout", "epoch"])["log_prob"].sum().unstack("epoch")
    if len(passes.columns) < 2:
        raise UsageError(
            f"run {run.run_id}: expected recorded tokens of two passes over a batch, got "
            f"{len(passes.columns)}; set update.epochs to 2 and record.tokens above 0"
        )
    change = (passes.iloc[:, 1] - passes.iloc[:, 0]).dropna().rename("change").reset_index()
    rollouts = run.table("rollouts", ["step", "rollout", "group", sign_column(run.info)])
    correct = pd.Series(rewarded(rollouts, run.info), index=rollouts.index)
    rollouts = rollouts.assign(
        correct=correct, solved=correct.groupby([rollouts["step"], rollouts["group"]]).transform("mean")
    )
    joined = change.merge(rollouts, on=["step", "rollout"])
    found = joined[joined["correct"] & (joined["solved"] < 1)]
    if found.empty:
        raise UsageError(f"run {run.run_id}: expected a correct response in a group with both rewards, got none")
    return found


def _taken(run: Run) -> float:
    """What the wrong rows take from tokens of correct responses, over what the correct rows give: sums of JVPs."""
    from ...records.step_shares import view  # which loads torch

    flows = run.table("flows", ["context", "jvp_dlog_prob_shares"])
    contexts = run.table("contexts", ["context", "kind", "sign"])
    flows = flows.merge(contexts[(contexts["kind"] == "batch") & (contexts["sign"] == 1)], on="context")
    shares = [np.asarray(row, dtype=float) for row in flows["jvp_dlog_prob_shares"] if np.size(row) == len(SHARES)]
    shares = [row for row in shares if np.isfinite(row).all()]
    if not shares:
        raise UsageError(
            f"run {run.run_id}: expected contexts of correct responses with the JVP by part, got none; set "
            "record.contexts, record.jvp_every and record.shares_every above 0"
        )
    parts = view(np.stack(shares), "source")
    return float(-parts["neg"].sum() / parts["pos"].sum())


def _displaces(methods: Methods, name: str) -> Mapping[str, Decision]:
    changes = {
        method: {seed: _changes(run) for seed, run in sorted(methods[method].items())}
        for method in (GRPO, PSR)
        if methods.get(method)
    }
    displaced = {
        method: {seed: float((found["change"] < -_ROUNDING).mean()) for seed, found in runs.items()}
        for method, runs in changes.items()
    }
    label = "share of correct responses that lose likelihood"
    taken = {seed: _taken(run) for seed, run in sorted(methods[GRPO].items())}
    parts = [
        Part(
            "more than a tenth of the correct responses displaced",
            _values(f"{label}, {GRPO}", displaced[GRPO]),
            _DISPLACED,
        ),
        Part(
            "wrong rows taking more than a tenth of what correct rows give",
            _values(f"likelihood taken by wrong rows over that given by correct rows, {GRPO}", taken),
            _TAKEN,
        ),
    ]
    if PSR in displaced:
        gap = {seed: share - displaced[PSR][seed] for seed, share in displaced[GRPO].items() if seed in displaced[PSR]}
        parts.append(Part("more displaced than without wrong rows", _values(f"{label}, {GRPO} − {PSR}", gap), 0.0))
    decision = all_of(parts, name)
    accuracy = since_start(methods, GRPO, ["pass@1"])["pass@1"].effect(condition=name)
    table: dict[str, list[Any]] = {
        column: [] for column in ("method", "seed", "solved", "responses", "displaced", "change")
    }
    for method, runs in changes.items():
        for seed, found in runs.items():
            quarters = np.ceil(4 * found["solved"]) / 4  # of a group's responses, correct
            for solved, rows in found.groupby(quarters):
                lost = float((rows["change"] < -_ROUNDING).mean())
                row = (method, seed, float(solved), len(rows), lost, float(rows["change"].mean()))
                for column, value in zip(table, row, strict=True):
                    table[column].append(value)
    decision = replace(
        decision, effects=(*decision.effects, accuracy), tables={**decision.tables, "displacement": table}
    )
    return {name: decision}


def _values(label: str, by_seed: Mapping[int, float]) -> SeedValues:
    return SeedValues(label, "one pass over a batch", tuple(by_seed), np.array(list(by_seed.values())), {})


CLAIMS = (
    Claim(
        id="F9",
        family="field",
        title="Negatives displace the likelihood of correct responses",
        statement="Pushing wrong responses down takes likelihood from the correct responses to the same prompts, so "
        "that some become less likely although they are rewarded.",
        source="2505.18830, seen as an abstract",
        hypothesis="In a step of GRPO more than a tenth of the correct responses lose likelihood, more than in a step "
        "of PSR, and wrong rows take more than a tenth of what correct rows give.",
        statistic="Over correct responses in groups with both rewards: the share whose log-probability falls by more "
        f"than {_ROUNDING:g} nats in one pass over the batch, for GRPO and GRPO less PSR. At tokens of correct "
        "responses: minus the summed first-order change of log π that wrong rows cause over that of correct rows. "
        "Beside it, the change of exact Pass@1 on test prompts, and the share by the fraction of the group that is "
        "correct (table displacement).",
        margin=f"{_DISPLACED:g} of the responses, {_TAKEN:g} of what correct rows give, 0 for GRPO less PSR",
        rule="Holds where all three intervals lie above their margins; fails where one lies below it by the "
        "simultaneous interval of the three; depends on optimiser or task where conditions differ.",
        conditions="path with one SGD update for each batch and with four of AdamW, countdown with AdamW; regime B, 4 "
        "batches of 1024 rollouts, two passes each, 4 seeds with a base each. A pass is one step, so that steps and "
        "updates of the two methods are equal; there is no course of training to match at equal Pass@1.",
        practice="Look at the likelihood of correct responses, not at the loss, where groups are mostly wrong; weigh "
        "wrong responses less if many correct ones fall.",
        decide=lambda evidence: by_condition(evidence, _STUDIES, _displaces),
        studies=_STUDIES,
        judge=lambda methods: judged(methods, _displaces, GRPO),
        tables=("evals", "tokens", "rollouts", "flows", "contexts"),
    ),
)
