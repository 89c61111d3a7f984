"""Masks of tokens by quantile: which tokens keep their gradient, under every kind of objective, and at which norm."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.objectives import TokenBatch
from analysis.objectives.selection import between_ranks, select
from analysis.recipes.fields import UpdateFields
from analysis.training.token_masks import kept_tokens
from tests.training.naive_update import make_config, make_updater, off_policy_targets, random_batch, random_policy

ROWS = torch.arange(16)


def updated(objective: dict[str, Any], **update: Any) -> Any:
    """The result of one off-policy update of a random model, and its step Δθ/−lr as one vector."""
    config = make_config(objective={"clip_low": None, "clip_high": None, "form": None, **objective}, update=update)
    policy = random_policy()
    updater = make_updater(config, policy)
    batch = random_batch(updater.objective)
    targets = off_policy_targets(batch, policy, 0.3)
    if "ref_log_probs" in updater.objective.needs():
        targets = dataclasses.replace(targets, ref_log_probs=targets.old_log_probs)
    before = torch.cat([p.detach().flatten() for p in updater.parameters])
    result = updater.apply(batch, targets, ROWS, None, "update 0")
    after = torch.cat([p.detach().flatten() for p in updater.parameters])
    return result, (before - after) / 0.1


def by_rollout(result: Any, name: str) -> dict[tuple[int, int], float]:
    return {
        (int(row), t): float(getattr(one, name)[b, t])
        for one in result.passes
        for b, row in enumerate(one.rows)
        for t in one.mask[b].nonzero()[:, 0].tolist()
    }


@pytest.mark.parametrize("micro_batch", [None, 3])
@pytest.mark.parametrize(
    "objective",
    [
        {"name": "reinforce", "form": "log"},
        {"name": "reinforce", "form": "ratio", "clip_low": 0.2, "clip_high": 0.2},
        {"name": "nsr", "form": "probability"},
        {"name": "grpo"},
        {"name": "gspo"},
        {"name": "cispo"},
        {"name": "high-entropy", "share": 0.5},
        {"name": "kl-cov", "share": 0.2},
    ],
    ids=lambda objective: objective["name"],
)
def test_kept_tokens_have_their_weight_and_the_others_none(objective: dict[str, Any], micro_batch: int | None) -> None:
    """Against the update without a mask: the same weights on the kept tokens, measured and in closed form."""
    whole, _ = updated(objective, micro_batch=micro_batch)
    mask = {"token_mask": "probability", "mask_low": 0.2, "mask_high": 0.7, "micro_batch": micro_batch}
    masked, _ = updated(objective, **mask)
    weights, log_probs = by_rollout(whole, "weights"), by_rollout(whole, "log_probs")
    order = sorted(log_probs, key=lambda place: log_probs[place])
    kept = set(order[int(0.2 * len(order)) : int(0.7 * len(order))])
    closed = by_rollout(masked, "closed_form")
    for place, weight in by_rollout(masked, "weights").items():
        expected = weights[place] if place in kept else 0.0
        assert weight == pytest.approx(expected, rel=1e-12, abs=1e-15)
        assert closed[place] == pytest.approx(weight, rel=1e-12, abs=1e-15)
    assert any(weights[place] != 0 for place in kept)
    assert any(weights[place] != 0 for place in set(order) - kept)


def test_the_gradient_is_that_of_the_kept_tokens() -> None:
    """Two masks that share no token: their gradients sum to the whole one, and micro-batches change rounding alone."""
    objective = {"name": "grpo"}
    _, whole = updated(objective)
    _, low = updated(objective, token_mask="entropy", mask_high=0.6)
    _, high = updated(objective, token_mask="entropy", mask_low=0.6)
    torch.testing.assert_close(low + high, whole, rtol=0, atol=1e-12)
    _, parts = updated(objective, token_mask="entropy", mask_high=0.6, micro_batch=2)
    torch.testing.assert_close(parts, low, rtol=0, atol=1e-12)


@pytest.mark.parametrize("micro_batch", [None, 3])
def test_the_norm_of_all_tokens(micro_batch: int | None) -> None:
    """The direction of the kept tokens' gradient, the norm of the whole one, and weights to match."""
    objective = {"name": "grpo"}
    _, whole = updated(objective)
    own, short = updated(objective, token_mask="signed_change", mask_low=0.2, mask_high=0.5)
    full, scaled = updated(
        objective, token_mask="signed_change", mask_low=0.2, mask_high=0.5, mask_norm="full", micro_batch=micro_batch
    )
    factor = float(whole.norm() / short.norm())
    assert own.mask_scale is None
    assert full.mask_scale == pytest.approx(factor, rel=1e-10)
    torch.testing.assert_close(scaled, factor * short, rtol=0, atol=1e-11)
    assert full.grad_norm["total"] == pytest.approx(float(whole.norm()), rel=1e-10)
    weights, scaled_weights = by_rollout(own, "weights"), by_rollout(full, "weights")
    assert all(scaled_weights[place] == pytest.approx(factor * w, rel=1e-10) for place, w in weights.items())
    assert by_rollout(full, "closed_form") == pytest.approx(scaled_weights, rel=1e-12, abs=1e-15)


