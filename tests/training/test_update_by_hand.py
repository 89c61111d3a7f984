"""Normalisers, minibatches without rows and optimisers, each by hand in float64; the noise of rewards."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch

from analysis.common.randomness import Streams
from analysis.objectives import get
from analysis.recipes import Recipe
from analysis.recipes.fields import UpdateFields
from analysis.training.minibatches import plan_minibatches
from analysis.training.rollouts import collect_rollouts
from analysis.training.step_targets import StepTargets
from tests.training.naive_update import make_config, make_updater, random_batch, random_policy
from toy_models import Verdict, get_task, load_policy

ROWS = torch.arange(16)
LAMBDA = {"w-reinforce": 0.1}


def rewarded(objective, rewards, **shape):
    """A random batch with these rewards."""
    rewards = torch.as_tensor(rewards).float()
    batch = random_batch(objective, **shape)
    advantages = objective.advantages(rewards, batch.group_size)
    return dataclasses.replace(
        batch,
        rewards=rewards,
        correct=rewards > 0,
        advantages=advantages,
        selected=objective.selected(advantages),
        verdicts=[Verdict(bool(r), "") for r in rewards],
    )


def flat(parameters):
    return torch.cat([p.detach().flatten() for p in parameters])


def gradient(batch, rows, policy=None, **tables):
    """−Δθ of one SGD step at rate 1: the gradient of the loss, and the update's result."""
    tables = {"objective": {"name": "psr"}} | tables
    updater = make_updater(make_config(**tables, optimizer={"name": "sgd", "lr": 1.0}), copy.deepcopy(policy))
    before = flat(updater.parameters)
    result = updater.apply(batch, StepTargets.on_policy(batch), rows, None, "update")
    return before - flat(updater.parameters), result


class TestNormalisers:
    """The summed loss of PSR with wrong rows kept, divided in four ways: ratios of gradients are ratios of divisors."""

    batch = random_batch(get("psr-ratio"))

    def test_tokens_of_all_rows_of_selected_rows_and_a_constant(self):
        tokens = int(self.batch.lengths.sum())
        selected = int(self.batch.lengths[self.batch.selected].sum())
        assert 0 < selected < tokens
        summed = None
        for normalizer, divisor in (
            ("batch_tokens", tokens),
            ("selected_tokens", selected),
            ("constant", 50.0),
            ("constant", 0.25),
        ):
            constant = divisor if normalizer == "constant" else None
            g, result = gradient(self.batch, ROWS, update={"normalizer": normalizer, "constant": constant})
            assert result.normalizer == divisor
            summed = g * divisor if summed is None else summed
            torch.testing.assert_close(g * divisor, summed, rtol=0, atol=1e-13 * divisor)

    def test_per_sequence_is_the_mean_over_rows_of_token_means(self):
        g, result = gradient(self.batch, ROWS, update={"normalizer": "per_sequence"})
        assert result.normalizer is None
        expected = torch.zeros_like(g)
        for i in self.batch.selected.nonzero()[:, 0].tolist():
            own, _ = gradient(self.batch, ROWS[i : i + 1], update={"normalizer": "constant", "constant": 1.0})
            expected += own / (int(self.batch.lengths[i]) * len(ROWS))
        torch.testing.assert_close(g, expected, rtol=0, atol=1e-13)

    def test_the_divisor_is_the_minibatch_s_own(self):
        for rows in (ROWS[:5], ROWS[5:]):
            _, result = gradient(self.batch, rows, update={"normalizer": "batch_tokens"})
            assert result.normalizer == int(self.batch.lengths[rows].sum())

    def test_rows_without_a_weight_change_the_divisor_and_nothing_else(self):
        selected = self.batch.selected.nonzero()[:, 0]
        kept, k = gradient(self.batch, ROWS)
        dropped, d = gradient(self.batch, selected)
        torch.testing.assert_close(kept * k.normalizer, dropped * d.normalizer, rtol=0, atol=1e-12)
        assert d.normalizer < k.normalizer


