"""Micro-batches change rounding only; bfloat16 stays where it was asked for."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch

from analysis.recipes import Recipe
from analysis.recipes.fields import CriticFields, RecordFields
from analysis.records import load_trace
from analysis.training.critic import Critic
from analysis.training.loop import Loop, train
from analysis.training.record_rows import UpdateIndex, pass_statistics, update_row
from analysis.training.rollout_model import RolloutModel
from analysis.training.step_targets import StepTargets
from analysis.training.targets import fix_targets
from analysis.training.token_logits import DenseLogits
from tests.training.naive_update import make_config, make_updater, off_policy_targets, random_batch, random_policy

ROWS = torch.arange(16)
REGULARISED = {"name": "grpo", "kl_coef": 0.3, "kl_estimator": "full", "entropy_coef": 0.2}


def one_update(update=None, *, critic=False, **tables):
    """The updater, its batch and the result of one update of a random float64 policy from a reference of its own."""
    config = make_config(update=update or {}, **tables)
    if critic:
        config = dataclasses.replace(config, critic=CriticFields(enabled=True, gae_lambda=0.9))
    policy, reference = random_policy(0), random_policy(1)
    updater = make_updater(config, policy)
    batch = random_batch(updater.objective)
    targets = off_policy_targets(batch, policy, 0.4)
    if config.objective.kl_coef:
        ref_log_probs = updater.runner.log_probs(reference.model, batch, ROWS.tolist())
        targets = dataclasses.replace(targets, ref_log_probs=ref_log_probs)
    if critic:
        updater.critic = Critic(policy.model, config.critic)
        targets = fix_targets(batch, [[ROWS]], updater, reference.model)
    return updater, batch, updater.apply(batch, targets, ROWS, reference.model, "update 0")


def table_row(result):
    statistics = [pass_statistics(one, RecordFields()) for one in result.passes]
    return update_row(UpdateIndex(0, 0, 0, 0), result, statistics, 0.1, 0.5)


@pytest.mark.parametrize("critic", [False, True])
@pytest.mark.parametrize("size", [1, 3])
def test_micro_batches_make_the_same_update(size, critic):
    objective = {"name": "reinforce"} if critic else REGULARISED
    whole, _, expected = one_update(objective=objective, critic=critic)
    parts, _, result = one_update({"micro_batch": size}, objective=objective, critic=critic)
    # sums in another order: a few float64 roundings of numbers of order one
    for p, q in zip(whole.parameters, parts.parameters, strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-14)
    if critic:
        torch.testing.assert_close(whole.critic.head.weight, parts.critic.head.weight, rtol=1e-9, atol=0)
    assert max(len(one.rows) for one in result.passes) == size
    signs = [one.sign for one in result.passes]
    assert signs == sorted(signs, reverse=True)
    assert sorted(torch.cat([one.rows for one in result.passes]).tolist()) == ROWS.tolist()
    of_whole, of_parts = table_row(expected), table_row(result)
    for name, (value,) in of_whole.items():
        assert of_parts[name][0] == (pytest.approx(value, rel=1e-10) if isinstance(value, float) else value), name


def float32_updater(**update):
    policy = random_policy()
    policy.model.float()
    return make_updater(make_config(objective={"name": "reinforce"}, update=update), policy)


def test_autocast_touches_the_matrix_products_only():
    exact, mixed = float32_updater(), float32_updater(autocast="bfloat16")
    batch = random_batch(exact.objective)
    expected = {
        one.sign: one for one in exact.apply(batch, StepTargets.on_policy(batch), ROWS, None, "update 0").passes
    }
    before = random_policy().model.float()
    result = mixed.apply(batch, StepTargets.on_policy(batch), ROWS, None, "update 0")
    for one in result.passes:
        assert one.logits.dtype == one.log_probs.dtype == one.weights.dtype == torch.float32
        error = (one.log_probs - expected[one.sign].log_probs)[one.mask].abs()
        # bfloat16 keeps 8 bits, relative 2^-9 a rounding, on logits of up to about 10 after two layers
        assert 1e-4 < error.max() < 0.3
    steps = [
        torch.cat([(p.detach() - b).flatten() for p, b in zip(u.parameters, before.parameters(), strict=True)])
        for u in (exact, mixed)
    ]
    assert all(p.dtype == torch.float32 for p in mixed.parameters)
    assert torch.nn.functional.cosine_similarity(*steps, dim=0) > 0.99
    assert not torch.equal(*steps)


def test_old_log_probs_see_the_same_autocast():
    """Else a ratio would differ from 1 before anything has moved."""
    updater = float32_updater(autocast="bfloat16", micro_batch=16)
    batch = random_batch(updater.objective)
    # one sign, so that the passes hold the same rows and the kernels round alike
    batch = dataclasses.replace(
        batch, rewards=torch.ones(16), correct=torch.ones_like(batch.correct), flipped=torch.zeros_like(batch.flipped)
    )
    old_log_probs = updater.runner.log_probs(updater.policy.model, batch, ROWS.tolist())
    (one,) = updater.apply(batch, StepTargets(batch.advantages, old_log_probs), ROWS, None, "update 0").passes
    torch.testing.assert_close(one.ratio[one.mask], torch.ones_like(one.ratio[one.mask]), rtol=0, atol=1e-6)


def test_the_sampling_copy_follows_the_policy():
    policy = random_policy()
    model = RolloutModel(policy.model, torch.bfloat16)
    assert RolloutModel(policy.model, torch.float64).current() is policy.model
    before = copy.deepcopy(policy.model.state_dict())
    for _ in range(2):
        current = model.current()
        for name, value in policy.model.state_dict().items():
            assert torch.equal(current.state_dict()[name], value.to(torch.bfloat16)), name
            assert torch.equal(value, before[name])
        with torch.no_grad():
            for parameter in policy.model.parameters():
                parameter.add_(0.1)
        before = copy.deepcopy(policy.model.state_dict())


def test_statistics_are_at_least_of_the_recorded_dtype():
    _, _, result = one_update(objective={"name": "reinforce"})
    one = result.passes[0]
    assert pass_statistics(one, RecordFields()).entropy.dtype == torch.float64
    one.token_logits = DenseLogits(one.logits.bfloat16())
    assert pass_statistics(one, RecordFields()).entropy.dtype == torch.float32
    assert pass_statistics(one, RecordFields(dtype="float64")).entropy.dtype == torch.float64


@pytest.mark.slow
def test_a_run_in_bfloat16_rollouts_autocast_and_micro_batches(tmp_path):
    """The path of a GPU, small and on the CPU: everything is recorded as ever, and the laws differ only by rounding."""
    settings = {
        "steps": 2,
        "rollout.prompts": 8,
        "eval.prompts": 4,
        "eval.final_prompts": 4,
        "record.tokens": 1.0,
        "rollout.dtype": "bfloat16",
        "update.autocast": "bfloat16",
        "update.micro_batch": 5,
        "record.dtype": "float64",
    }
    config = next(run.config for run in Recipe.load("tiny").set(**settings).expand() if run.label == "PSR")
    assert train(config, tmp_path / "run", run_id="r", label="L") == "complete"
    run = load_trace(tmp_path / "run")
    tokens = run.table("tokens")
    gap = (tokens["sampling_log_prob"] - tokens["log_prob"])[tokens["update"] == 0].abs()
    assert 0 < gap.median() < 0.05
    assert (tokens["ratio"][tokens["update"] == 0] - 1).abs().max() < 1e-6
    loop = Loop(config, tmp_path / "again", run_id="r", label="L")
    assert all(p.dtype == torch.float32 for p in loop.policy.model.parameters())
