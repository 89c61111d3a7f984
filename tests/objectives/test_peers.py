"""The peers' functions run, and leave no trace of what was stood in for their other dependencies."""

from __future__ import annotations

import importlib.util
import sys

import pytest
import torch

from tests.objectives.peers import trl_peer, verl_peer

pytestmark = pytest.mark.slow  # importing the two libraries takes seconds

RATIO = torch.tensor([[0.5, 1.1, 1.5], [0.5, 1.1, 4.0]], dtype=torch.float64)
LOG_PROBS = RATIO.log() - 2.0
OLD = torch.full_like(RATIO, -2.0)
ADVANTAGES = torch.tensor([1.0, -1.0], dtype=torch.float64)
MASK = torch.tensor([[True, True, True], [True, True, True]])
REWARDS = torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0, 0.0])


def test_weights_by_hand() -> None:
    """PPO's weight A·ρ within the clip [0.8, 1.2] and below verl's dual clip of 3, by both libraries."""
    expected = torch.tensor([[0.5, 1.1, 0.0], [0.0, -1.1, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(verl_peer.weights("vanilla", LOG_PROBS, OLD, ADVANTAGES, MASK), expected)
    ours = trl_peer.grpo_weights(LOG_PROBS, OLD, ADVANTAGES, MASK, loss_type="bnpo", delta=3.0)
    torch.testing.assert_close(ours, expected)


def test_advantages_by_hand() -> None:
    ones = torch.ones(6, 1, dtype=torch.bool)
    expected = torch.tensor([1.0, -0.5, -0.5, 0.5, 0.5, -1.0])
    torch.testing.assert_close(verl_peer.advantages("rloo", REWARDS, ones, 3)[:, 0], expected)
    torch.testing.assert_close(trl_peer.rloo_advantages(REWARDS, 3), expected)
    expected = torch.tensor([2.0, -1.0, -1.0, 1.0, 1.0, -2.0]) / 3
    torch.testing.assert_close(trl_peer.grpo_advantages(REWARDS, 3, scale_rewards="none"), expected)


def test_nothing_is_left_behind() -> None:
    before = set(sys.modules)
    module = verl_peer.module("verl.trainer.ppo.rollout_corr_helper")
    assert callable(module.compute_rollout_correction_weights)
    left = set(sys.modules) - before
    assert not {name for name in left if name.partition(".")[0] in ("verl", *verl_peer.STOOD_IN)}
    for name in ("verl", "ray"):
        if name not in before:
            assert importlib.util.find_spec(name) is None


@pytest.mark.parametrize("name", ["vanilla", "gspo", "sapo", "cispo", "clip_cov", "kl_cov", "geo_mean", "dro"])
def test_every_loss_of_verl_runs(name: str) -> None:
    fields = {"dro_beta": 0.1} if name == "dro" else {}
    assert verl_peer.weights(name, LOG_PROBS, OLD, ADVANTAGES, MASK, **fields).shape == RATIO.shape
