"""Weights that verl's own `ppo_loss` gives tokens under each objective, against closed forms in float64.

1e-7 of the largest weight in float64: verl adds 1e-8 to the length of a response in `seq-mean-token-mean`. 2e-6 in
float32: log-probs of up to two nats, their differences and exponentials.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from analysis.engines.verl.objectives.estimators import ESTIMATORS
from analysis.engines.verl.objectives.objective_names import read_by_advantages
from analysis.engines.verl.objectives.objective_settings import family
from analysis.engines.verl.objectives.policy_losses import LOSSES
from analysis.objectives import Objective, get, names

from .objective_batches import (
    MODES,
    STEP,
    Rollouts,
    actor_config,
    divisors,
    estimated,
    expected_advantages,
    expected_batch,
    weights_by_verl,
)

ADVANTAGE: dict[str, dict[str, Any]] = {  # parameters that the advantages must have
    "w-reinforce": {"lambda_": 0.1},
    "asymre": {"baseline": 0.3},
    "pass-at-k": {"k": 2},
    "pass-at-k-full": {"k": 1},
}
LOSS: dict[str, dict[str, Any]] = {  # parameters of losses, so that clips bind and coefficients count
    "psr-ratio": {"clip_high": 0.1},
    "nsr-ratio": {"clip_low": 0.1, "dual_clip": 1.2},
    "grpo": {"clip_low": 0.1, "clip_high": 0.15},
    "dro": {"tau": 0.1},
    "kto": {"beta": 0.1, "undesirable_weight": 0.5},
    "oreal": {},
    "gspo": {"clip_low": 0.05, "clip_high": 0.05},
    "cispo": {"clip_high": 0.1},
    "ppo": {"rollout_is": "token-truncate", "rollout_is_high": 1.1},
    "high-entropy": {"share": 0.4},
    "clip-cov": {"share": 0.3, "cov_low": -5.0, "cov_high": 5.0},
    "kl-cov": {"share": 0.3},
}
SEED = 42 + 1_000_003 * STEP  # 42 is that of an actor in verl; clip-cov draws with it


def objective_of(name: str) -> tuple[Objective, dict[str, Any], dict[str, Any]]:
    """The objective that a loss stands for, its settings for verl's algorithm and for its loss."""
    named = LOSSES[name]
    of_advantages = ADVANTAGE.get(family(named.objective), {})
    of_loss = LOSS.get(named.objective, {}) if named.form is None else {}
    if named.form is not None:
        of_loss = {**of_loss, "form": named.form}
    algorithm = {"rlvr_parameters": {k: v for k, v in of_advantages.items() if k != "lambda_"}}
    if "lambda_" in of_advantages:
        algorithm["rlvr_lambda"] = of_advantages["lambda_"]
    given = {key: value for key, value in of_loss.items() if key != "form"}
    return get(named.objective, **of_advantages, **of_loss), algorithm, given


def estimator_of(objective: str) -> str:
    stem = family(objective)
    return next(name for name, named in ESTIMATORS.items() if stem in (family(named.objective), named.objective))


def test_each_objective_of_tokens_is_offered():
    offered = {named.objective for named in LOSSES.values()}
    missing = {
        *("rewarding-unlikely", "rewarding-unlikely-paper", "remax", "optimal-token-baseline", "gdpo", "dpo", "orpo"),
        *("opd", "opd-prime", "opd-iw", "opd-k2", "opd-k3", "opd-abs", "distill-jsd", "distill-topk"),
        *("entropy-bonus", "kl-full"),
    }
    assert offered == set(names()) - missing
    assert {named.objective for named in ESTIMATORS.values()} == offered


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_reads_no_parameter_of_the_advantages(name):
    """So that λ and its like are set once, on the side of the estimator."""
    objective, _, _ = objective_of(name)
    unusable = {parameter: object() for parameter in read_by_advantages(objective) & set(objective.parameters)}
    blinded = replace(objective, parameters={**objective.parameters, **unusable})
    rollouts = Rollouts.make()
    batch = expected_batch(objective, rollouts, expected_advantages(objective, rollouts), SEED)
    assert torch.equal(blinded.loss(batch.log_probs, batch), objective.loss(batch.log_probs, batch))


