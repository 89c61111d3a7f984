"""F3 and F4: closed forms against enumeration, and the verdicts from planted runs."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.claims import Evidence
from analysis.claims.entries import weighting
from analysis.claims.entries.weighting import PREDICTED, QUANTILES, _at_equal_kl, _maxrl_dominates, _qae
from analysis.claims.measurements import group_normalisers
from analysis.claims.measurements.group_normalisers import normaliser_table, truncated_series
from analysis.claims.registry import all_claims
from analysis.errors import UsageError
from tests.claims import by_hand
from tests.claims.by_hand import hand_runs


@pytest.fixture(autouse=True)
def _many_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gain that differs between prompts is only certain over many of them."""
    monkeypatch.setattr(by_hand, "PROMPTS", 800)


def _p(gain: float, spread: float = 1.0) -> Any:
    """The mean of p rises from 0.01 by `gain` until step 10; its spread over prompts decides Pass@k at equal Pass@1."""

    def success(seed: int, step: int, prompts: np.ndarray) -> np.ndarray:
        spread_here = 1.0 + (spread - 1.0) * step / 10
        scatter = 0.0005 * ((seed + round(100 * gain)) % 3 - 1)
        shape = np.exp(spread_here * prompts)
        return (0.01 + (gain + scatter) * step / 10) * shape / shape.mean()

    return success


def test_the_maxrl_estimate_is_the_truncated_series() -> None:
    """Over the 16 groups of four responses to a prompt with p = 0.3, each with its chance."""
    total = 0.0
    for outcome in product((0, 1), repeat=4):
        rewards = np.array(outcome, dtype=float)
        q = rewards.mean()
        advantages = (rewards - q) / q if q else np.zeros(4)
        # E[∇log π | correct] = ∇p/p, E[∇log π | wrong] = −∇p/(1 − p)
        total += np.prod(np.where(rewards, 0.3, 0.7)) * (advantages @ np.where(rewards, 1 / 0.3, -1 / 0.7)) / 4
    assert total == pytest.approx(1 + 0.7 + 0.7**2, rel=1e-12)
    assert truncated_series(0.3, 3) == pytest.approx(total, rel=1e-12)


def test_weights_agree_with_the_closed_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    table = normaliser_table()
    assert len(table["p"]) == 3 * 4 * 19
    monkeypatch.setattr(group_normalisers, "truncated_series", lambda p, terms: truncated_series(p, terms + 1))
    with pytest.raises(ArithmeticError, match="MaxRL's expected weight in groups of 2"):
        normaliser_table()


@pytest.mark.parametrize(("gain", "verdict"), [(0.07, "holds"), (0.02, "fails")])
def test_qae_against_its_rivals_and_the_prediction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gain: float, verdict: str
) -> None:
    """A gain of 0.07 with less spread against 0.04; a gain of 0.02 with more."""
    spread = 0.5 if verdict == "holds" else 1.5
    methods = {name: _p(0.04) for name in ("PSR", "NSR", "GRPO")}
    methods |= {_qae(k): _p(gain, spread) for k in QUANTILES} | {_qae(PREDICTED): _p(0.08, 0.2)}
    runs = hand_runs(methods)
    monkeypatch.setattr(Evidence, "methods", lambda self, study: runs)
    monkeypatch.setattr(Evidence, "diverged", lambda self, study: {})
    decision = all_claims()["F3"].decide(Evidence(tmp_path))
    assert decision.verdict == verdict
    assert "K = 0.17, where the noise of the two signs is equal, is the best holds" in decision.reason
    monkeypatch.setattr(Evidence, "diverged", lambda self, study: {_qae(0.4): [0]})
    assert all_claims()["F3"].decide(Evidence(tmp_path)).verdict == "fails"


@pytest.mark.parametrize(("spread", "verdict"), [(0.3, "holds"), (1.8, "fails"), (1.0, "fails")])
def test_maxrl_dominates(spread: float, verdict: str) -> None:
    """At equal Pass@1 a smaller spread of p over prompts is a larger Pass@16; the same spread is no gain."""
    found = _maxrl_dominates(hand_runs({"MaxRL": _p(0.031, spread), "GRPO": _p(0.03)}, seeds=6), "path")
    assert found["path, equal Pass@1"].verdict == verdict


def _with_kl(methods: Any, rates: dict[str, float]) -> Any:
    for name, runs in methods.items():
        for run in runs.values():
            steps = np.arange(10)
            run._tables["updates"] = pd.DataFrame({"step": steps, "kl": rates[name] * steps})
    return methods


def test_equal_kl_compares_different_steps() -> None:
    """MaxRL moves as far in KL with half the accuracy: at equal KL it is behind."""
    runs = _with_kl(hand_runs({"MaxRL": _p(0.03), "GRPO": _p(0.061)}), {"MaxRL": 0.01, "GRPO": 0.01})
    assert _at_equal_kl(runs, "path")["path, equal KL"].verdict == "fails"
    runs = _with_kl(hand_runs({"MaxRL": _p(0.03), "GRPO": _p(0.061)}), {"MaxRL": 0.01, "GRPO": 0.04})
    assert _at_equal_kl(runs, "path")["path, equal KL"].verdict == "holds"


def test_runs_without_a_recorded_kl_are_refused() -> None:
    runs = _with_kl(hand_runs({"MaxRL": _p(0.03), "GRPO": _p(0.03)}), {"MaxRL": np.nan, "GRPO": np.nan})
    with pytest.raises(UsageError, match=r"set objective\.kl_coef above 0"):
        _at_equal_kl(runs, "path")


def test_the_entry_joins_tables_and_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = _with_kl(hand_runs({"MaxRL": _p(0.031, 0.3), "GRPO": _p(0.03)}), {"MaxRL": 0.01, "GRPO": 0.01})
    monkeypatch.setattr(Evidence, "methods", lambda self, study: runs)
    monkeypatch.setattr(Evidence, "diverged", lambda self, study: {})
    decision = all_claims()["F4"].decide(Evidence(tmp_path))
    assert decision.verdict == "holds"
    assert len(decision.tables["prompt weights"]["p"]) == 228


def test_grpo_is_shared_with_the_main_study() -> None:
    main = {run.planned.run_id for run in weighting.PATH_B.runs}
    shared = [run.planned.run_id in main for run in weighting._MAXRL_STUDIES[0].runs]
    assert sum(shared) == 8
    assert sum(run.planned.run_id in main for run in weighting._QAE_STUDIES[0].runs) == 12
