"""The sampled updates of PSR and NSR have one expectation, the exact gradient of the success probability.

This is the alarm for a law that is sampled otherwise than it is differentiated. Fixed beforehand: 24 batches of 16
prompts × 32 responses; each statistic is the projection of the sampled gradient on the exact one, over its squared
norm, whose mean must lie within 4 standard errors of 1 (t with 23 degrees of freedom: a false alarm in 0.06% of trials,
two trials here).
"""

from __future__ import annotations

import pytest
import torch

from analysis.common.randomness import Streams
from analysis.evaluation import success_probability
from analysis.objectives import get
from analysis.recipes import Recipe
from analysis.training.optimizer import make_optimizer
from analysis.training.regularizers import Regularizers
from analysis.training.rollouts import collect_rollouts
from analysis.training.sign_passes import PassRunner
from analysis.training.step_targets import StepTargets
from analysis.training.update import Updater
from toy_models import get_task, load_policy

BATCHES = 24


def projections(name: str, temperature: float, top_p: float = 1.0) -> torch.Tensor:
    settings = {
        "objective.clip_low": "unset",
        "objective.clip_high": "unset",
        "optimizer.name": "sgd",
        "optimizer.lr": 1.0,
        "optimizer.max_grad_norm": "unset",
        "rollout.prompts": 16,
        "rollout.group_size": 32,
        "update.minibatches": 1,
        "update.normalizer": "constant",
        "update.constant": 512.0,
        "rollout.temperature": temperature,
        "rollout.top_p": top_p,
    }
    config = next(run.config for run in Recipe.load("tiny").set(**settings).expand() if run.label == name)
    policy = load_policy(config.policy.base)
    task = get_task(config.task.name, policy.tokenizer)
    prompts = task.prompts("train")[:16]
    objective = get(config.objective.name, form="ratio")
    runner = PassRunner(policy, objective, Regularizers.of(config.objective), config.update, config.rollout.temperature)
    optimizer = make_optimizer(policy.model.parameters(), config.optimizer)
    updater = Updater(runner, optimizer, config.update, max_grad_norm=config.optimizer.max_grad_norm)
    solutions = [task.solutions(q.ids) for q in prompts]
    p = success_probability(policy.model, [q.ids for q in prompts], solutions, temperature)
    exact = torch.autograd.grad(p.mean(), updater.parameters)
    norm = sum(float(g.square().sum()) for g in exact)
    start = [q.detach().clone() for q in updater.parameters]
    streams = Streams(5)
    out = []
    for step in range(BATCHES):
        batch = collect_rollouts(policy, policy.model, task, prompts, objective, config.rollout, streams, step)
        updater.apply(batch, StepTargets.on_policy(batch), torch.arange(len(batch)), None, f"update {step}")
        out.append(
            sum(float(((q.detach() - s) * g).sum()) for q, s, g in zip(updater.parameters, start, exact, strict=True))
            / norm
        )
        with torch.no_grad():
            for q, s in zip(updater.parameters, start, strict=True):
                q.copy_(s)
    return torch.tensor(out, dtype=torch.float64)


def standard_errors_from_one(values: torch.Tensor) -> float:
    return float((values.mean() - 1) / (values.std() / len(values) ** 0.5))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["PSR", "NSR"])
def test_sampled_gradient_has_the_exact_one_as_its_mean(name):
    values = projections(name, temperature=0.8)
    assert abs(standard_errors_from_one(values)) < 4
    assert values.std() / len(values) ** 0.5 < 0.1  # else it could not tell


@pytest.mark.slow
def test_nucleus_sampling_breaks_it():
    """Rollouts from a truncated law are the mismatch that the alarm is for."""
    assert abs(standard_errors_from_one(projections("NSR", temperature=1.0, top_p=0.7))) > 6
