"""Rollouts of earlier policies: which policy samples in each step, whose log-probs are the old ones, and resuming."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from analysis.recipes import Recipe
from analysis.recipes.fields import CriticFields
from analysis.records import digest, load_trace
from analysis.training.critic import Critic
from analysis.training.loop import Loop, train
from analysis.training.rollout_model import RolloutModel
from analysis.training.targets import fix_targets
from tests.training.naive_update import make_config, make_updater, naive_log_probs, random_batch, random_policy

SMALL: dict[str, Any] = {
    "grid": "unset",
    "steps": 5,
    "rollout.prompts": 8,
    "objective.name": "reinforce",
    "update.rows": "keep",
    "update.minibatches": 1,
    "optimizer.lr": 5e-3,
    "eval.every": 10,
    "eval.prompts": 1,
    "eval.final_prompts": 1,
    "eval.samples": 0,
    "record.contexts": 0,
    "record.tokens": 1.0,
    "record.chunk": 2,
    "record.checkpoint": False,
}
ROWS = torch.arange(16)


def config_of(**changes: Any) -> Any:
    return Recipe.load("tiny").set(**(SMALL | changes)).expand()[0].config


def flat(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize(
    ("every", "ages"), [(1, [0] * 6), (2, [0, 1] * 3), (4, [0, 1, 2, 3, 0, 1]), (0, list(range(6)))]
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_who_samples(every: int, ages: list[int], dtype: torch.dtype) -> None:
    """Asked in each step, before and after the update, the sampler is the policy of `age` steps before."""
    model = random_policy().model
    sampler = RolloutModel(model, dtype, every)
    history = []
    for step, age in enumerate(ages):
        history.append(flat(model))
        for _ in range(1 + step % 2):
            assert torch.equal(flat(sampler.current(step)), history[step - age].to(dtype))
        assert sampler.age(step) == (None if every == 1 else age)
        earlier = sampler.earlier(step)
        assert (earlier is None) == (age == 0)
        if earlier is not None:
            assert torch.equal(flat(earlier), history[step - age])
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.01)
        if age:
            assert torch.equal(flat(sampler.current(step)), history[step - age].to(dtype))


@pytest.mark.parametrize("critic", [False, True])
def test_old_log_probs_are_those_of_the_policy_that_sampled(critic: bool) -> None:
    config = make_config()
    policy, earlier = random_policy(), random_policy(seed=1).model
    updater = make_updater(config, policy)
    if critic:
        updater.critic = Critic(policy.model, CriticFields(enabled=True))
        with torch.no_grad():
            updater.critic.head.weight.add_(0.1)
    batch = random_batch(updater.objective)
    targets = fix_targets(batch, [[ROWS]], updater, None, None, earlier)
    assert targets.awaited is None
    for i, expected in enumerate(naive_log_probs(earlier, batch)):
        torch.testing.assert_close(targets.old_log_probs[i, : len(expected)], expected.detach(), rtol=0, atol=1e-12)
    if critic:  # values are those of the present policy's states
        present = fix_targets(batch, [[ROWS]], updater, None)
        assert torch.equal(targets.values, present.values)
    result = updater.apply(batch, targets, ROWS, None, "update 0")
    own = naive_log_probs(random_policy().model, batch)
    for one in result.passes:
        for b, i in enumerate(one.rows.tolist()):
            expected = (own[i] - targets.old_log_probs[i, : len(own[i])]).exp().detach()
            torch.testing.assert_close(one.ratio[b][one.mask[b]], expected, rtol=1e-10, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"rollout.refresh_every": 3},
        {"rollout.refresh_every": 0, "rollout.dtype": "bfloat16", "record.noise_every": 2, "record.noise_prompts": 2},
        {"rollout.fixed": True, "objective.name": "optimal-token-baseline", "objective.form": "unset"},
        {"rollout.fixed": True, "update.epochs": 2, "task.false_positive": 0.3, "update.token_mask": "entropy"}
        | {"update.mask_low": 0.8, "update.mask_norm": "full"},
    ],
    ids=["refreshed", "never", "fixed tokens", "fixed noise mask"],
)
def test_interrupted_and_resumed(changes: dict[str, Any], tmp_path: Path) -> None:
    config = config_of(**({"objective.clip_low": "unset", "objective.clip_high": "unset"} | changes))
    assert train(config, tmp_path / "whole", run_id="r", label="L") == "complete"
    for stop_after in (1, 4):
        folder, asked = tmp_path / str(stop_after), itertools.count(1)
        stop = {"should_stop": lambda asked=asked, last=stop_after: next(asked) >= last}
        assert train(config, folder, run_id="r", label="L", **stop) == "interrupted"
        assert train(config, folder, run_id="r", label="L", resume=True) == "complete"
        assert digest(folder) == digest(tmp_path / "whole")


@pytest.mark.slow
def test_ages_and_ratios_in_the_records(tmp_path: Path) -> None:
    """Ratios are exactly 1 at age 0 and not after it; old log-probs are the sampling ones but for float32."""
    loop = Loop(config_of(**{"rollout.refresh_every": 2}), tmp_path / "run", run_id="r", label="L")
    base = copy.deepcopy(loop.policy.model)
    assert loop.run() == "complete"
    run = load_trace(tmp_path / "run")
    steps = run.table("steps")
    assert steps.age.tolist() == [0, 1, 0, 1, 0]
    tokens = run.table("tokens")
    assert ((tokens.old_log_prob - tokens.sampling_log_prob).abs() < 1e-4).all()
    for step, rows in tokens.groupby("step"):
        assert (rows.ratio == 1).all() == (steps.age[step] == 0)
    assert not torch.equal(flat(base), flat(loop.policy.model))


@pytest.mark.slow
def test_fixed_rollouts_are_those_of_the_base(tmp_path: Path) -> None:
    config = config_of(**{"rollout.fixed": True, "steps": 3})
    assert train(config, tmp_path / "run", run_id="r", label="L") == "complete"
    assert train(config_of(steps=1), tmp_path / "one", run_id="r", label="L") == "complete"
    run, one = load_trace(tmp_path / "run"), load_trace(tmp_path / "one")
    assert run.table("steps").age.tolist() == [0, 1, 2]
    first = one.table("rollouts").drop(columns="step")
    for _, rows in run.table("rollouts").groupby("step"):
        assert repr(rows.drop(columns="step").to_dict("list")) == repr(first.to_dict("list"))
    old = run.table("tokens").groupby(["rollout", "position"]).old_log_prob
    assert (old.max() - old.min()).max() < 1e-5  # one policy's, in float32
