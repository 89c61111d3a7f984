"""G7 to G9: the exact parts, and each verdict from planted norms and cosines."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis import UsageError
from analysis.claims.measurements import clipping, flattening, noise_ratios, vanishing
from analysis.claims.measurements.clipping import Clipped, clip_cosines
from analysis.claims.measurements.flattening import tail_changes
from analysis.claims.registry import all_claims
from analysis.claims.study import NSR, PSR
from tests.claims.planted import PlantedEvidence, World, planted


def test_slopes_on_tables() -> None:
    """The mean vanishes with the errors, noise with their root; a mean over errors alone and a sign do not."""
    found = vanishing.table_slopes(seed=3)
    assert found["NSR, expected"] == pytest.approx(1, abs=0.05)
    assert 0.5 < found["NSR, sampled"] < 1
    assert found["NSR, sampled, selected rows"] < 0
    assert abs(found["PSR, sampled"]) < 0.2
    assert found["NSR, sign"] == pytest.approx(0, abs=1e-12)


class _Run:
    """A run of NSR whose error rate falls and whose step norm is a power of it."""

    run_id = "run"

    def __init__(self, power: float, seed: int) -> None:
        errors = np.linspace(0.6, 0.1, 30)
        noise = np.random.default_rng(seed).normal(scale=0.01, size=30)
        self._tables = {
            "steps": pd.DataFrame({"step": range(30), "correct_ratio": 1 - errors}),
            "updates": pd.DataFrame(
                {
                    "step": range(30),
                    "skipped": False,
                    "param_step_norm": errors**power * np.exp(noise),
                    "grad_norm_total": errors**power,
                }
            ),
        }

    def table(self, name: str) -> pd.DataFrame:
        return self._tables[name]


def _runs(power: float) -> Any:
    return {NSR: {seed: _Run(power, seed) for seed in range(4)}}


def _norms(power: float) -> pd.DataFrame:
    rows = [
        {"estimator": name, "base": base, "seed": seed, "p": p, "gradient_norm": g, "variance": 256 * g**2}
        for seed in range(4)
        for base, p in (("path", 0.35), ("path-p60", 0.6), ("path-p85", 0.85))
        for name in (NSR, PSR)
        for g in [(1 - p) ** power * (1 + 0.01 * seed * p)]
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("gradient", "step", "expected"), [(1.5, 1.0, "holds"), (0.0, 0.0, "fails"), (1.0, 0.0, "depends")]
)
def test_g7_verdicts(monkeypatch: pytest.MonkeyPatch, gradient: float, step: float, expected: str) -> None:
    monkeypatch.setattr(noise_ratios, "noise_ratios", lambda *_: _norms(gradient))
    assert all_claims()["G7"].decide(PlantedEvidence(_runs(step))).verdict == expected


def test_g7_on_own_runs() -> None:
    judge = all_claims()["G7"].judge
    assert judge is not None
    assert judge(_runs(1.0)).verdict == "holds"
    assert judge(_runs(0.0)).verdict == "fails"
    with pytest.raises(UsageError, match="labelled NSR"):
        judge({PSR: {}})


def test_g7_stops_where_the_table_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vanishing, "table_slopes", lambda: {"NSR, expected": 0.0, "NSR, sign": 0.0})
    with pytest.raises(RuntimeError, match="must shrink with the error"):
        all_claims()["G7"].decide(PlantedEvidence({}))


def test_a_clipped_token_is_kept_or_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    assert clipping.zero_or_same() == 0
    monkeypatch.setattr(clipping, "zero_or_same", lambda: 0.1)
    with pytest.raises(RuntimeError, match="keep its weight or lose it"):
        all_claims()["G9"].decide(PlantedEvidence({}))


@pytest.mark.parametrize(
    ("psr", "nsr", "expected"), [(0.99, 0.99, "holds"), (0.5, 0.4, "fails"), (0.99, 0.4, "depends")]
)
def test_g9_verdicts(monkeypatch: pytest.MonkeyPatch, psr: float, nsr: float, expected: str) -> None:
    around = 0.001 * np.array([-1.0, 1.0, -0.5, 0.5])
    found = {name: Clipped(value + around, value + around, 0.1 + around) for name, value in ((PSR, psr), (NSR, nsr))}
    monkeypatch.setattr(clipping, "clip_cosines", lambda *_: found)
    labels = (PSR, NSR, f"{PSR}, no clip", f"{NSR}, no clip")
    decision = all_claims()["G9"].decide(PlantedEvidence(planted(dict.fromkeys(labels, World()))))
    assert decision.verdict == expected
    assert [effect.unit for effect in decision.effects] == ["", "", *["nats"] * 6]


@pytest.mark.slow  # loads a base, samples and makes updates
def test_clip_cosines_of_a_small_base() -> None:
    """At a rate of next to nothing no clip binds, and both gradients are one; at a large rate they part."""
    still, moved = (clip_cosines("tiny", 1, lambda *_: None, prompts=8, group_size=4, lr=lr) for lr in (1e-9, 3e-3))
    for name in (PSR, NSR):
        assert still[name].cosine[0] == pytest.approx(1, abs=1e-6)
        assert still[name].tokens[0] == 0
        assert moved[name].cosine[0] < 0.99
        assert moved[name].tokens[0] > 0


@pytest.mark.parametrize(
    ("kl", "norm", "expected"), [(0.02, 0.5, "holds"), (-0.02, -0.5, "fails"), (0.02, -0.5, "depends")]
)
def test_g8_verdicts(monkeypatch: pytest.MonkeyPatch, kl: float, norm: float, expected: str) -> None:
    around = 0.001 * np.array([-1.0, 1.0, -0.5, 0.5])

    def rows(tail: float) -> np.ndarray:
        return np.stack([tail + around, around], 1)

    found = {
        (matching, name): rows(tail if name == "bonus" else 0.0)
        for matching, tail in (("KL", kl), ("step norm", norm))
        for name in flattening.DIRECTIONS
    }
    monkeypatch.setattr(flattening, "tail_changes", lambda *_: found)
    decision = all_claims()["G8"].decide(PlantedEvidence({}))
    assert decision.verdict == expected
    assert len(decision.tables["steps"]["tail"]) == 24


@pytest.mark.slow  # loads a base, samples, and steps along gradients in float64
def test_tail_changes_of_a_small_base() -> None:
    """The bonus raises the entropy to first order, and a second measurement finds the base as it was."""
    first, second = (tail_changes("tiny", 1, lambda *_: None, prompts=4, group_size=2) for _ in range(2))
    assert first["KL", "bonus"][0, 1] > 0
    for key, values in first.items():
        np.testing.assert_array_equal(values, second[key])