@pytest.mark.parametrize("name", LOSSES)
def test_weights_of_each_loss(name):
    objective, algorithm, parameters = objective_of(name)
    rollouts = Rollouts.make()
    advantages, returns = estimated(estimator_of(objective.name), rollouts, **algorithm)
    batch = expected_batch(objective, rollouts, expected_advantages(objective, rollouts), SEED)
    expected = objective.weights(batch).weight.masked_fill(~rollouts.mask, 0)
    assert batch.kl_baseline is not None
    assert batch.kl_baseline[0] > 0.01
    tokens, rows = int(rollouts.mask.sum()), len(rollouts.mask)
    assert expected.abs().max() > 0
    for mode in MODES:
        config = actor_config(name, mode, rlvr_parameters=parameters)
        weights, _, _ = weights_by_verl(config, rollouts, advantages, returns)
        wanted = expected / divisors(mode, rollouts.mask, dp_size=1, tokens=tokens, rows=rows)
        assert (weights - wanted).abs().max() <= 1e-7 * wanted.abs().max()
    single = replace_float32(rollouts)
    config = actor_config(name, rlvr_parameters=parameters)
    weights, _, _ = weights_by_verl(config, single, advantages, returns, torch.float32)
    wanted = objective.weights(expected_batch(objective, single, expected_advantages(objective, single), SEED))
    wanted = wanted.weight.masked_fill(~single.mask, 0) / tokens
    assert (weights - wanted).abs().max() <= 2e-6 * wanted.abs().max()


def replace_float32(rollouts: Rollouts) -> Rollouts:
    """The same rollouts with float64 values that float32 represents."""
    fields = ("log_probs", "old", "reference", "sampled", "entropy")
    return replace(rollouts, **{name: getattr(rollouts, name).float().double() for name in fields})


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["w_reinforce_ratio", "psr_probability", "gspo", "maxrl", "nft"])
def test_two_ranks_and_two_micro_batches_are_one_minibatch(name, mode):
    name = name if name in LOSSES else f"dynamics_{name}"
    objective, algorithm, parameters = objective_of(name)
    rollouts = Rollouts.make(1)
    advantages, returns = estimated(estimator_of(objective.name), rollouts, **algorithm)
    info = {"batch_num_tokens": int(rollouts.mask.sum()), "global_batch_size": len(rollouts.mask)}
    scale = {"loss_scale_factor": 5} if mode == "seq-mean-token-sum-norm" else {}  # else each micro batch has its own
    whole, _, _ = weights_by_verl(
        actor_config(name, mode, rlvr_parameters=parameters, **scale), rollouts, advantages, returns, **info
    )
    for ranks in (1, 2):  # on two ranks gradients are averaged, which dp_size undoes
        parts = []
        for rows in ([0, 2, 5], [1, 3, 4, 6]):
            config = actor_config(name, mode, rlvr_parameters=parameters, **scale)
            part, _, _ = weights_by_verl(
                config, rollouts.rows(rows), advantages[rows], returns[rows], dp_size=ranks, **info
            )
            parts.append((rows, part / ranks))
        for rows, part in parts:
            assert (part - whole[rows]).abs().max() <= 1e-7 * whole.abs().max()


def test_advantages_of_unequal_groups_by_hand():
    rollouts = Rollouts.make()
    rewards = rollouts.rewards
    mean = torch.tensor([0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.0], dtype=torch.float64)  # a: 1, 0, 0, 1; b: 1, 0
    rewards[3] = 1.0  # a: 1, 0, 1, 1
    mean[[0, 1, 3, 5]] = 0.75
    expected = {
        "psr": rewards,
        "nsr": rewards - 1,
        "w_reinforce": 0.1 * rewards - (1 - rewards),
        "reinforce": 2 * rewards - 1,
        "dr_grpo": rewards - mean,
        "maxrl": (rewards - mean) / mean,
    }
    for name, values in expected.items():
        algorithm = {"rlvr_lambda": 0.1} if name == "w_reinforce" else {}
        advantages, returns = estimated(name, rollouts, **algorithm)
        values = values.clone()
        values[-1] = 0  # the row that verl has added
        assert torch.allclose(advantages, values[:, None] * rollouts.mask, rtol=0, atol=1e-12), name
        assert torch.equal(returns, mean[:, None].expand_as(returns)), name


