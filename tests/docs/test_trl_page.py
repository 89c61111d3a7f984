"""The comparison of TRL with our own loop: its rule on curves made by hand, its page, and both sides of a small run."""

from __future__ import annotations

import numpy as np
import pytest

from docs.generators.compared_runs import METHODS, differences
from docs.generators.templates import StatementError
from docs.generators.trl_page import trl_page
from docs.generators.trl_runs import TRL, run_curve

from .made_curves import made


def test_a_difference_has_the_pooled_interval_at_the_level_of_the_family() -> None:
    from scipy import stats

    results = made(TRL)
    rows = differences(results["curves"], TRL)
    assert len(rows) == 2 * 3 * 3
    row = next(row for row in rows if (row["method"], row["quantity"], row["step"]) == ("GRPO", "entropy_nats", 8))
    trl, loop = ([curve[2]["entropy_nats"] for curve in results["curves"][side]["GRPO"]] for side in ("TRL", "loop"))
    expected = stats.ttest_ind(trl, loop).confidence_interval(1 - 0.05 / 18)
    assert row["value"] == pytest.approx(np.mean(trl) - np.mean(loop))
    assert (row["low"], row["high"]) == pytest.approx((expected.low, expected.high))


def test_the_page_says_that_equal_curves_are_equal() -> None:
    page = trl_page(made(TRL))
    assert "All 18 intervals together hold with 95%" in page
    assert "**Every one does.**" in page
    assert page.count("| NSR, `ObjectiveTrainer`") == 9
    assert "apart by 18 of 18 intervals" in page


def test_a_page_whose_curves_differ_cannot_be_written() -> None:
    with pytest.raises(StatementError, match="expected every interval to contain 0, got others for NSR pass_at_1 at"):
        trl_page(made(TRL, shift=0.1))


def test_a_page_whose_rule_could_not_fail_cannot_be_written() -> None:
    with pytest.raises(StatementError, match="expected the control to be told apart"):
        trl_page(made(TRL, apart=0.0))


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_both_sides_of_a_small_run_begin_alike_and_train(method: str) -> None:
    pytest.importorskip("trl", reason="trl is not installed")
    small = {
        **{"policy.base": "tiny", "task.name": "path-small", "task.train_prompts": 64, "steps": 2, "eval.every": 1},
        **{"rollout.prompts": 8, "rollout.group_size": 4, "update.minibatch_size": 16},
        **{"eval.prompts": 8, "eval.final_prompts": 8},
    }
    loop, trl = (run_curve(side, method, 0, small) for side in ("loop", "TRL"))
    assert [point["step"] for point in loop] == [point["step"] for point in trl] == [0, 1, 2]
    assert loop[0] == trl[0]
    assert all(side[1] != side[0] for side in (loop, trl))
    assert abs(loop[2]["pass_at_1"] - trl[2]["pass_at_1"]) < 0.1
