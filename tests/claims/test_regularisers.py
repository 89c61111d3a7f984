"""G10 and G11 from planted runs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.claims.entries.regularisers import _keeps_the_sign, _kl_is_negligible
from analysis.errors import UsageError
from tests.claims.by_hand import HandRun, hand_runs


def _p(gain: float) -> Any:
    return lambda seed, step, prompts: 0.4 + 0.1 * np.tanh(prompts) + gain * step / 10 + 0.001 * (seed % 2) * prompts


def _entropy(seed: int, step: int, prompts: np.ndarray) -> np.ndarray:
    return 0.9 - 0.01 * step + 0.01 * prompts


@pytest.mark.parametrize(("gain", "verdict"), [(0.1, "holds"), (0.3, "depends")])
def test_kl_changes_nothing_or_something(gain: float, verdict: str) -> None:
    """Without the KL p rises by 0.1; with it by as much, or by 0.3 with PSR alone."""
    methods = {name: _p(0.1) for name in ("PSR", "NSR", "GRPO")}
    methods |= {f"{name}, β = 0.001": _p(gain if name == "PSR" else 0.1) for name in ("PSR", "NSR", "GRPO")}
    decision = _kl_is_negligible(hand_runs(methods, entropy_fixed=_entropy))
    assert decision.verdict == verdict
    by_label = {effect.label: effect.value for effect in decision.effects}
    assert by_label["Pass@1: PSR, β = 0.001 − PSR, equal steps"] == pytest.approx(gain - 0.1, abs=1e-9)


def _run(name: str, seed: int, flips: int) -> Any:
    """Two groups of four, rewards 1, 0, 0, 0 and all 0; 40 tokens, `flips` of the mixed group with a wrong sign."""
    rollouts = pd.DataFrame(
        {
            "step": 0,
            "rollout": np.arange(8),
            "group": np.repeat([0, 1], 4),
            "reward": [1.0, 0, 0, 0, 0, 0, 0, 0],
        }
    )
    advantages = np.repeat([1.5, -0.5, -0.5, -0.5, 0, 0, 0, 0], 5)
    advantages[:flips] *= -1
    tokens = pd.DataFrame({"step": 0, "rollout": np.repeat(np.arange(8), 5), "advantage": advantages})
    return HandRun(f"{name}-{seed}", rollouts=rollouts, tokens=tokens)


def test_signs_are_counted_among_tokens_with_an_advantage() -> None:
    """No flip is an exact zero; 4 or 5 of 20 tokens are a share of 0.2 to 0.25; half the groups are uniform."""
    methods = {
        "GRPO": {seed: _run("GRPO", seed, 0) for seed in range(4)},
        "PPO": {seed: _run("PPO", seed, 4 + seed % 2) for seed in range(4)},
    }
    decision = _keeps_the_sign(methods)
    assert decision.verdict == "depends"
    assert decision.depends_on == "holds: GRPO; fails: PPO"
    grpo, ppo = decision.effects
    assert (grpo.value, grpo.kind) == (0.0, "exact")
    assert ppo.value == pytest.approx(0.225)
    assert decision.tables["signs"]["uniform"] == [0.5] * 8
    assert "greatest |A| of GRPO is 0." in decision.reason


def test_one_seed_of_a_user_has_no_interval() -> None:
    decision = _keeps_the_sign({"PPO": {0: _run("PPO", 0, 4)}})
    assert decision.verdict == "undecided"
    assert math.isnan(decision.effects[0].low)


def test_runs_without_tokens_are_refused() -> None:
    run = _run("GRPO", 0, 0)
    run._tables["tokens"] = run._tables["tokens"].head(0)
    with pytest.raises(UsageError, match=r"set record\.tokens above 0"):
        _keeps_the_sign({"GRPO": {0: run}})
