"""The toys of training against the slow route: every response alone, weights by autograd of the loss."""

from __future__ import annotations

import pytest
import torch

from analysis import objectives
from analysis.objectives import TokenBatch, get
from analysis.tabular.toy_policies import OneTokenPolicy, TreePolicy, toy_policy
from tests.reference.toy_gradient_slow import expected_gradient
from toy_models import Bandit, LogLinear, Tree

SEEDS, PROMPTS = 2, 2
# sums of some hundred float64 products of order one
CLOSE = {"rtol": 1e-12, "atol": 1e-14}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


TOYS = {
    "bandit": lambda: Bandit(normal(SEEDS, PROMPTS, 5)),
    "one arm": lambda: Bandit(normal(SEEDS, PROMPTS, 1)),
    "log-linear": lambda: LogLinear(normal(PROMPTS, 5, 4, seed=1), normal(SEEDS, 4)),
    "tree": lambda: Tree.random(3, 3, batch=(SEEDS, PROMPTS), generator=generator()),
}


@objectives.register("cubed", needs=("advantages", "old_log_probs", "rewards", "accuracy"))
def cubed(log_probs, batch):
    """A user-defined loss that reads everything it may."""
    factor = batch.per_token("advantages") * (1 + batch.per_token("rewards")) * (2 - batch.per_token("accuracy"))
    return -factor * (log_probs - batch.old_log_probs / 2).exp() ** 3


OBJECTIVES = {
    "psr": lambda: get("psr-ratio", clip_high=0.2),
    "nsr": lambda: get("nsr-ratio", clip_low=0.2, dual_clip=1.1),
    "eq6": lambda: get("w-reinforce", form="probability", lambda_=0.1, clip_low=0.2, clip_high=0.2),
    "log": lambda: get("reinforce-log"),
    "grpo": lambda: get("grpo", clip_low=0.2, clip_high=0.28),
    "baseline": lambda: get("reinforce-ratio", advantage="constant", baseline=0.3),
    "cispo": lambda: get("cispo", clip_low=0.1, clip_high=0.1),
    "sapo": lambda: get("sapo"),
    "nft": lambda: get("nft"),
    "oreal": lambda: get("oreal"),
    "unlikelihood": lambda: get("unlikelihood"),
    "user-defined": lambda: get("cubed"),
}


@pytest.mark.parametrize("toy", TOYS)
@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("length_mean", [False, True])
def test_the_expected_gradient_is_that_of_every_response_written_out(toy, name, length_mean):
    policy, objective = TOYS[toy](), OBJECTIVES[name]()
    start = toy_policy(policy)
    moved = start.moved(0.3 * normal(*policy.parameters.shape, seed=7))  # ratios on both sides of every clip
    correct = torch.rand(start.log_probs.shape, generator=generator(5)) < 0.4
    correct[0, 0] = False  # a prompt without a correct response
    rewards = correct.double()
    gradient, _, _ = moved.expected_update(
        objective, start, rewards, objective.limit_advantages(start.success(rewards)), length_mean=length_mean
    )
    for s in range(SEEDS):
        slow = expected_gradient(
            policy, moved.parameters[s], start.parameters[s], correct[s], objective, length_mean=length_mean
        )
        torch.testing.assert_close(gradient[s], slow, **CLOSE)


@pytest.mark.parametrize("toy", TOYS)
def test_it_says_what_the_toy_says(toy):
    policy = TOYS[toy]()
    start = toy_policy(policy)
    assert isinstance(start, TreePolicy if toy == "tree" else OneTokenPolicy)
    torch.testing.assert_close(start.log_probs, policy.log_probs(), rtol=0, atol=0)
    correct = torch.rand(start.log_probs.shape, generator=generator(5)) < 0.4
    torch.testing.assert_close(start.success(correct.double()), policy.success(correct), **CLOSE)
    uniforms = torch.rand(SEEDS, PROMPTS, 6, start.width, generator=generator(6), dtype=torch.float64)
    drawn = start.draw(uniforms)
    theirs = policy.sample(uniforms) if toy == "tree" else policy.sample(uniforms[..., 0])
    assert torch.equal(drawn.index, theirs.response if toy == "tree" else theirs)
    of_tokens = start.token_log_probs(drawn)
    torch.testing.assert_close(of_tokens.sum(-1), start.log_probs.gather(-1, drawn.index), **CLOSE)
    lengths = policy.lengths()[drawn.index] if toy == "tree" else torch.ones_like(drawn.index)
    assert torch.equal(drawn.lengths(), lengths)
    torch.testing.assert_close(drawn.mean(of_tokens), of_tokens.sum(-1) / lengths, **CLOSE)


@pytest.mark.parametrize("toy", TOYS)
@pytest.mark.parametrize("name", ["psr", "nsr", "eq6", "grpo", "cispo", "log"])
def test_expected_tokens_that_the_clip_holds(toy, name):
    """Against every response and token written out one by one."""
    policy, objective = TOYS[toy](), OBJECTIVES[name]()
    start = toy_policy(policy)
    moved = start.moved(0.3 * normal(*policy.parameters.shape, seed=7))
    correct = torch.rand(start.log_probs.shape, generator=generator(5)) < 0.4
    advantages = objective.limit_advantages(start.success(correct.double()))
    _, weighted, clipped = moved.expected_update(objective, start, correct.double(), advantages, length_mean=True)
    for s in range(SEEDS):
        for p in range(PROMPTS):
            expected, held = 0.0, 0.0
            for y in range(correct.shape[-1]):
                old, new = (_token_log_probs(toy_, policy, s, p, y) for toy_ in (start, moved))
                a = advantages[s, p, int(correct[s, p, y])]
                batch = TokenBatch(new[None], old[None], a[None], rewards=correct[s, p, y][None].double())
                probability = float(start.log_probs[s, p, y].exp())
                expected += probability * len(new) * bool(a != 0)
                held += probability * int(objective.weights(batch).clip.bool().sum())
            assert float(weighted[s, p]) == pytest.approx(expected, abs=1e-12)
            assert float(clipped[s, p]) == pytest.approx(held, abs=1e-12)


def _token_log_probs(toy, policy, s, p, y):
    """log π of each token of response y."""
    if not isinstance(policy, Tree):
        return toy.log_probs[s, p, y][None]
    levels = policy.with_parameters(toy.parameters).levels
    context, out = 0, []
    for level, token in zip(levels, policy.enumerate()[y], strict=False):
        out.append(level[s, p, context].log_softmax(-1)[token])
        context = context * (policy.vocab - 1) + token - 1
    return torch.stack(out)
