"""G1 to G6: statistics of contexts against sums written out, the exact parts, and each verdict from planted steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from analysis import UsageError
from analysis.claims.entries import single_steps
from analysis.claims.measurements import continuations, logit_gradients, own_step
from analysis.claims.measurements.steps import (
    context_steps,
    fall_statistics,
    flow_statistics,
    order_statistics,
    proportion_statistics,
    protection_slopes,
)
from analysis.claims.registry import all_claims
from analysis.claims.study import NSR, PSR
from tests.claims.planted import PlantedEvidence

VOCAB, CONTEXTS = 20, 60
# Δz (V,) of a context from (π (V,), y, w, random generator)
Step = Callable[[np.ndarray, int, float, np.random.Generator], np.ndarray]


def own(size: float) -> Step:
    """The step of the token alone, in the ratio form."""
    return lambda probs, y, weight, rng: size * weight * (np.eye(VOCAB)[y] - probs)


def unrelated(probs: np.ndarray, y: int, weight: float, rng: np.random.Generator) -> np.ndarray:
    return 0.05 * rng.normal(size=VOCAB)


class HandRun:
    """Contexts whose logits were moved by a given step."""

    def __init__(self, method: str, seed: int, step: Step) -> None:
        self.run_id = f"{method}-{seed}"
        rng = np.random.default_rng([seed, method == NSR])
        weight = 1.0 if method == PSR else -1.0
        rows = []
        for context in range(CONTEXTS):
            logits = 2 * rng.normal(size=VOCAB)
            logits -= np.log(np.exp(logits).sum())
            probs = np.exp(logits)
            y = int(rng.choice(VOCAB, p=probs))
            dlogit = step(probs, y, weight, rng)
            after = np.exp(logits + dlogit)
            after /= after.sum()
            rows.append(
                {
                    "context": context,
                    "update": context // 20,
                    "kind": "batch",
                    "token": y,
                    "weight": weight,
                    "log_prob_before": np.log(probs[y]),
                    "log_prob_after": np.log(after[y]),
                    "one_minus_prob_before": 1 - probs[y],
                    "collision_before": (probs**2).sum(),
                    "entropy_before": -(probs * np.log(probs)).sum(),
                    "entropy_after": -(after * np.log(after)).sum(),
                    "top_ids": np.arange(VOCAB),
                    "top_prob_before": probs,
                    "top_prob_after": after,
                    "top_dlogit": dlogit,
                }
            )
        self._frame = pd.DataFrame(rows)

    def table(self, name: str) -> pd.DataFrame:
        of_contexts = ["context", "kind", "token"]
        return self._frame[of_contexts] if name == "contexts" else self._frame.drop(columns=["kind", "token"])


def runs(step: Step, seeds: int = 4) -> Any:
    return {method: {seed: HandRun(method, seed, step) for seed in range(seeds)} for method in (PSR, NSR)}


def verdict(name: str, step: Step) -> str:
    claim = all_claims()[name]
    assert claim.judge is not None
    return claim.judge(runs(step)).verdict


def scaled_away(probs: np.ndarray, y: int, weight: float, rng: np.random.Generator) -> np.ndarray:
    """The sampled token moves by 0.01 whatever its probability, as under Adam."""
    return 0.01 * weight * np.eye(VOCAB)[y]


def against_the_prior(probs: np.ndarray, y: int, weight: float, rng: np.random.Generator) -> np.ndarray:
    return own(0.1)(probs, y, -weight, rng)


def only_y(probs: np.ndarray, y: int, weight: float, rng: np.random.Generator) -> np.ndarray:
    return 0.1 * weight * np.eye(VOCAB)[y]


@pytest.mark.parametrize(
    ("name", "step", "expected"),
    [
        ("G2", own(0.01), "holds"),
        ("G2", unrelated, "fails"),
        ("G2", against_the_prior, "fails"),
        ("G3", only_y, "holds"),
        ("G3", against_the_prior, "fails"),
        ("G4", only_y, "holds"),
        ("G4", own(0.01), "fails"),  # the tail below c − π_y is fed
        ("G4", unrelated, "fails"),
        ("G5", own(0.01), "holds"),
        ("G5", scaled_away, "fails"),
        ("G6", own(0.1), "holds"),
        ("G6", unrelated, "fails"),
        ("G6", against_the_prior, "fails"),
    ],
)
def test_each_verdict(name: str, step: Step, expected: str) -> None:
    assert verdict(name, step) == expected


def test_statistics_of_the_own_step() -> None:
    steps = context_steps(HandRun(NSR, 3, own(1e-5)))  # type: ignore[arg-type]
    assert proportion_statistics(steps)["all"] == pytest.approx(1)
    assert order_statistics(steps)["sharpened"] == 1
    assert flow_statistics(steps)["rest_entropy"] < 0
    assert flow_statistics(steps)["boundary"] > 0
    assert 0.8 < protection_slopes(steps)["log_odds"] < 1.2
    psr = fall_statistics(context_steps(HandRun(PSR, 3, own(1e-5))))  # type: ignore[arg-type]
    assert psr["falling_above"] == 1
    assert psr["falling_below"] == 0


def test_the_change_of_one_context_by_hand() -> None:
    """π = (½, ¼, ⅛, …): y = 0 falls to ¼ while the odds of the others are kept, so that all of them grow by a half."""

    class One(HandRun):
        def __init__(self) -> None:
            self.run_id = "one"
            before, after = np.array([4, 2, 1, 1]) / 8, np.array([2, 3, 1.5, 1.5]) / 8
            entropies = [-(p * np.log(p)).sum() for p in (before, after)]
            self._frame = pd.DataFrame(
                {
                    "context": [0],
                    "update": [0],
                    "kind": ["batch"],
                    "token": [0],
                    "weight": [-1.0],
                    "log_prob_before": [np.log(0.5)],
                    "log_prob_after": [np.log(0.25)],
                    "one_minus_prob_before": [0.5],
                    "collision_before": [(before**2).sum()],
                    "entropy_before": entropies[:1],
                    "entropy_after": entropies[1:],
                    "top_ids": [np.arange(4)],
                    "top_prob_before": [before],
                    "top_prob_after": [after],
                    "top_dlogit": [np.log(after / before)],
                }
            )

    steps = context_steps(One())  # type: ignore[arg-type]
    assert steps.log_odds[0] == pytest.approx(np.log(1 / 3))
    assert steps.prob[0] == pytest.approx(-0.25)
    assert steps.dlogit[0] == pytest.approx(np.log(0.5) - np.log(1.5))
    np.testing.assert_allclose(steps.rest_entropy[0], 1.5 * np.log(2))
    assert flow_statistics(steps)["gain"] == 1


def test_no_recorded_context_is_refused() -> None:
    run = HandRun(NSR, 0, own(0.1))
    run._frame["weight"] = 0.0
    with pytest.raises(UsageError, match=r"set record\.contexts above 0 and record\.top_k"):
        context_steps(run)  # type: ignore[arg-type]
    judge = all_claims()["G2"].judge
    assert judge is not None
    with pytest.raises(UsageError, match="labelled NSR"):
        judge({PSR: {}})


def test_closed_forms_by_hand() -> None:
    """π = (¼, ¾), y = 0: Eq. 7 gives ¼·(¾, −¾), the ratio form with π_old = ½ gives ½·(¾, −¾)."""
    logits = torch.tensor([[0.25, 0.75]], dtype=torch.float64).log()
    probs = logits.exp()
    token = torch.tensor([0])
    eq7 = logit_gradients._pushed(probs, token, torch.tensor([[0.25]], dtype=torch.float64))
    torch.testing.assert_close(eq7, torch.tensor([[0.1875, -0.1875]], dtype=torch.float64))
    old = torch.tensor([0.5], dtype=torch.float64).log()
    for name in ("psr", "nsr"):
        for form in logit_gradients.FORMS:
            error, _ = logit_gradients.closed_form_errors(logits, token, old, name, form, torch.Generator())
            assert float(error.max()) < 1e-15
    assert logit_gradients.table_errors(seed=4) < 1e-13


def test_shuffled_alternatives_keep_the_sampled_token() -> None:
    probs = torch.rand(50, 9, dtype=torch.float64)
    tokens = torch.randint(9, (50,))
    shuffled = logit_gradients._shuffled(probs, tokens, torch.Generator())
    torch.testing.assert_close(shuffled.sort(-1).values, probs.sort(-1).values)
    torch.testing.assert_close(shuffled.gather(-1, tokens[:, None]), probs.gather(-1, tokens[:, None]))
    assert not torch.equal(shuffled, probs)


def test_theorems_on_tables() -> None:
    assert 0 < own_step.check_boundary(seed=2)["below"] < 1
    assert own_step.rest_entropy_falls(seed=2) < 0
    assert own_step.check_order(seed=2) > 0


def test_a_broken_law_stops_the_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_step, "squeeze_boundary", lambda stats: -stats.prob)
    with pytest.raises(RuntimeError, match="against the boundary"):
        all_claims()["G3"].decide(PlantedEvidence({}))
    monkeypatch.setattr(logit_gradients, "table_errors", lambda: 1e-3)
    with pytest.raises(RuntimeError, match="not those of autograd"):
        all_claims()["G1"].decide(PlantedEvidence({}))


@pytest.mark.parametrize(("error", "expected"), [(1e-12, "holds"), (0.1, "fails")])
def test_g1_verdicts(monkeypatch: pytest.MonkeyPatch, error: float, expected: str) -> None:
    rows = {(name, form): np.array([[error, 0.7, 90.0]] * 4) for name in ("psr", "nsr") for form in ("ratio",)}
    monkeypatch.setattr(logit_gradients, "transformer_errors", lambda *_: rows)
    assert all_claims()["G1"].decide(PlantedEvidence({})).verdict == expected


def test_conditions_that_differ_make_it_depend() -> None:
    """G5 holds under SGD and fails under Adam."""
    by_study = {
        study.name: runs(scaled_away if study.name.startswith("AdamW") else own(0.01)) for study in single_steps.STEPS
    }
    decision = all_claims()["G5"].decide(PlantedEvidence(by_study))
    assert decision.verdict == "depends"
    assert "AdamW" in decision.depends_on


def test_correct_and_wrong_alternatives_by_hand() -> None:
    """Prompt 7, responses (1, 2) and (3, 4) correct. After 7 the token 0 was sampled: 1 and 3 are correct."""
    rows = pd.DataFrame(
        {
            "prompt_ids": [[7], [7], [7]],
            "prefix_ids": [[7], [7, 3], [7, 9]],  # nothing correct begins with 9
            "token": [0, 0, 0],
            "top_ids": [[0, 1, 2, 3], [4, 0, 1], [0, 1, 2]],
            "top_prob_before": [[0.4, 0.3, 0.2, 0.1], [0.2, 0.5, 0.3], [0.2, 0.5, 0.3]],
            "top_prob_after": [[0.2, 0.35, 0.25, 0.2], [0.5, 0.1, 0.4], [0.1, 0.6, 0.3]],
        }
    )
    found = continuations.flows_by_verdict(rows, lambda prompt: [(1, 2), (3, 4)])
    assert found["correct"] == pytest.approx((0.15 + 0.3) / 2)
    assert found["wrong"] == pytest.approx((0.05 + 0.1) / 2)
    assert np.isnan(continuations.flows_by_verdict(rows, lambda prompt: None)["correct"])
