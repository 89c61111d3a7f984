"""The parts of a step: their sum against the optimiser's own step, each against its gradients' impulses one by one."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch

from analysis.recipes.fields import OptimizerFields
from analysis.training.step_parts import StepShares
from analysis.training.step_targets import StepTargets
from analysis.training.update import UpdateResult
from tests.training.naive_update import make_config, make_updater, random_batch

OPTIMIZERS = {
    "adamw": {"name": "adamw", "lr": 1e-3},
    "adamw, decay, clipped": {
        "name": "adamw",
        "lr": 1e-3,
        "betas": (0.8, 0.95),
        "weight_decay": 0.1,
        "eps": 1e-4,
        "max_grad_norm": 0.05,
    },
    "adamw without momentum": {"name": "adamw", "lr": 1e-3, "betas": (0.0, 0.9)},
    "sgd": {"name": "sgd", "lr": 0.1},
    "sgd, momentum, decay, clipped": {
        "name": "sgd",
        "lr": 0.1,
        "momentum": 0.9,
        "weight_decay": 0.01,
        "max_grad_norm": 0.05,
    },
}


def trained(updater):
    return {name: p for name, p in updater.policy.model.named_parameters() if p.requires_grad}


def copies(updater):
    return {name: p.detach().clone() for name, p in trained(updater).items()}


def several_updates(optimizer, *, empty="step", regularized=True):
    """An updater, its splitter and a generator of (result, before, Δθ): both signs, either, none, at falling rates."""
    objective = {"name": "reinforce", "entropy_coef": 0.05 if regularized else 0.0}
    config = make_config(objective=objective, optimizer=optimizer, update={"empty": empty})
    updater = make_updater(config)
    batch = random_batch(updater.objective)
    both = torch.arange(len(batch))
    positive, negative = both[batch.rewards > 0], both[batch.rewards <= 0]
    assert len(positive) > 1
    assert len(negative) > 1

    def updates():
        for t, rows in enumerate([both[:7], positive, both[:0], both[5:], negative, both[:0], positive, both]):
            for group in updater.optimizer.param_groups:
                group["lr"] = config.optimizer.lr * 0.8**t
            before = copies(updater)
            result = updater.apply(batch, StepTargets.on_policy(batch), rows, None, f"update {t}")
            yield result, before, {name: p - before[name] for name, p in copies(updater).items()}

    return updater, StepShares(trained(updater), updater.optimizer, config.optimizer), updates()


@pytest.mark.parametrize("empty", ["step", "skip"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_parts_sum_to_the_step_of_the_optimizer(name, empty):
    _, shares, updates = several_updates(OPTIMIZERS[name], empty=empty)
    seen = set()
    for t, (result, before, step) in enumerate(updates):
        parts = shares.take(result, before, split=True)
        seen |= set(parts)
        assert result.skipped is (empty == "skip" and t in (2, 5))
        for parameter, moved in step.items():
            total = sum((part[parameter] for part in parts.values()), torch.zeros_like(moved))
            # θ' − θ is rounded to 1e-16·|θ|, with |θ| up to 1 and a largest step of 1e-4 and more
            torch.testing.assert_close(total, moved, rtol=0, atol=1e-10 * max(float(moved.abs().max()), 1e-4))
    fields = OptimizerFields(**OPTIMIZERS[name])
    keeps = fields.betas[0] if fields.name == "adamw" else fields.momentum
    expected = {"pos_now", "neg_now", "reg_now"} | ({"pos_past", "neg_past", "reg_past"} if keeps else set())
    if fields.weight_decay:
        expected |= {"decay_now"} | ({"decay_past"} if fields.name == "sgd" else set())
    assert seen == expected


@pytest.mark.parametrize("regularized", [True, False])  # without, a single sign's gradient is the total itself
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_part_is_the_impulse_of_its_own_gradients(name, regularized):
    """Every past gradient, clipped as it was, times its own power of β₁ (or μ) and the rate of the present step."""
    updater, shares, updates = several_updates(OPTIMIZERS[name], regularized=regularized)
    fields = OptimizerFields(**OPTIMIZERS[name])
    beta, adam = (fields.betas[0], True) if fields.name == "adamw" else (fields.momentum, False)
    pulls = []
    clipped = 0
    for t, (result, before, step) in enumerate(updates):
        for source, gradient in result.gradients.items():  # as they were before clipping
            norm = torch.cat([g.flatten() for g in gradient]).norm().item()
            assert norm == pytest.approx(result.grad_norm[source], rel=1e-12)
        total = result.grad_norm["total"]
        clip = min(1.0, (fields.max_grad_norm or torch.inf) / (total + 1e-6)) if total else 1.0
        clipped += clip < 1
        pulls.append(
            {
                source: {name: clip * g for name, g in zip(before, gradient, strict=True)}
                for source, gradient in result.gradients.items()
            }
        )
        if fields.weight_decay and not adam:
            pulls[-1]["decay"] = {name: fields.weight_decay * value for name, value in before.items()}
        parts = shares.take(result, before, split=True)
        for parameter, value in trained(updater).items():
            rate = -updater.optimizer.param_groups[0]["lr"] * torch.ones_like(step[parameter])
            if adam:
                v = updater.optimizer.state[value]["exp_avg_sq"] / (1 - fields.betas[1] ** (t + 1))
                rate = rate * (1 - beta) / (1 - beta ** (t + 1)) / (v.sqrt() + fields.eps)
            for source in ("pos", "neg", "reg", *(["decay"] if fields.weight_decay and not adam else [])):
                impulses = [beta ** (t - k) * pull[source][parameter] for k, pull in enumerate(pulls) if source in pull]
                now = rate * impulses.pop() if source in pulls[-1] else torch.zeros_like(rate)
                past = rate * sum(impulses, torch.zeros_like(rate))
                for part, want in ((f"{source}_now", now), (f"{source}_past", past)):
                    got = parts[part][parameter] if part in parts else torch.zeros_like(want)
                    scale = float(step[parameter].abs().max())
                    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12 * scale)
        if adam and fields.weight_decay:
            for parameter, value in parts["decay_now"].items():
                lr = updater.optimizer.param_groups[0]["lr"]
                torch.testing.assert_close(value, -lr * fields.weight_decay * before[parameter], rtol=1e-12, atol=0)
    assert (clipped > 3) is (fields.max_grad_norm is not None)


@pytest.mark.parametrize("start", [0, 10_000])
def test_a_gradient_is_credited_with_its_whole_impulse(start):
    """With v̂ constant, one gradient and zeros after it: Σ_k lr·(1−β₁)β₁ᵏ g / ((1−β₁^(t+k))(√v̂+ε)); lr·g/(√v̂+ε) where
    the correction of the bias is over."""
    fields = OptimizerFields(lr=0.01, betas=(0.9, 0.0), eps=1e-3)
    parameter, v, n = torch.zeros(3, dtype=torch.float64), 4.0, 400
    state = {"step": torch.tensor(0.0), "exp_avg_sq": torch.full((3,), v, dtype=torch.float64)}
    optimizer = SimpleNamespace(state={parameter: state}, param_groups=[{"lr": fields.lr}])
    shares = StepShares({"p": parameter}, optimizer, fields)
    gradient = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    moved = torch.zeros_like(parameter)
    for k in range(n):
        state["step"] = torch.tensor(float(start + k + 1))
        result = UpdateResult(clip_coef=1.0)
        if k == 0:
            result.gradients, result.grad_norm = {"neg": [gradient]}, {"neg": gradient.norm().item()}
        for part in shares.take(result, {}, split=True).values():
            moved += part["p"]
    weights = [0.1 * 0.9**k / (1 - 0.9 ** (start + k + 1)) for k in range(n)]
    torch.testing.assert_close(moved, -fields.lr * gradient / (2 + 1e-3) * sum(weights), rtol=1e-12, atol=0)
    if start:  # what is left after 400 updates is 0.9^400 = 5e-19 of it
        torch.testing.assert_close(moved, -fields.lr * gradient / (2 + 1e-3), rtol=1e-12, atol=0)


def test_going_on_from_a_state_gives_the_same_parts():
    _, shares, updates = several_updates(OPTIMIZERS["adamw"])
    fields = OptimizerFields(**OPTIMIZERS["adamw"])
    for t, (result, before, _) in enumerate(updates):
        if t == 4:
            other = StepShares(shares._parameters, shares._optimizer, fields)
            other.load_state_dict(copy.deepcopy(shares.state_dict()))
        parts = shares.take(result, before, split=True)
        if t >= 4:
            again = other.take(result, before, split=True)
            assert set(again) == set(parts)
            assert all(torch.equal(again[part][name], parts[part][name]) for part in parts for name in parts[part])
    assert t == 7
