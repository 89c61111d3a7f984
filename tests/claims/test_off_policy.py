"""F1: limits on the table against numbers and an ODE, and the verdicts from planted runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from analysis.claims import Evidence
from analysis.claims.entries import off_policy
from analysis.claims.entries.off_policy import _collapses_above_alone, _method, _ratio_removes_it
from analysis.claims.measurements import off_policy_limits
from analysis.claims.measurements.off_policy_limits import CORRECT, PROBS, exact_limits, limit
from analysis.claims.registry import all_claims
from analysis.errors import UsageError
from tests.claims.by_hand import hand_runs

_MU, _CORRECT = torch.tensor(PROBS, dtype=torch.float64), torch.tensor(CORRECT)


def _runs(changes: dict[str, float]) -> Any:
    """Runs whose log effective solutions change by so much until step 10, a little differently for each seed."""
    methods: dict[str, Any] = {}
    for name, change in changes.items():

        def solutions(seed: int, step: int, prompts: np.ndarray, change: float = change) -> np.ndarray:
            return np.exp(1.2 + step / 10 * (change + 0.01 * ((seed + (change < -0.5)) % 3 - 1)) + 0.01 * prompts)

        methods |= hand_runs(
            {name: lambda seed, step, prompts: 0.5 + 0.02 * step + 0.1 * np.tanh(prompts)},
            effective_solutions=solutions,
        )
    return methods


@pytest.mark.parametrize(
    ("baseline", "arms"),
    [
        (0.0, (0.667, 0.250, 0.083)),
        (0.3, (0.792, 0.208, 0.0)),
        (0.46, (0.982, 0.018, 0.0)),
        (0.47, (1.0, 0.0, 0.0)),  # from V = 7/15 on, below the accuracy
        (0.55, (1.0, 0.0, 0.0)),
        (0.6, (1.0, 0.0, 0.0)),
        (1.0, (1.0, 0.0, 0.0)),
    ],
)
def test_limits_of_six_arms(baseline: float, arms: tuple[float, ...]) -> None:
    found = limit(_MU, _CORRECT, baseline).tolist()
    assert found == pytest.approx([*arms, 0, 0, 0], abs=6e-4)


def test_the_limit_is_where_autograd_on_the_loss_leads() -> None:
    logits = _MU.log().requires_grad_()
    pull = _MU * (_CORRECT.double() - 0.3)
    for _ in range(1500):
        (slope,) = torch.autograd.grad((pull * logits.log_softmax(-1)).sum(), logits)
        logits = (logits + 2 * slope).detach().requires_grad_()
    torch.testing.assert_close(logits.detach().softmax(-1), limit(_MU, _CORRECT, 0.3), rtol=0, atol=1e-6)


def test_another_end_of_training_stops_the_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(off_policy_limits, "trained", lambda probs, correct, baseline: probs)
    with pytest.raises(ArithmeticError, match="V = 0: expected training to end at"):
        exact_limits()


@pytest.mark.parametrize(
    ("above", "below", "verdict"),
    [(-0.9, -0.05, "holds"), (-0.1, -0.05, "fails"), (-0.9, -0.6, "fails"), (-0.9, -0.2, "undecided")],
)
def test_collapse_above_the_accuracy_alone(above: float, below: float, verdict: str) -> None:
    methods = _runs({_method("log", 0.9): above, _method("log", 0.0): below})
    found = _collapses_above_alone(methods, "path", 0)
    assert found["path, base samples, equal steps"].verdict == verdict


def test_diverged_runs_above_the_accuracy_have_collapsed() -> None:
    found = _collapses_above_alone(_runs({_method("log", 0.0): 0.0}), "path", 0, diverged=2)
    assert {decision.verdict for decision in found.values()} == {"holds"}


@pytest.mark.parametrize(("kept", "verdict"), [(0.0, "holds"), (-0.9, "fails")])
def test_what_a_ratio_keeps(kept: float, verdict: str) -> None:
    changes = {_method("log", 0.9): -0.9, _method("ratio", 0.9): kept, _method("ratio and clip", 0.9): kept}
    assert {decision.verdict for decision in _ratio_removes_it(_runs(changes)).values()} == {verdict}


def test_the_entry_joins_the_table_and_the_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {_method(*cell): -0.9 if cell[1] == 0.9 and cell[0] == "log" else 0.0 for cell in off_policy._GRID}
    runs = _runs(changes)
    assert set(off_policy._STUDY.methods) == set(runs)
    assert len({run.planned.run_id for run in off_policy._STUDY.runs}) == 4 * len(runs)
    monkeypatch.setattr(Evidence, "methods", lambda self, study: runs)
    monkeypatch.setattr(Evidence, "diverged", lambda self, study: {})
    decision = all_claims()["F1"].decide(Evidence(tmp_path))
    assert decision.verdict == "holds"
    assert "V = 0.3: (0.792, 0.208, 0.000)" in decision.reason
    assert "a ratio keeps more correct responses in 8 of 8 forms and ages (ratio, base samples; " in decision.reason
    assert len(decision.tables["grid"]["seed"]) == 4 * len(runs)
    monkeypatch.setattr(Evidence, "diverged", lambda self, study: {_method("log", 0.0, 16): [1]})
    assert all_claims()["F1"].decide(Evidence(tmp_path)).verdict == "undecided"


def test_other_runs_are_refused() -> None:
    judge = all_claims()["F1"].judge
    assert judge is not None
    with pytest.raises(UsageError, match=r"expected finished runs labelled log, V = 0\.9"):
        judge(_runs({"PSR": 0.0}))
