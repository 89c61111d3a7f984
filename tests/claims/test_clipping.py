"""F2: the exact rates against enumeration, and the verdicts from planted runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from analysis.claims import Evidence
from analysis.claims.entries import clipping
from analysis.claims.entries.clipping import _clip_moves_entropy, _nsr_needs_clipping
from analysis.claims.measurements import clip_sides
from analysis.claims.registry import all_claims
from analysis.errors import UsageError
from tests.claims.by_hand import hand_runs
from toy_models.exact import Bandit


def _p(seed: int, step: int, prompts: np.ndarray) -> np.ndarray:
    return 0.4 + 0.1 * np.tanh(prompts) + 0.01 * step + 0.001 * (seed % 2) * prompts


def _runs(changes: dict[str, float], p: Any = _p) -> Any:
    """Runs whose entropy changes by so much until step 10, a little differently for each seed."""
    methods: dict[str, Any] = {}
    for name, change in changes.items():
        scatter = 0.01 if name == "clip high" else 0.002

        def entropy(
            seed: int, step: int, prompts: np.ndarray, change: float = change, scatter: float = scatter
        ) -> np.ndarray:
            return 0.9 + step / 10 * (change + scatter * (seed % 3 - 1)) + 0.01 * prompts

        methods |= hand_runs({name: p}, entropy_fixed=entropy, entropy_own=entropy)
        for run in methods[name].values():
            run._tables["updates"] = pd.DataFrame({"update": range(40), "clip_low_neg": 0.05, "clip_high_pos": 0.02})
    return methods


_CHANGES = {"clip none": -0.1, "clip low": 0.0, "clip high": -0.2, "clip both": -0.1}


@pytest.mark.parametrize("side", ["none", "low", "high", "both"])
def test_expected_gradients_are_sums_over_responses_and_rewards(side: str) -> None:
    """By autograd: the clipped loss of every arm with A = 1 and A = −1, weighted by the old policy's chances."""
    old = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
    logits = (old.log() + torch.tensor([0.5, -0.6, 0.0, 0.4], dtype=torch.float64)).requires_grad_()
    ratio = logits.softmax(-1) / old
    low = 0.8 if side in ("low", "both") else 0.0
    high = 1.2 if side in ("high", "both") else float("inf")
    gain = torch.zeros((), dtype=torch.float64)
    for advantage in (1.0, -1.0):
        gain = gain + (old * torch.minimum(ratio * advantage, ratio.clamp(low, high) * advantage)).sum() / 2
    (expected,) = torch.autograd.grad(gain, logits)
    found = clip_sides.expected_gradient(Bandit(old.log()[None]), Bandit(logits.detach()[None]), side)
    torch.testing.assert_close(found[0], expected, rtol=0, atol=1e-14)


def test_a_wrong_weight_stops_the_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    right = clip_sides.expected_gradient
    monkeypatch.setattr(clip_sides, "expected_gradient", lambda old, now, side: right(old, now, side) + 1e-9)
    with pytest.raises(ArithmeticError, match="weights of the toolkit are wrong"):
        clip_sides.clip_effects()


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [({}, "holds"), ({"clip low": -0.2, "clip high": 0.0}, "fails"), ({"clip high": -0.12}, "undecided")],
)
def test_sides_of_the_clip(changed: dict[str, float], verdict: str) -> None:
    found = _clip_moves_entropy(_runs(_CHANGES | changed), "path")
    assert len(found) == 6
    assert {decision.verdict for decision in found.values()} == {verdict}
    table = found["path, entropy on fixed prefixes, equal steps"].tables["clipped"]
    assert table["held_below"] == [0.05] * 16
    assert table["entropy_change_per_update"][1] == pytest.approx(-0.1 / 40)


def test_random_rewards_are_compared_at_equal_steps_alone() -> None:
    assert len(_clip_moves_entropy(_runs(_CHANGES), "path", random=True)) == 2


@pytest.mark.parametrize(("alone", "verdict"), [(-0.1, "holds"), (0.1, "fails")])
def test_nsr_with_and_without_clipping(alone: float, verdict: str) -> None:
    runs = _runs({"NSR, one update, no clip": alone, "NSR, eight updates, clip both": 0.1})
    assert _nsr_needs_clipping(runs).verdict == verdict


def test_the_entry_joins_tables_runs_and_issue_6(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = _runs(_CHANGES | {"NSR, one update, no clip": -0.1, "NSR, eight updates, clip both": 0.1})
    monkeypatch.setattr(Evidence, "methods", lambda self, study: {m: runs[m] for m in study.methods if m in runs})
    monkeypatch.setattr(Evidence, "diverged", lambda self, study: {})
    decision = all_claims()["F2"].decide(Evidence(tmp_path))
    assert decision.verdict == "holds"
    assert "(issue 6 of the released code) is right here" in decision.reason
    rates = {e.label: e.value for e in decision.effects if e.kind == "exact"}
    assert all(value > 0 for label, value in rates.items() if "clip low" in label)
    assert all(value < 0 for label, value in rates.items() if "clip high" in label)
    monkeypatch.setattr(Evidence, "diverged", lambda self, study: {"clip none": [1]})
    assert all_claims()["F2"].decide(Evidence(tmp_path)).verdict == "undecided"


def test_runs_without_a_side_are_refused() -> None:
    with pytest.raises(UsageError, match="got none of clip high"):
        _clip_moves_entropy(_runs({"clip none": 0.0, "clip low": 0.1}), "your runs")


def test_methods_differ_in_the_clip_alone() -> None:
    for study in clipping._STUDIES:
        assert len({run.planned.run_id for run in study.runs}) == 16
