"""F5 from planted runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.claims import Evidence
from analysis.claims.entries.stability import NEGATIVE, POSITIVE
from analysis.claims.registry import all_claims
from analysis.claims.studies import LONG
from analysis.errors import UsageError
from tests.claims.by_hand import hand_run


def _runs(fall: dict[str, float], burst: dict[str, float], seeds: int = 4) -> Any:
    """Pass@1 peaks at step 5 and falls by so much until step 15; one update in twenty is so many times the others."""
    methods: dict[str, Any] = {}
    for name in (*POSITIVE, *NEGATIVE):
        kind = "positive" if name in POSITIVE else "negative"

        def success(seed: int, step: int, prompts: np.ndarray, kind: str = kind) -> np.ndarray:
            rise, after = min(step, 5) / 5, max(step - 5, 0) / 10
            scatter = 0.002 * ((seed + (kind == "positive")) % 3 - 1)
            return 0.3 + 0.05 * np.tanh(prompts) + 0.2 * rise - (fall[kind] + scatter) * after

        methods[name] = {seed: hand_run(name, seed, success, steps=(0, 5, 10, 15)) for seed in range(seeds)}
        for seed, run in methods[name].items():
            norms = np.where(np.arange(60) % 20 == 0, burst[kind] * (1 + 0.01 * seed * (kind == "positive")), 1.0)
            run._tables["updates"] = pd.DataFrame({"update": np.arange(60), "grad_norm_total": norms})
    return methods


@pytest.mark.parametrize(
    ("fall", "burst", "verdict"),
    [
        ({"positive": 0.01, "negative": 0.1}, {"positive": 1.2, "negative": 3.0}, "holds"),
        ({"positive": 0.1, "negative": 0.01}, {"positive": 1.2, "negative": 3.0}, "fails"),
        ({"positive": 0.01, "negative": 0.1}, {"positive": 3.0, "negative": 1.2}, "fails"),
        ({"positive": 0.01, "negative": 0.021}, {"positive": 1.2, "negative": 3.0}, "undecided"),
    ],
)
def test_positives_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fall: Any, burst: Any, verdict: str) -> None:
    runs, lost = _runs(fall, burst), {}
    assert set(runs) == set(LONG.methods)
    monkeypatch.setattr(Evidence, "methods", lambda self, study: runs)
    monkeypatch.setattr(Evidence, "diverged", lambda self, study: lost)
    decide = all_claims()["F5"].decide
    decision = decide(Evidence(tmp_path))
    assert decision.verdict == verdict
    assert decision.tables["stability"]["peak"] == [5] * 24
    assert decision.tables["stability"]["end"] == [15] * 24
    lost["PSR"] = [0, 1, 2]
    assert decide(Evidence(tmp_path)).verdict == "fails"
    lost["GRPO"], lost["NSR"] = [0, 1, 2], [0, 1, 2]
    assert decide(Evidence(tmp_path)).verdict == "holds"


def test_a_group_without_runs_is_refused_or_undecided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    even = {"positive": 0.0, "negative": 0.0}
    runs = {name: found for name, found in _runs(even, even).items() if name in POSITIVE}
    judge = all_claims()["F5"].judge
    assert judge is not None
    with pytest.raises(UsageError, match="of one of NSR, W-REINFORCE, GRPO"):
        judge(runs)
    monkeypatch.setattr(Evidence, "methods", lambda self, study: runs)
    monkeypatch.setattr(Evidence, "diverged", lambda self, study: {})
    assert all_claims()["F5"].decide(Evidence(tmp_path)).verdict == "undecided"


def test_runs_without_gradient_norms_are_refused() -> None:
    runs = _runs({"positive": 0.0, "negative": 0.1}, {"positive": 1.0, "negative": 2.0})
    runs["PSR"][0]._tables["updates"]["grad_norm_total"] = np.nan
    judge = all_claims()["F5"].judge
    assert judge is not None
    with pytest.raises(UsageError, match="expected gradient norms"):
        judge(runs)
