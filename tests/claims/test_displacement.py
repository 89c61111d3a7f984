"""F9 from planted runs: which correct responses fall is written by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.claims.entries.displacement import _STUDIES, _changes, _displaces
from analysis.claims.registry import all_claims
from analysis.errors import UsageError
from analysis.records.schema import SHARES
from tests.claims.by_hand import hand_run

GROUPS, SIZE = 50, 4


def _run(method: str, seed: int, falling: int, taken: float) -> Any:
    """50 groups of 4, the first response of each correct, a last group all correct; two tokens each, two passes.

    Of the correct responses in groups with both rewards `falling` lose 0.2 nats and the others gain 0.2; the group
    without a wrong one loses and does not count. Wrong rows take `taken` of what correct rows give.
    """
    run = hand_run(method, seed, lambda _seed, step, prompts: 0.4 + 0.01 * step + 0.01 * prompts)
    count = (GROUPS + 1) * SIZE
    first = np.arange(count) % SIZE == 0
    group = np.arange(count) // SIZE
    reward = (first | (group == GROUPS)).astype(float)
    rollouts = pd.DataFrame({"step": 0, "rollout": np.arange(count), "group": group, "reward": reward})
    change = np.where((group < falling) | (group == GROUPS), -0.1, 0.1)  # of each of two tokens
    tokens = pd.concat(
        pd.DataFrame({"step": 0, "rollout": np.arange(count), "epoch": epoch, "log_prob": -1.0 + epoch * change})
        for epoch in (0, 1)
        for _ in range(2)
    )
    shares = np.zeros(len(SHARES))
    shares[SHARES.index("pos_now")] = 0.02
    shares[SHARES.index("neg_past")] = -0.02 * taken * (1 + 0.01 * seed)
    contexts = pd.DataFrame({"context": [0, 1, 2], "kind": ["batch", "batch", "panel"], "sign": [1, -1, 1]})
    flows = pd.DataFrame({"context": [0, 0, 1, 2], "jvp_dlog_prob_shares": [shares, None, 9 * shares, 9 * shares]})
    run._tables |= {"rollouts": rollouts, "tokens": tokens, "contexts": contexts, "flows": flows}
    return run


def _methods(falling: int, taken: float) -> Any:
    """PSR displaces 0 to 1 of 50 responses."""
    return {
        "GRPO": {seed: _run("GRPO", seed, falling + seed % 2, taken) for seed in range(4)},
        "PSR": {seed: _run("PSR", seed, seed % 2, 0.0) for seed in range(4)},
    }


@pytest.mark.parametrize(
    ("falling", "taken", "verdict"), [(20, 0.5, "holds"), (0, 0.5, "fails"), (20, 0.01, "fails"), (5, 0.5, "undecided")]
)
def test_displacement_needs_falling_responses_and_wrong_rows_that_cause_it(
    falling: int, taken: float, verdict: str
) -> None:
    decision = _displaces(_methods(falling, taken), "path")["path"]
    assert decision.verdict == verdict
    share, cause, gap, accuracy = decision.effects
    assert share.value == pytest.approx((falling + 0.5) / GROUPS)
    assert cause.value == pytest.approx(taken * 1.015)
    assert gap.value == pytest.approx(falling / GROUPS)
    assert accuracy.value == pytest.approx(0.1)
    table = decision.tables["displacement"]
    assert set(table["solved"]) == {0.25}
    assert table["responses"] == [GROUPS] * 8


def test_uniform_groups_do_not_count() -> None:
    found = _changes(_run("GRPO", 0, 5, 0.5))
    assert len(found) == GROUPS
    assert found["change"].sort_values().tolist() == pytest.approx([-0.2] * 5 + [0.2] * (GROUPS - 5))


def test_records_of_one_pass_are_refused() -> None:
    methods = _methods(5, 0.5)
    tokens = methods["GRPO"][0]._tables["tokens"]
    methods["GRPO"][0]._tables["tokens"] = tokens[tokens["epoch"] == 0]
    with pytest.raises(UsageError, match=r"set update\.epochs to 2"):
        all_claims()["F9"].judge(methods)  # type: ignore[misc]
    methods = _methods(5, 0.5)
    methods["GRPO"][0]._tables["flows"] = methods["GRPO"][0]._tables["flows"].assign(jvp_dlog_prob_shares=None)
    with pytest.raises(UsageError, match=r"record\.shares_every above 0"):
        _displaces(methods, "path")


def test_the_studies_are_valid_recipes() -> None:
    assert [len(study.runs) for study in _STUDIES] == [8, 8, 8]