def test_rows_of_prompts_may_come_in_any_order():
    rollouts = Rollouts.make()
    rollouts.uids = np.array(["a", "b", "a", "b", "a", "b", "pad0"], dtype=object)  # a: 1, 1, 0; b: 0, 0, 1
    advantages, _ = estimated("dr_grpo", rollouts)
    third = 1 / 3
    expected = torch.tensor([third, -third, third, -third, -2 * third, 2 * third, 0], dtype=torch.float64)
    assert torch.allclose(advantages, expected[:, None] * rollouts.mask, rtol=0, atol=1e-12)


def test_rows_that_verl_has_added_are_in_no_statistics_of_a_batch(caplog):
    rollouts = Rollouts.make()
    rewards = rollouts.rewards[:-1]
    advantages, _ = estimated("psr", rollouts, rlvr_parameters={"advantage": "batch_mean_std"})
    expected = (rewards - rewards.mean()) / (rewards.std() + 1e-6)
    assert torch.allclose(advantages[:-1], expected[:, None] * rollouts.mask[:-1], rtol=1e-12, atol=0)
    assert advantages[-1].eq(0).all()
    estimated("maxrl", rollouts)
    assert not caplog.records  # it is not a prompt with one response either


def test_a_row_of_a_group_whose_tokens_are_all_masked_counts_in_its_group():
    rollouts = Rollouts.make()
    rollouts.mask[5] = False  # rejected by a correction: a response of the group all the same
    advantages, returns = estimated("dr_grpo", rollouts)
    assert advantages[5].eq(0).all()
    assert returns[0, 0] == 0.5
    assert advantages[0, 0] == 0.5


def test_verl_vanilla_with_the_estimators_is_the_released_code():
    """Weights of psr-released and so on: the form ratio, clipped at 0.2 on both sides, no dual clip."""
    rollouts = Rollouts.make(2)
    rollouts.old = rollouts.log_probs + 0.5 * torch.randn(
        rollouts.old.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    for stem in ("psr", "nsr", "w-reinforce"):
        algorithm = {"rlvr_lambda": 0.1} if stem == "w-reinforce" else {}
        objective = get(f"{stem}-released", **({"lambda_": 0.1} if algorithm else {}))
        advantages, returns = estimated(stem.replace("-", "_"), rollouts, **algorithm)
        closed = objective.weights(expected_batch(objective, rollouts, expected_advantages(objective, rollouts), SEED))
        assert closed.clip[rollouts.mask].any()
        wanted = closed.weight.masked_fill(~rollouts.mask, 0) / rollouts.mask.sum()
        config = actor_config("vanilla", clip_ratio_c=1e6)
        weights, _, _ = weights_by_verl(config, rollouts, advantages, returns, engine=False)
        assert (weights - wanted).abs().max() <= 1e-7 * wanted.abs().max()
        ours, _, _ = weights_by_verl(
            actor_config(f"{stem.replace('-', '_')}_released"), rollouts, advantages, returns, engine=False
        )
        assert (ours - weights).abs().max() <= 1e-7 * wanted.abs().max()


def test_the_loss_has_the_value_of_the_objective():
    objective, algorithm, parameters = objective_of("grpo")
    rollouts = Rollouts.make()
    advantages, returns = estimated("dynamics_grpo", rollouts, **algorithm)
    _, loss, metrics = weights_by_verl(actor_config("grpo", rlvr_parameters=parameters), rollouts, advantages, returns)
    batch = expected_batch(objective, rollouts, expected_advantages(objective, rollouts), SEED)
    losses = objective.loss(batch.log_probs, batch)[rollouts.mask]
    assert float(loss) == pytest.approx(float(losses.mean()), rel=1e-9)
    assert metrics["actor/objective_loss_of_tokens"].aggregate() == pytest.approx(float(losses.sum()), rel=1e-9)


def test_rollout_correction_of_verl_multiplies_the_weights():
    rollouts = Rollouts.make()
    advantages, returns = estimated("psr", rollouts)
    factors = torch.rand(rollouts.mask.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plain, _, _ = weights_by_verl(actor_config("psr_ratio"), rollouts, advantages, returns)
    corrected, _, _ = weights_by_verl(actor_config("psr_ratio"), rollouts, advantages, returns, is_weights=factors)
    assert torch.allclose(corrected, plain * factors, rtol=1e-12, atol=0)
