"""Both sides of the comparison of verl with our own loop, on a run that is small enough for a test."""

import pytest

from docs.generators.verl_runs import VERL, run_curve


@pytest.mark.slow
def test_both_sides_of_a_small_run_begin_alike_and_train():
    small = {
        **{"policy.base": "tiny", "task.name": "path-small", "task.train_prompts": 64, "steps": 2, "eval.every": 1},
        **{"rollout.prompts": 8, "rollout.group_size": 4, "update.minibatch_size": 16},
        **{"eval.prompts": 8, "eval.final_prompts": 8},
    }
    loop, verl = (run_curve(side, "NSR", 0, small) for side in ("loop", VERL))
    assert [point["step"] for point in loop] == [point["step"] for point in verl] == [0, 1, 2]
    assert loop[0] == verl[0]
    assert all(side[1] != side[0] for side in (loop, verl))
    assert abs(loop[2]["pass_at_1"] - verl[2]["pass_at_1"]) < 0.1
