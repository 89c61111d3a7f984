"""R1: the exact scaling against sums written out, and each verdict from planted costs of the noise."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from analysis.claims import Decision
from analysis.claims.entries.noise_robustness import NOISY_ADAMW, NOISY_SGD
from analysis.claims.measurements import label_noise
from analysis.claims.registry import all_claims
from tests.claims.planted import PlantedEvidence, World, planted

R1 = all_claims()["R1"]


def test_expected_gradients_are_scaled_by_hand() -> None:
    """Arms, flips and rewards enumerated one by one, with autograd's ∇p."""
    logits = torch.tensor([0.3, -0.5, 1.1, 0.0], dtype=torch.float64, requires_grad=True)
    correct = [True, False, False, True]
    log_probs = logits.log_softmax(0)
    probs = log_probs.exp()
    (gradient,) = torch.autograd.grad(probs[0] + probs[3], logits, retain_graph=True)
    scores = [torch.autograd.grad(log_probs[arm], logits, retain_graph=True)[0] for arm in range(4)]
    false_positive, false_negative = 0.1, 0.3
    for advantage in ({1: 1.0, 0: 0.0}, {1: 0.0, 0: -1.0}):
        expected = torch.zeros(4, dtype=torch.float64)
        for arm in range(4):
            rewarded = 1 - false_negative if correct[arm] else false_positive
            for reward, chance in ((1, rewarded), (0, 1 - rewarded)):
                expected += float(probs[arm].detach()) * chance * advantage[reward] * scores[arm]
        torch.testing.assert_close(expected, (1 - false_positive - false_negative) * gradient, rtol=0, atol=1e-14)
    assert max(label_noise.scaling_errors(seed=5).values()) < 1e-13


def test_a_wrong_advantage_stops_the_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong:
        def advantages(self, rewards: torch.Tensor, group_size: int) -> torch.Tensor:
            return 2 * rewards

    monkeypatch.setattr(label_noise, "get", lambda name, form: Wrong())
    with pytest.raises(ArithmeticError, match="the advantages are wrong"):
        R1.decide(PlantedEvidence({}))


def _decided(nsr: float, psr: float, diverged: dict[str, list[int]] | None = None, seeds: int = 4) -> Decision:
    """With the fraction of prompts that 40% false negatives lose under either method."""
    return R1.decide(PlantedEvidence(_runs(nsr, psr, seeds), diverged))


@cache
def _runs(nsr: float, psr: float, seeds: int) -> dict[str, Any]:
    def world(cost: float) -> World:
        return World(accuracy=lambda t: 0.3 + 0.6 * t, spread=lambda t: 0.05, lost=lambda t: cost * t)

    by_study = {}
    for study in (NOISY_SGD, NOISY_ADAMW):
        worlds = {}
        for name in study.methods:
            rate = float(name.split(", ")[1].split("%")[0]) / 40
            worlds[name] = world(rate * (nsr if name.startswith("NSR") else psr))
        by_study[study.name] = planted(worlds, seeds)
    return by_study


def test_verdicts_follow_the_extra_cost_of_nsr() -> None:
    assert _decided(0.4, 0.0).verdict == "holds"
    assert _decided(0.0, 0.0).verdict == "fails"
    assert _decided(0.0, 0.4).verdict == "fails"
    assert _decided(0.4, 0.0, seeds=3).verdict == "undecided"


def test_runs_that_diverge_by_the_noise_decide() -> None:
    many = {"NSR, 40% false negatives": [0, 1]}
    assert _decided(0.0, 0.0, many).verdict == "holds"
    assert _decided(0.0, 0.0, {"NSR, 40% false negatives": [0]}).verdict == "undecided"
    assert _decided(0.4, 0.0, {"PSR, 40% false negatives": [0, 1]}).verdict == "fails"
    assert (
        _decided(0.0, 0.0, {name: [0, 1] for name in ("NSR, 40% false negatives", "NSR, 0% false negatives")}).verdict
        == "fails"
    )


def test_the_dose_is_reported() -> None:
    decision = _decided(0.4, 0.0)
    parts = decision.tables["parts"]
    assert sum("20% false negatives" in text for text in parts["measured"]) == 3 * 3  # under SGD, three matchings
    assert np.isfinite(parts["value"]).all()


def test_the_step_is_matched_under_sgd() -> None:
    for run in NOISY_SGD.runs:
        config = run.planned.config
        assert config.optimizer.lr * (1 - config.task.false_negative) == pytest.approx(0.15)
        assert config.update.minibatches == 1
        assert config.update.rows == "keep"
        assert config.optimizer.max_grad_norm is None
