"""Each planted fault is named by its finding and by no alarm of another one; a healthy run gives no alarm."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.diagnosis import CHECKS, THRESHOLDS, diagnose
from analysis.records import Run, RunWriter
from analysis.records.reporting import Diagnosed
from analysis.records.schema import TABLES
from tests.diagnosis.planted import GROUPS, JUMP, SIZE, STEPS, planted_run

ALARMS = (
    "verifier",
    "dead-groups",
    "duplicates",
    "truncation",
    "clip",
    "skipped-updates",
    "prompts",
    "normaliser",
    "residual",
    "entropy-drift",
    "sampler-mismatch",
    "reward-drop",
)
# what follows from another fault: without a reward no group has a gradient, and no weight is other than 0
FOLLOWS = {"verifier": {"dead-groups", "skipped-updates"}}
SENTENCES = {
    "verifier": "The verifier rewarded no response of 896: each has the reward 0",
    "dead-groups": "50% of 112 groups had only advantages of 0 and carried nothing",
    "duplicates": "100% of the responses that could repeat an earlier one of their group do so",
    "clip": "Most of what unrewarded responses would teach is lost",
    "skipped-updates": "of 14 updates had no token with a weight",
    "normaliser": "each response is divided by its own length",
    "residual": "60.0% of the logit gradient is not a weight",
    "entropy-drift": "The policy has collapsed",
    "sampler-mismatch": "the trainer's at about 0.7",
}


def _names(diagnosis: Diagnosed, severity: str) -> set[str]:
    return {finding.name for finding in diagnosis.of(severity)}


@pytest.mark.parametrize("updates", [True, False], ids=["training", "attach"])
def test_a_healthy_run_gives_no_alarm_and_no_notice(updates: bool, tmp_path: Path) -> None:
    diagnosis = planted_run(tmp_path / "run", updates=updates).diagnose()
    assert not diagnosis.of("alarm")
    assert not diagnosis.of("notice")
    assert [finding.name for finding in diagnosis.findings] == list(CHECKS)
    json.dumps(diagnosis.to_json(), allow_nan=False)


@pytest.mark.parametrize("fault", ALARMS)
@pytest.mark.parametrize("updates", [True, False], ids=["training", "attach"])
def test_each_fault_is_named_and_no_other(fault: str, updates: bool, tmp_path: Path) -> None:
    if fault == "skipped-updates" and not updates:
        pytest.skip("the table of updates alone says what was skipped")
    diagnosis = planted_run(tmp_path / "run", fault, updates=updates).diagnose()
    assert _names(diagnosis, "alarm") - FOLLOWS.get(fault, set()) == {fault}, diagnosis.to_text()
    assert SENTENCES.get(fault, "") in diagnosis[fault].sentence


def test_a_jump_is_a_notice(tmp_path: Path) -> None:
    diagnosis = planted_run(tmp_path / "run", "history").diagnose()
    assert _names(diagnosis, "notice") == {"history"}
    assert "the gradient norm jumped: from step 12 on" in diagnosis["history"].sentence


def test_numbers_are_those_that_were_planted(tmp_path: Path) -> None:
    run = planted_run(tmp_path / "run")
    diagnosis = run.diagnose()
    rollouts, tokens = run.table("rollouts"), run.table("tokens")
    assert diagnosis["verifier"].value == pytest.approx(rollouts["reward"].mean())
    assert diagnosis["truncation"].value == pytest.approx(1 - rollouts["finished"].mean())
    carried = np.abs(tokens["weight"]) * tokens["direction_norm"]
    assert diagnosis["sign"].value == pytest.approx(carried[tokens["weight"] < 0].sum() / carried.sum(), rel=1e-6)
    by_prompt = carried.groupby(tokens["rollout"] // SIZE).sum() / carried.sum()
    assert diagnosis["prompts"].value == pytest.approx(by_prompt.max(), rel=1e-6)
    assert diagnosis["prompts"].details["prompts"] == GROUPS
    top = diagnosis["top-tokens"].details["tokens"]
    assert [entry["carried"] for entry in top] == pytest.approx(carried.nlargest(10).tolist(), rel=1e-6)
    first = top[0]
    row = rollouts[(rollouts["step"] == first["step"]) & (rollouts["rollout"] == first["rollout"])].iloc[0]
    words = row["response_text"].split()
    assert words[first["position"]] == first["token"]
    assert first["before"].split() == words[max(0, first["position"] - 8) : first["position"]]
    up, down = tokens["weight"][tokens["weight"] > 0], tokens["weight"][tokens["weight"] < 0]
    assert diagnosis["lambda"].value == pytest.approx(up.mean() / -down.mean(), rel=1e-5)
    assert diagnosis["normaliser"].value == pytest.approx(0.0, abs=1e-5)  # rounding of float32 weights
    by_step = tokens.groupby("step")["entropy"].mean()
    width = STEPS // 5
    assert diagnosis["entropy-drift"].value == pytest.approx(by_step[-width:].mean() - by_step[:width].mean(), rel=1e-6)
    shares = diagnosis["entropy-deciles"].details["shares"]
    assert sum(shares) == pytest.approx(1.0)
    highest = tokens["entropy"].rank(method="first") - 1 >= 0.9 * len(tokens)
    assert diagnosis["entropy-deciles"].value == pytest.approx(carried[highest].sum() / carried.sum(), rel=1e-6)


def test_the_mismatch_is_the_divergence_of_the_two_distributions(tmp_path: Path) -> None:
    run = planted_run(tmp_path / "run", "sampler-mismatch")
    tokens = run.table("tokens")
    difference = tokens["sampling_log_prob"] - tokens["old_log_prob"]
    finding = run.diagnose()["sampler-mismatch"]
    assert finding.value == pytest.approx(difference.mean(), rel=1e-5)
    # independent route: the exact KL of a distribution at 0.7 times the temperature, over fresh random logits
    logits = np.random.default_rng(99).normal(size=(4000, 12))
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    log_q = log_p / 0.7 - np.log(np.exp(log_p / 0.7).sum(1, keepdims=True))
    exact = float((np.exp(log_q) * (log_q - log_p)).sum(1).mean())
    # 12,000 sampled tokens: four standard errors
    assert finding.value == pytest.approx(exact, abs=4 * finding.details["standard_error"])
    assert finding.details["temperature_ratio"] == pytest.approx(0.7, abs=0.1)  # first order in the difference


def test_a_recipe_that_divides_by_the_length_is_not_an_alarm(tmp_path: Path) -> None:
    recipe = {"update": {"normalizer": "per_sequence"}}
    finding = planted_run(tmp_path / "run", "normaliser", recipe=recipe).diagnose()["normaliser"]
    assert (finding.severity, finding.value) == ("notice", pytest.approx(-1.0, abs=1e-5))
    assert "as the recipe says" in finding.sentence


def test_thresholds_are_of_findings_and_say_why() -> None:
    assert THRESHOLDS.keys() - {"sampler-temperature"} <= CHECKS.keys()
    for threshold in THRESHOLDS.values():
        assert threshold.notice < threshold.alarm
        assert len(threshold.reason) > 20


def test_what_is_not_recorded_is_said(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"q{i // 4}", "response": f"a{i}", "reward": float(i % 4 == 0), "step": i // 16} for i in range(128)
    ]
    diagnosis = diagnose(rows)
    assert diagnosis["verifier"].value == 0.25
    assert diagnosis["dead-groups"].value == 0.0
    for name in ("sign", "clip", "normaliser", "lambda", "entropy-drift", "sampler-mismatch", "truncation"):
        assert not diagnosis[name].recorded
        assert diagnosis[name].sentence.startswith("Not recorded: ")
        assert diagnosis[name].severity == "fine"
    rows = [row | {"reward": 0.0} for row in rows]
    assert _names(diagnose(rows), "alarm") == {"verifier", "dead-groups"}


def _copied(run: Run, folder: Path, tables: dict[str, pd.DataFrame | None]) -> Run:
    """The run with other rows in some tables, or none."""
    known = {name: run.info[name] for name in ("run_id", "label", "engine", "temperature")}
    writer = RunWriter(folder, run_json=dict.fromkeys(("recipe", "hash", "seed")) | known)
    for name in ("prompts", "rollouts", "tokens", "updates"):
        rows = tables[name] if name in tables else run.table(name)
        if rows is not None and len(rows):
            stored = [column.name for column in TABLES[name].columns if column.name in rows]
            values = rows[stored].astype(object).where(rows[stored].notna(), None)
            writer.append(name, {column: values[column].tolist() for column in stored})
    writer.commit(STEPS, {})
    return Run(folder)


def test_a_run_without_tokens_says_so_and_judges_the_rest(tmp_path: Path) -> None:
    run = _copied(planted_run(tmp_path / "run", "verifier"), tmp_path / "copy", {"tokens": None})
    diagnosis = run.diagnose()
    assert {"verifier", "dead-groups"} == _names(diagnosis, "alarm")
    for name in ("sign", "top-tokens", "normaliser", "sampler-mismatch"):
        assert not diagnosis[name].recorded
    assert "no tokens" in diagnosis["sign"].sentence


def test_weights_that_are_not_finite_are_left_out(tmp_path: Path) -> None:
    """A diverged run: from some step on weights, ratios and norms are not numbers."""
    plain = planted_run(tmp_path / "run")
    tokens, updates = plain.table("tokens"), plain.table("updates")
    late = tokens["step"] >= JUMP
    tokens.loc[late, "weight"] = np.inf
    tokens.loc[late, "ratio"] = 0.0
    updates.loc[updates["step"] >= JUMP, "grad_norm_total"] = np.inf
    diagnosis = _copied(plain, tmp_path / "copy", {"tokens": tokens, "updates": updates}).diagnose()
    early = plain.laws(where=[("step", "<", JUMP)])
    share = early["grad_l2"][early["weight"] < 0].sum() / early["grad_l2"].sum()
    assert diagnosis["sign"].value == pytest.approx(share)
    json.dumps(diagnosis.to_json(), allow_nan=False)