def test_regularisers_act_on_every_token() -> None:
    """The entropy bonus of an update whose objective is masked is that without the mask."""
    objective = {"name": "reinforce", "form": "log", "entropy_coef": 0.3}
    whole, _ = updated(objective)
    masked, _ = updated(objective, token_mask="probability", mask_high=0.3, mask_norm="full")
    for a, b in zip(whole.gradients["reg"], masked.gradients["reg"], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-14)


def test_nothing_kept_is_a_gradient_of_zero() -> None:
    """A range below one token of the minibatch: no gradient, and none to scale."""
    result, step = updated({"name": "grpo"}, token_mask="probability", mask_high=1e-3, mask_norm="full")
    assert torch.equal(step, torch.zeros_like(step))
    assert result.mask_scale == 1


@given(st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=30), st.sampled_from([0.1, 0.2, 0.28, 0.3, 0.8, 1.0]))
@settings(max_examples=60, deadline=None)
def test_top_entropy_is_the_upper_range(values: list[float], share: float) -> None:
    """The share of the objective high-entropy is the mask from 1 − share to 1, ties included, naively counted."""
    entropy = torch.tensor([values])
    batch = TokenBatch(-torch.ones_like(entropy), advantages=torch.ones(1), entropy=entropy)
    chosen = select("top_entropy", batch, {"share": share}, None)
    count = -int(-round(share * 1000) * len(values) // 1000)
    least = sorted(values)[-count]
    assert chosen.tolist() == [[value >= least for value in values]]
    fields = UpdateFields(token_mask="entropy", mask_low=round(1 - share, 6))
    assert torch.equal(kept_tokens(batch, fields), chosen)


def test_ties_padding_and_signs() -> None:
    real = torch.tensor([[True, True, True, False], [True, True, False, False]])
    values = torch.tensor([[1.0, 2.0, 2.0, -9.0], [2.0, 3.0, 9.0, 9.0]])
    assert between_ranks(values, real, 1, 2).tolist() == [[False, True, True, False], [True, False, False, False]]
    assert not between_ranks(values, real, 2, 2).any()
    log_probs = torch.tensor([[0.9, 0.1], [0.9, 0.2]]).log()
    batch = TokenBatch(log_probs, advantages=torch.tensor([2.0, -0.5]))
    # signed changes 0.1, 0.9, −0.1, −0.8
    lowest = kept_tokens(batch, UpdateFields(token_mask="signed_change", mask_high=0.25))
    highest = kept_tokens(batch, UpdateFields(token_mask="signed_change", mask_low=0.75))
    assert lowest.tolist() == [[False, False], [False, True]]
    assert highest.tolist() == [[False, True], [False, False]]
