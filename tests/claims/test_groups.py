"""F11 and F12: closed forms against enumeration, and the verdicts from planted runs."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.claims import Evidence
from analysis.claims.entries import groups
from analysis.claims.measurements import groups as measured
from analysis.claims.measurements.groups import SUCCESS, Interference, weight_tables
from analysis.claims.registry import all_claims
from tests.claims.by_hand import hand_runs


def _rises(amount: float, scatter: float = 0.002) -> Any:
    """p starts at ½ and changes by `amount` until step 10, a little differently for each seed and prompt."""
    return lambda seed, step, prompts: (
        0.5 + 0.1 * np.tanh(prompts) + step / 10 * (amount + scatter * ((seed % 3) - 1) + scatter * prompts)
    )


def test_prompt_weights_are_the_sum_over_all_groups() -> None:
    """Dr. GRPO with G = 4 and p = 0.3: each of the 16 outcomes with its probability."""
    rows = weight_tables()["prompt weights"]
    listed = list(zip(rows["objective"], rows["group_size"], rows["p"], rows["weight"], strict=True))
    (weight,) = [w for name, size, p, w in listed if (name, size, p) == ("dr-grpo", 4, 0.3)]
    total = 0.0
    for outcome in product((0, 1), repeat=4):
        rewards = np.array(outcome, dtype=float)
        chance = np.prod(np.where(rewards, 0.3, 0.7))
        advantages = rewards - rewards.mean()
        total += chance * (advantages @ np.where(rewards, 1 / 0.3, -1 / 0.7)) / 4
    assert weight == pytest.approx(total, rel=1e-12)


def test_a_constant_factor_is_not_a_distortion() -> None:
    """Dr. GRPO at G is (1 − 1/G) times its limit for every p; GRPO's factor depends on p, less so in large groups."""
    shapes = weight_tables()["distortion"]
    table = {(o, g): d for o, g, d in zip(*shapes.values(), strict=True)}
    assert all(table["dr-grpo", size] < 1e-9 for size in (2, 4, 8, 16))
    assert table["grpo", 2] > table["grpo", 4] > table["grpo", 8] > table["grpo", 16] > 0.01
    assert len(SUCCESS) == 19


@pytest.mark.parametrize(("amount", "verdict"), [(0.2, "holds"), (0.35, "fails")])
def test_group_sizes_are_compared_at_equal_steps(amount: float, verdict: str) -> None:
    """Pass@1 of G = 16 rises by 0.2; equal within 0.02, or 0.15 apart. Pass@64 is 1 in both, so only Pass@1 differs."""
    methods = hand_runs({"GRPO, G = 2": _rises(amount), "GRPO, G = 16": _rises(0.2)})
    decision = groups._two_do_as_well(methods)
    assert decision.verdict == ("holds" if verdict == "holds" else "depends")
    assert decision.effects[0].value == pytest.approx(amount - 0.2, abs=1e-9)


@pytest.mark.parametrize(("amount", "verdict"), [(-0.1, "holds"), (0.1, "fails"), (-0.01, "undecided")])
def test_pass_at_1_falls_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, amount: float, verdict: str) -> None:
    runs = hand_runs({"Pass@8 objective": _rises(amount, 0.01), "Pass@1 objective": _rises(0.2)})
    monkeypatch.setattr(Evidence, "methods", lambda self, study: runs)
    monkeypatch.setattr(measured, "interference", lambda base, seed, k, progress: Interference(0.5, 0.3, -0.2))
    decision = all_claims()["F12"].decide(Evidence(tmp_path))
    assert decision.verdict == verdict
    agreed = 8 if amount < 0 else 0
    assert f"in {agreed} of 8 runs" in decision.reason


@pytest.mark.slow  # loads a base and takes gradients
def test_interference_of_a_small_base() -> None:
    found = measured.interference("tiny", 0, 8, lambda what, done, total: None, prompts=6)
    assert 0 < found.p < 1
    assert -1 <= found.cosine <= 1
    assert 0 <= found.negative_share <= 1