class TestOptimiserSteps:
    """The released code keeps its minibatch size while it drops one sign's rows: steps then follow the accuracy."""

    @pytest.mark.parametrize(("name", "steps"), [("psr", 4), ("nsr", 1), ("w-reinforce", 4)])
    @pytest.mark.parametrize(("rows", "size"), [(8192, 2048), (40, 10)])
    def test_at_80_percent_psr_takes_four_where_nsr_takes_one(self, name, steps, rows, size):
        objective = get(name, form="ratio", lambda_=LAMBDA.get(name))
        rewards = (torch.arange(rows) % 5 > 0).float()
        fields = UpdateFields(rows="keep" if name == "w-reinforce" else "drop", minibatch_size=size)
        selected = objective.selected(objective.advantages(rewards, 8))
        plan = plan_minibatches(selected, fields, torch.Generator().manual_seed(0))
        assert len(plan) == steps
        assert sum(map(len, plan)) == int(selected.sum() if name != "w-reinforce" else rows)
        if rows > 40:
            return
        config = make_config(objective={"name": name, "lambda_": LAMBDA.get(name)}, optimizer={"name": "adamw"})
        updater = make_updater(config)
        batch = rewarded(objective, rewards, groups=5, group_size=8)
        for part in plan:
            updater.apply(batch, StepTargets.on_policy(batch), part, None, "update")
        assert {int(state["step"]) for state in updater.optimizer.state.values()} == {steps}

    def test_a_number_of_minibatches_gives_every_sign_as_many(self):
        rewards = (torch.arange(40) % 5 > 0).float()
        for name in ("psr", "nsr"):
            objective = get(name, form="ratio")
            selected = objective.selected(objective.advantages(rewards, 8))
            plan = plan_minibatches(selected, UpdateFields(rows="drop", minibatches=4), torch.Generator())
            assert len(plan) == 4
            assert all(selected[part].all() for part in plan)


def test_a_minibatch_without_rows_leaves_adam_untouched_or_steps_on_its_momentum():
    """empty = skip: moments, step count and parameters as they were. step: one AdamW step on a zero gradient."""
    betas, eps, lr, decay = (0.9, 0.99), 1e-6, 0.01, 0.1
    for empty in ("skip", "step"):
        settings = {"name": "adamw", "lr": lr, "betas": betas, "eps": eps, "weight_decay": decay}
        updater = make_updater(make_config(optimizer=settings, update={"empty": empty}))
        batch = random_batch(updater.objective)
        updater.apply(batch, StepTargets.on_policy(batch), ROWS, None, "update 0")
        theta = flat(updater.parameters)
        state = copy.deepcopy(updater.optimizer.state_dict())
        result = updater.apply(batch, StepTargets.on_policy(batch), ROWS[:0], None, "update 1")
        now = updater.optimizer.state_dict()
        if empty == "skip":
            assert result.skipped
            assert result.grad_norm == {}
            assert torch.equal(flat(updater.parameters), theta)
            assert now["param_groups"] == state["param_groups"]
            for index, moments in state["state"].items():
                assert all(torch.equal(value, now["state"][index][name]) for name, value in moments.items())
        else:
            assert not result.skipped
            assert result.grad_norm == {"total": 0.0}
            m = torch.cat([moments["exp_avg"].flatten() for moments in state["state"].values()])
            v = torch.cat([moments["exp_avg_sq"].flatten() for moments in state["state"].values()])
            update = (betas[0] * m / (1 - betas[0] ** 2)) / ((betas[1] * v / (1 - betas[1] ** 2)).sqrt() + eps)
            torch.testing.assert_close(
                flat(updater.parameters), theta * (1 - lr * decay) - lr * update, rtol=0, atol=1e-14
            )
            for index, moments in state["state"].items():
                torch.testing.assert_close(now["state"][index]["exp_avg"], betas[0] * moments["exp_avg"])
                torch.testing.assert_close(now["state"][index]["exp_avg_sq"], betas[1] * moments["exp_avg_sq"])


@pytest.mark.parametrize(
    ("betas", "eps", "decay", "limit"),
    [
        ((0.9, 0.999), 1e-8, 0.0, None),
        ((0.5, 0.7), 1e-8, 0.0, None),
        ((0.9, 0.999), 1e-3, 0.0, None),
        ((0.9, 0.999), 1e-8, 0.1, None),
        ((0.9, 0.999), 1e-3, 0.1, 1e-2),
    ],
)
def test_adamw_by_hand(betas, eps, decay, limit):
    """Three steps; the first is lr·g/(|g| + ε) whatever the betas. Decay is decoupled, the norm is clipped first."""
    lr = 0.01
    settings = {"name": "adamw", "lr": lr, "betas": betas, "eps": eps, "weight_decay": decay, "max_grad_norm": limit}
    updater = make_updater(make_config(objective={"name": "reinforce"}, optimizer=settings))
    batch = random_batch(updater.objective)
    theta = flat(updater.parameters)
    m, v = torch.zeros_like(theta), torch.zeros_like(theta)
    for count in (1, 2, 3):
        g, _ = gradient(batch, ROWS, updater.policy, objective={"name": "reinforce"})
        if limit is not None:
            assert g.norm() > limit
            g = g * limit / (g.norm() + 1e-6)
        m, v = betas[0] * m + (1 - betas[0]) * g, betas[1] * v + (1 - betas[1]) * g**2
        step = (m / (1 - betas[0] ** count)) / ((v / (1 - betas[1] ** count)).sqrt() + eps)
        if count == 1:
            # g comes from a difference of parameters, 1e-16 off: against ε = 1e-8 that is 1e-8 of a step
            torch.testing.assert_close(step, g / (g.abs() + eps), rtol=1e-9, atol=1e-7)
        theta = theta * (1 - lr * decay) - lr * step
        updater.apply(batch, StepTargets.on_policy(batch), ROWS, None, f"update {count}")
        torch.testing.assert_close(flat(updater.parameters), theta, rtol=0, atol=1e-9)
        theta = flat(updater.parameters)


