"""Random rewards by the verifier's noise: false_positive = 1 − false_negative makes rewards independent of verdicts."""

from __future__ import annotations

import pytest
import torch

from analysis.common.randomness import Streams
from analysis.objectives import get
from analysis.recipes.fields import RolloutFields
from analysis.training.rollouts import collect_rollouts
from tests.gradient_noise.small_world import SumTask, random_policy

GROUP = 2000


@pytest.mark.parametrize(
    ("false_positive", "false_negative", "independent"), [(0.5, 0.5, True), (0.25, 0.75, True), (0.5, 0.25, False)]
)
def test_rewards_of_correct_and_wrong_responses(
    false_positive: float, false_negative: float, independent: bool
) -> None:
    """6000 rollouts of one seed; means within four standard errors, where a false alarm has a chance of 6e-5."""
    policy, task = random_policy(), SumTask()
    prompts = task.prompts("train")
    fields = RolloutFields(prompts=len(prompts), group_size=GROUP)
    batch = collect_rollouts(
        policy,
        policy.model,
        task,
        prompts,
        get("grpo"),
        fields,
        Streams(3),
        0,
        false_positive=false_positive,
        false_negative=false_negative,
    )
    correct, rewards = batch.correct, batch.rewards.double()
    assert torch.equal(rewards > 0, correct ^ batch.flipped)
    chances = {True: 1 - false_negative, False: false_positive}
    means = {}
    for verdict, chance in chances.items():
        chosen = rewards[correct == verdict]
        assert len(chosen) > 1000
        means[verdict] = float(chosen.mean())
        assert abs(means[verdict] - chance) < 4 * (chance * (1 - chance) / len(chosen)) ** 0.5
    error = sum(float(rewards[correct == v].var()) / int((correct == v).sum()) for v in chances) ** 0.5
    assert (abs(means[True] - means[False]) < 4 * error) == independent
