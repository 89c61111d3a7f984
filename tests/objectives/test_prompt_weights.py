"""Weights of prompts: against all 2^G outcomes of a group, differentiated by autograd, and in closed form.

The outcomes are those of a policy of two arms, p = σ(θ), for which E[g | rewards] = g: each outcome's gradient over ∇p
is the factor W itself. Arithmetic is float64 on both sides.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from analysis import objectives
from analysis.errors import UsageError
from analysis.objectives import TokenBatch, get, prompt_weights

P = [0.03, 0.3, 0.5, 0.85, 0.99]
WITHOUT_LIMIT = ("pass-at-k-full", "pass-at-k-best")
CASES: list[tuple[str, dict[str, Any]]] = [
    ("psr-log", {}),
    ("nsr-ratio", {}),
    ("w-reinforce-log", {"lambda_": 0.1}),
    ("reinforce-log", {"advantage": "leave_one_out"}),
    ("grpo", {}),
    ("dr-grpo", {}),
    ("rloo", {}),
    ("wapo", {}),
    ("maxrl", {}),
    ("qae", {}),
    ("qae", {"quantile": 0.6, "interpolation": "linear", "divide_by": "none"}),
    ("pass-at-k", {"k": 2}),
    ("pass-at-k-full", {"k": 2}),
    ("pass-at-k-full", {"k": 3}),
    ("pass-at-k-best", {}),
    ("asymre", {"baseline": 0.3}),
    ("asymre-group", {}),
    ("oreal", {}),
    ("oreal-released", {}),
    ("dapo", {}),
    ("cispo", {}),
    ("gspo", {}),
    ("topr", {}),
    ("nft", {}),
    ("kimi-1.5", {}),
]


def enumerated(name: str, parameters: dict[str, Any], size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance of g/∇p over all outcomes at each of P: the loss of each group, differentiated in its θ."""
    objective = get(name, **parameters)
    outcomes = torch.tensor(list(itertools.product([0.0, 1.0], repeat=size)), dtype=torch.float64)
    rewards = outcomes.expand(len(P), *outcomes.shape)
    theta = torch.tensor(P, dtype=torch.float64).logit()[:, None].repeat(1, len(outcomes)).requires_grad_()
    log_probs = torch.nn.functional.logsigmoid(torch.where(rewards > 0, theta[..., None], -theta[..., None]))
    drawn = log_probs.detach()
    batch = TokenBatch(
        drawn.reshape(-1, 1),
        old_log_probs=drawn.reshape(-1, 1),
        advantages=objective.advantages(rewards.flatten(), size),
        rewards=rewards.flatten(),
        accuracy=rewards.mean(-1, keepdim=True).expand(rewards.shape).flatten(),
    )
    loss = objective.loss(log_probs.reshape(-1, 1), batch).sum() / size
    p = theta.detach().sigmoid()
    factor = -torch.autograd.grad(loss, theta)[0] / (p * (1 - p))
    chance = drawn.sum(-1).exp()
    mean = (chance * factor).sum(-1)
    return mean, (chance * (factor - mean[:, None]).square()).sum(-1)


@pytest.mark.parametrize("size", [2, 6])
@pytest.mark.parametrize(("name", "parameters"), CASES)
def test_all_outcomes(name: str, parameters: dict[str, Any], size: int) -> None:
    if name == "pass-at-k-full" and size == 2:
        size = 2 * parameters["k"]
    found = prompt_weights(name, size, P, **parameters)
    mean, variance = enumerated(name, parameters, size)
    torch.testing.assert_close(found.weight, mean, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.variance, variance, rtol=1e-8, atol=1e-9)


def test_in_closed_form() -> None:
    p = torch.tensor(P, dtype=torch.float64)
    for size in (2, 3, 16):
        assert torch.allclose(prompt_weights("psr-log", size, P).weight, torch.ones_like(p), rtol=1e-12)
        psr = prompt_weights("psr-log", size, P)
        assert torch.allclose(psr.variance, (1 - p) / (size * p), rtol=1e-10)  # W = c/(G·p)
        assert torch.allclose(prompt_weights("rloo", size, P).weight, torch.ones_like(p), rtol=1e-12)
        assert torch.allclose(prompt_weights("dr-grpo", size, P).weight, torch.full_like(p, 1 - 1 / size), rtol=1e-12)
        # MaxRL: p's series of the logarithm, cut off after G − 1 terms
        series = sum((1 - p) ** (k - 1) for k in range(1, size))
        assert torch.allclose(prompt_weights("maxrl", size, P).weight, series, rtol=1e-11)
        assert torch.allclose(prompt_weights("maxrl", size, P).limit, 1 / p, rtol=1e-12)
        wapo = prompt_weights("wapo", size, P)
        assert torch.allclose(wapo.weight, (1 - p) * (size - 1) / size, rtol=1e-11)
        assert torch.allclose(wapo.bias, -(1 - p) / size, rtol=1e-10)


def test_two_arms_of_grpo() -> None:
    """With two responses a group counts where they differ: A = ±1/√2 up to 1e-6, c = 1 in 2p(1 − p) of the groups."""
    found = prompt_weights("grpo", 2, P)
    assert torch.allclose(found.weight, torch.full((len(P),), 2**-0.5, dtype=torch.float64), rtol=1e-5)


@pytest.mark.parametrize(("name", "parameters"), [case for case in CASES if case[0] not in WITHOUT_LIMIT])
def test_large_groups_reach_the_limit(name: str, parameters: dict[str, Any]) -> None:
    """h_G − h_∞ falls as 1/G away from the ends and from steps of the quantile, and W settles."""
    p = [0.3, 0.45, 0.8]
    small, large = (prompt_weights(name, size, p, **parameters) for size in (64, 512))
    assert (large.bias.abs() <= 0.35 * small.bias.abs() + 1e-5).all()
    assert (large.bias.abs() < 0.02 * (1 + large.limit.abs())).all()
    assert (large.variance <= 0.35 * small.variance + 1e-5).all()


def test_no_limit_is_nan_and_the_table() -> None:
    found = prompt_weights(get("pass-at-k-best"), 4, P)
    assert found.limit.isnan().all()
    frame = found.frame()
    assert list(frame) == ["objective", "group_size", "p", "weight", "limit", "bias", "variance"]
    assert set(frame.objective) == {"pass-at-k-best"}
    assert frame.weight.tolist() == found.weight.tolist()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            ("grpo", 4, [0.0, 0.5]),
            r"p: expected a list of numbers above 0 and below 1, got \[0\.0, 0\.5\]; a prompt at 0",
        ),
        (("gpg", 4, [0.5]), "got gpg, which also reads what other groups of the batch has; choose another"),
        (("opo", 4, [0.5]), "got opo, which also reads the lengths that its group has"),
        (
            ("psr-probability", 4, [0.5]),
            "got psr-probability, which weighs a token by its probability; choose the form",
        ),
        (("dft", 4, [0.5]), "got dft, which weighs a token by its probability"),
        (("grpo", 1, [0.5]), r"rollout\.group_size: grpo"),
        (("kto", 4, [0.5]), "refers to a reference policy, which a table of prompt weights does not have"),
        (("high-entropy", 4, [0.5]), "chooses tokens over a minibatch, which a table"),
    ],
)
def test_refused(call: tuple[Any, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        prompt_weights(*call)


def test_parameters_go_with_a_name() -> None:
    with pytest.raises(UsageError, match=r"parameters: expected none beside an objective .*, got k; give them to get"):
        prompt_weights(objectives.get("grpo"), 4, [0.5], k=2)
