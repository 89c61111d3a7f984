"""F8: the formulas against exact steps on a table, and the verdicts from planted changes of entropy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from analysis.claims.entries import entropy_prediction
from analysis.claims.entries.entropy_prediction import _STUDIES, _foretells
from analysis.claims.measurements import entropy_predictors
from analysis.claims.measurements.entropy_predictors import PREDICTORS, UPPER_BOUND, entropy_changes, quality
from analysis.errors import UsageError
from tests.claims.by_hand import HandRun

TOKENS, VOCAB, STEP = 60, 6, 1e-6


def _entropy(z: torch.Tensor) -> torch.Tensor:
    log_probs = z.log_softmax(-1)
    return -(log_probs.exp() * log_probs).sum(-1)


def _flows(update: int) -> tuple[pd.DataFrame, torch.Tensor, torch.Tensor]:
    """Rows as `context_flows` gives them, but for the changes; with the logits and the one-hot tokens."""
    generator = torch.Generator().manual_seed(update)
    z = 1.5 * torch.randn(TOKENS, VOCAB, generator=generator, dtype=torch.float64)
    token = torch.randint(VOCAB, (TOKENS,), generator=generator)
    y = torch.nn.functional.one_hot(token, VOCAB).double()
    weight = torch.where(torch.arange(TOKENS) % 2 == 0, 0.7, -0.3).double()
    log_prob = (z.log_softmax(-1) * y).sum(-1)
    frame = pd.DataFrame(
        {
            "update": update,
            "kind": "batch",
            "weight": weight.numpy(),
            "log_prob_before": log_prob.numpy(),
            "one_minus_prob_before": -np.expm1(log_prob.numpy()),
            "entropy_before": _entropy(z).numpy(),
        }
    )
    return frame, z, y


@pytest.fixture
def flows(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`context_flows` reads the table `flows` of a run made by hand, as it is."""
    monkeypatch.setattr(entropy_predictors, "context_flows", lambda run: run.table("flows"))


def _rates(z: torch.Tensor, direction: torch.Tensor) -> np.ndarray:
    """dH per unit of step by central differences."""
    rate: np.ndarray = ((_entropy(z + STEP * direction) - _entropy(z - STEP * direction)) / (2 * STEP)).numpy()
    return rate


def test_three_formulas_are_the_exact_rates_of_their_steps(flows: Any) -> None:
    frame, z, y = _flows(0)
    weight = torch.tensor(frame["weight"].to_numpy(copy=True))[:, None]
    own = weight * (y - z.softmax(-1))
    frame = frame.assign(law_dentropy=_rates(z, own), jvp_dentropy=0.0, dentropy=0.0)
    rows = entropy_changes(HandRun("exact", flows=frame))  # type: ignore[arg-type]
    assert rows["discriminator"].to_numpy() == pytest.approx(_rates(z, weight * y), abs=1e-8)
    assert rows["four factors"].to_numpy() == pytest.approx(_rates(z, own * y), abs=1e-8)
    assert rows["polarity"].to_numpy() == pytest.approx(_rates(z, own), abs=1e-8)
    assert rows["covariance"].mean() == pytest.approx(
        -np.cov(frame["weight"], frame["log_prob_before"], bias=True)[0, 1], rel=1e-9
    )
    # Surprisal above the entropy: pulling the token up is said to raise entropy.
    surprising = -frame["log_prob_before"] > frame["entropy_before"]
    assert ((rows["relative surprisal"] > 0) == (surprising == (frame["weight"] > 0))).all()


def _run(seed: int, true: float) -> Any:
    """Two updates: of each token's change `true` parts are the law and the rest noise of the same size."""
    rng = np.random.default_rng(seed)
    parts = []
    for update in (2 * seed, 2 * seed + 1):
        frame, z, y = _flows(update)
        law = _rates(z, torch.tensor(frame["weight"].to_numpy(copy=True))[:, None] * (y - z.softmax(-1)))
        change = true * law + (1 - abs(true)) * law.std() * rng.normal(size=TOKENS)
        parts.append(frame.assign(law_dentropy=law, jvp_dentropy=change, dentropy=change))
    return HandRun(f"run-{seed}", flows=pd.concat(parts, ignore_index=True))


@pytest.mark.parametrize(("true", "verdict"), [(0.8, "holds"), (0.0, "fails"), (-0.8, "fails")])
def test_verdicts_of_the_formula_that_is_planted(flows: Any, true: float, verdict: str) -> None:
    found = _foretells({"GRPO": {seed: _run(seed, true) for seed in range(4)}}, "path")
    assert list(found) == [f"path, {name}" for name in PREDICTORS]
    decision = found["path, polarity"]
    assert decision.verdict == verdict
    bound = [e for e in found[f"path, {PREDICTORS[-1]}"].effects if UPPER_BOUND in e.label]
    assert bound[0].value == pytest.approx(1.0)
    table = pd.DataFrame(found["path, discriminator"].tables["predictors"])
    assert len(table) == 6 * 11 * 4
    assert set(table["entropy_decile"]) == {"all", *map(str, range(1, 11))}


def test_shuffled_weights_are_the_null(flows: Any) -> None:
    """A change that follows the formula with |w| in the place of w is not credited to the weights."""
    run = _run(0, 1.0)
    frame = run._tables["flows"]
    frame["dentropy"] = frame["law_dentropy"] / frame["weight"]
    numbers = quality(entropy_changes(run), "polarity")
    assert abs(numbers["excess"]) < 0.4
    frame["dentropy"] = frame["law_dentropy"]
    numbers = quality(entropy_changes(run), "polarity")
    assert numbers["rank"] == numbers["sign"] == pytest.approx(1.0)
    assert numbers["r_squared"] == pytest.approx(1.0)
    assert numbers["excess"] > 0.5


def test_too_few_tokens_are_refused(flows: Any) -> None:
    run = _run(0, 1.0)
    run._tables["flows"] = run._tables["flows"].head(5)
    with pytest.raises(UsageError, match=r"record\.jvp_every above 0"):
        entropy_changes(run)


def test_the_studies_are_valid_recipes() -> None:
    assert [len(study.runs) for study in _STUDIES] == [4, 4, 4]
    assert entropy_prediction.CLAIMS[0].tables == ("flows", "contexts")
