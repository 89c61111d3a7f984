"""Rollouts from a truncated law: both laws in the records, one of them in the updates, and the bias that follows."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from analysis.common.randomness import Streams
from analysis.objectives import get
from analysis.recipes import Recipe
from analysis.records import load_trace
from analysis.training.loop import train
from analysis.training.record_rows import step_row
from analysis.training.rollouts import RolloutBatch, collect_rollouts
from analysis.training.step_targets import StepTargets
from tests.reference.truncation_slow import distribution_of, entropy_of, log_of
from tests.training.naive_update import VOCAB, make_config, make_updater, naive_log_probs, random_batch, random_policy
from toy_models import Policy, get_task, load_policy

END = 1
TRUNCATED = {"rollout.temperature": 1.2, "rollout.top_k": 12, "rollout.top_p": 0.9}


def tiny(**changes):
    return next(run.config for run in Recipe.load("tiny").set(**changes).expand() if run.label == "NSR")


def collect(config) -> tuple[Policy, RolloutBatch]:
    policy = load_policy(config.policy.base)
    task = get_task(config.task.name, policy.tokenizer)
    prompts, objective = task.prompts("train")[:4], get("nsr-ratio")
    batch = collect_rollouts(policy, policy.model, task, prompts, objective, config.rollout, Streams(0), 0)
    return policy, batch


@pytest.mark.slow
def test_batch_holds_both_laws():
    policy, batch = collect(tiny(**TRUNCATED))
    kl = []
    for i in range(len(batch)):
        prefix = list(batch.prompt(i).ids)
        for t, token in enumerate(batch.responses[i]):
            with torch.no_grad():
                z = policy.model(torch.tensor([prefix])).logits[0, -1].tolist()
            pi, q = distribution_of(z, 1.2), distribution_of(z, 1.2, 12, 0.9)
            assert batch.sampling_log_probs[i, t].item() == pytest.approx(log_of(q[token]), abs=1e-4)
            assert batch.sampling_entropy[i, t].item() == pytest.approx(entropy_of(q), abs=1e-4)
            assert batch.entropy[i, t].item() == pytest.approx(entropy_of(pi), abs=1e-4)
            kept = float(sum(p for p, other in zip(pi, q, strict=True) if other > 0))
            assert batch.kept_mass[i, t].item() == pytest.approx(kept, abs=1e-5)
            kl.append(float(sum(a * math.log(a / b) for a, b in zip(q, pi, strict=True) if a > 0)))
            prefix.append(token)
    row = step_row(batch, 1)
    assert row["rollout_kl"][0] == pytest.approx(np.mean(kl), abs=1e-5)
    assert 0.01 < row["rollout_kl"][0] < 0.1
    assert row["entropy_rollout"][0] < row["entropy_own"][0] - 0.1
    assert 0.9 < row["kept_mass"][0] < 1


@pytest.mark.slow
def test_without_truncation_the_laws_are_one():
    _, batch = collect(tiny())
    row = step_row(batch, 1)
    assert (row["rollout_kl"][0], row["kept_mass"][0]) == (0, 1)
    assert row["entropy_rollout"] == row["entropy_own"]


@pytest.mark.slow
def test_tables_hold_both_laws(tmp_path):
    config = tiny(
        **TRUNCATED,
        **{
            "steps": 1,
            "record.tokens": 1.0,
            "eval.prompts": 2,
            "eval.final_prompts": 2,
            "update.epochs": 1,
            "update.minibatches": 1,
            "update.rows": "keep",
        },
    )
    assert train(config, tmp_path / "run", run_id="r", label="L") == "complete"
    run = load_trace(tmp_path / "run")
    tokens, steps = run.table("tokens"), run.table("steps")
    # The sampler and the update forward the same tokens in other batches: float32 rounding of logits up to 20.
    assert np.abs(tokens.sampling_log_prob + np.log(tokens.kept_mass) - tokens.log_prob).max() < 1e-4
    assert tokens.sampling_log_prob.to_numpy() == pytest.approx(tokens.log_prob - np.log(tokens.kept_mass), abs=1e-4)
    assert steps.rollout_kl[0] == pytest.approx(-np.log(tokens.kept_mass.astype(float)).mean(), rel=1e-6)
    assert steps.kept_mass[0] == pytest.approx(tokens.kept_mass.astype(float).mean(), rel=1e-6)
    assert steps.entropy_own[0] == pytest.approx(tokens.entropy.astype(float).mean(), abs=1e-4)


@pytest.mark.parametrize("name", ["psr", "nsr", "grpo"])
def test_updates_do_not_see_the_truncation(name):
    """The same responses have the same weights and make the same step, whatever law they were drawn from."""
    moved = []
    for rollout, noise in (({}, 0.0), ({"top_k": 2, "top_p": 0.5}, 1.0)):
        updater = make_updater(make_config(objective={"name": name}, rollout=rollout))
        batch = random_batch(updater.objective)
        batch = dataclasses.replace(
            batch, sampling_log_probs=batch.sampling_log_probs - noise, kept_mass=batch.kept_mass - noise / 2
        )
        result = updater.apply(batch, StepTargets.on_policy(batch), torch.arange(len(batch)), None, "here")
        moved.append([*(one.weights for one in result.passes), *updater.parameters])
    assert all(torch.equal(a, b) for a, b in zip(*moved, strict=True))


# -- the expected gradient, by enumeration ----------------------------------------------------------------------------


def every_response() -> list[list[int]]:
    """All responses of up to two tokens over the whole vocabulary, ended by END or by the limit."""
    return [[END], *([a, b] for a in range(VOCAB) if a != END for b in range(VOCAB))]


def response_law(policy: Policy, prompt: tuple[int, ...], top_k: int = 0, top_p: float = 1.0) -> torch.Tensor:
    """q(y) of every response, the law of each step truncated by the book."""

    def law(prefix: list[int]) -> list[float]:
        with torch.no_grad():
            return [
                float(p)
                for p in distribution_of(policy.model(torch.tensor([prefix])).logits[0, -1].tolist(), 1.0, top_k, top_p)
            ]

    first = law(list(prompt))
    second = {a: law([*prompt, a]) for a in range(VOCAB)}
    return torch.tensor(
        [math.prod([first[y[0]], *(second[y[0]][b] for b in y[1:])]) for y in every_response()], dtype=torch.float64
    )


def expected_step(name: str, q: torch.Tensor, correct: torch.Tensor) -> torch.Tensor:
    """E_q of the ascent direction that the updater takes: all responses in one batch, each with advantage q(y)·A(y)."""
    config = make_config(
        objective={"name": name, "clip_low": None, "clip_high": None},
        optimizer={"lr": 1.0},
        update={"normalizer": "constant", "constant": 1.0},
        rollout={"prompts": 1, "group_size": len(q)},
    )
    policy = random_policy()
    updater = make_updater(config, policy)
    template = random_batch(updater.objective, groups=1, group_size=len(q))
    responses = every_response()
    lengths = torch.tensor([len(y) for y in responses])
    rewards = correct.float()
    batch = dataclasses.replace(
        template,
        responses=responses,
        lengths=lengths,
        rewards=rewards,
        correct=correct,
        sampling_log_probs=torch.zeros(len(q), 2),
        advantages=updater.objective.advantages(rewards, len(q)).double() * q,
    )
    before = [p.detach().clone() for p in updater.parameters]
    updater.apply(batch, StepTargets.on_policy(batch), torch.arange(len(q)), None, "here")
    return torch.cat([(p.detach() - b).flatten() for p, b in zip(updater.parameters, before, strict=True)])


@pytest.fixture(scope="module")
def setting():
    policy = random_policy()
    prompt = random_batch(get("psr-ratio"), groups=1).prompts[0].ids
    correct = torch.tensor([sum(y) % 3 == 0 for y in every_response()])
    return policy, prompt, correct


def autograd(policy: Policy, prompt: tuple[int, ...], weights: torch.Tensor) -> torch.Tensor:
    """∇ Σ_y weights_y·log π(y), from one forward pass a response."""
    batch = dataclasses.replace(
        random_batch(get("psr-ratio"), groups=1, group_size=len(weights)), responses=every_response()
    )
    total = sum(w * lp.sum() for w, lp in zip(weights, naive_log_probs(policy.model, batch), strict=True) if w != 0)
    return torch.cat([g.flatten() for g in torch.autograd.grad(total, list(policy.model.parameters()))])


def test_on_policy_psr_and_nsr_expect_the_same_step(setting):
    policy, prompt, correct = setting
    q = response_law(policy, prompt)
    assert q.sum() == pytest.approx(1, abs=1e-12)
    psr, nsr = expected_step("psr", q, correct), expected_step("nsr", q, correct)
    exact = autograd(policy, prompt, q * correct)  # ∇p = Σ_correct π ∇log π
    # float64: some 300 terms of weight up to 1 whose logits carry a few ulps
    assert (psr - exact).norm() < 1e-12 * exact.norm()
    assert (nsr - exact).norm() < 1e-12 * exact.norm()


@pytest.mark.parametrize(
    ("top_k", "top_p", "size", "cosine"), [(0, 0.95, 0.476, 0.884), (0, 0.8, 1.020, 0.364), (3, 1.0, 1.262, 0.090)]
)
def test_under_a_truncated_law_they_differ_by_a_pull_into_the_nucleus(setting, top_k, top_p, size, cosine):
    """E_q g_PSR − E_q g_NSR = E_q ∇log π(y) = −∇_π KL(q ‖ π), zero where q = π: PSR learns the truncation, NSR unlearns
    it. `size` is the norm of the difference over that of E_q g_PSR, `cosine` that between the two steps."""
    policy, prompt, correct = setting
    q = response_law(policy, prompt, top_k, top_p)
    psr, nsr = expected_step("psr", q, correct), expected_step("nsr", q, correct)
    pull = autograd(policy, prompt, q)
    assert (psr - nsr - pull).norm() < 1e-12 * pull.norm()
    assert float((psr - nsr).norm() / psr.norm()) == pytest.approx(size, rel=1e-2)
    assert float(torch.cosine_similarity(psr, nsr, dim=0)) == pytest.approx(cosine, abs=1e-2)