def test_sgd_by_hand():
    """b ← μ·b + g + λ·θ, θ ← θ − lr·b: weight decay is L2 and goes through the momentum."""
    lr, momentum, decay = 0.2, 0.7, 0.1
    settings = {"name": "sgd", "lr": lr, "momentum": momentum, "weight_decay": decay}
    updater = make_updater(make_config(objective={"name": "reinforce"}, optimizer=settings))
    batch = random_batch(updater.objective)
    theta = flat(updater.parameters)
    buffer = torch.zeros_like(theta)
    for count in range(3):
        g, _ = gradient(batch, ROWS, updater.policy, objective={"name": "reinforce"})
        buffer = momentum * buffer + g + decay * theta
        theta = theta - lr * buffer
        updater.apply(batch, StepTargets.on_policy(batch), ROWS, None, f"update {count}")
        torch.testing.assert_close(flat(updater.parameters), theta, rtol=0, atol=1e-13)


def test_entropy_and_kl_leave_the_weights_of_the_objective_alone():
    """Regularisers add vectors: every token's measured weight is the same with them and without, bit for bit."""
    batch = random_batch(get("reinforce-ratio"))
    plain, with_both = (
        gradient(
            batch, ROWS, objective={"name": "reinforce", "entropy_coef": coef, "kl_coef": coef, "kl_estimator": "full"}
        )
        if coef == 0
        else _regularised(batch, coef)
        for coef in (0.0, 0.3)
    )
    assert not torch.equal(plain[0], with_both[0])
    for one, other in zip(plain[1].passes, with_both[1].passes, strict=True):
        assert torch.equal(one.weights, other.weights)


def _regularised(batch, coef):
    objective = {"name": "reinforce", "entropy_coef": coef, "kl_coef": coef, "kl_estimator": "full"}
    updater = make_updater(make_config(objective=objective, optimizer={"name": "sgd", "lr": 1.0}))
    reference = random_policy(1).model
    ref_log_probs = updater.runner.log_probs(reference, batch, ROWS.tolist())
    targets = StepTargets(batch.advantages, ref_log_probs=ref_log_probs)
    before = flat(updater.parameters)
    result = updater.apply(batch, targets, ROWS, reference, "update")
    return before - flat(updater.parameters), result


@pytest.mark.slow
def test_verifier_noise_flips_at_its_rates_and_touches_no_verdict():
    """1024 rollouts, flips of each kind within 4 standard errors of their rate: a false alarm in 1 of 8000 trials."""
    settings = {
        "grid": "unset",
        "objective.name": "reinforce",
        "update.rows": "keep",
        "rollout.prompts": 64,
        "rollout.group_size": 16,
    }
    policy = load_policy("tiny")
    task = get_task("path-small", policy.tokenizer)
    prompts = task.prompts("train")[:64]
    rates = {"task.false_positive": 0.3, "task.false_negative": 0.2}
    exact, noisy = (
        collect_rollouts(
            policy,
            policy.model,
            task,
            prompts,
            get("reinforce-ratio"),
            config.rollout,
            Streams(0),
            0,
            false_positive=config.task.false_positive,
            false_negative=config.task.false_negative,
        )
        for config in (Recipe.load("tiny").set(**settings, **more).expand()[0].config for more in ({}, rates))
    )
    assert exact.responses == noisy.responses
    assert torch.equal(exact.correct, noisy.correct)
    assert torch.equal(exact.rewards, exact.correct.float())
    assert torch.equal(noisy.rewards > 0, noisy.correct ^ noisy.flipped)
    for kind, rate in ((noisy.correct, 0.2), (~noisy.correct, 0.3)):
        n, flips = int(kind.sum()), int(noisy.flipped[kind].sum())
        assert n > 100
        assert abs(flips - n * rate) < 4 * (n * rate * (1 - rate)) ** 0.5
