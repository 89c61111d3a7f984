"""Gradients of each prompt against score vectors of single responses, in float64, and against a step that is made."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from analysis.errors import UsageError
from analysis.gradient_noise import PromptGradients, prompt_gradients
from analysis.gradient_noise.exact import flat_gradient, trained_parameters
from analysis.objectives import prompt_weights
from tests.gradient_noise.small_world import SumTask, random_policy, score
from toy_models import Prompt, get_task, load_policy

TEMPERATURE = 0.8


def by_scores(policy: Any, task: Any, prompts: list[Prompt], temperature: float) -> tuple[np.ndarray, torch.Tensor]:
    """p_x = Σ π(y), ∇p_x = Σ π(y) ∇log π(y): one unpadded pass for each correct response."""
    p, gradients = [], []
    for prompt in prompts:
        found = [score(policy, prompt.ids, y, temperature) for y in task.solutions(prompt.ids)]
        p.append(sum(np.exp(value) for value, _ in found))
        gradients.append(sum(np.exp(value) * vector for value, vector in found))
    return np.array(p), torch.stack(gradients)


@pytest.mark.parametrize("held", [256, 2, 1])
def test_against_scores(held: int) -> None:
    policy, task = random_policy(), SumTask()
    prompts = task.prompts("train")
    before = copy.deepcopy(policy.model.state_dict())
    found = prompt_gradients(policy, task, prompts, TEMPERATURE, held=held)
    p, gradients = by_scores(policy, task, prompts, TEMPERATURE)
    np.testing.assert_allclose(found.p, p, rtol=1e-12)
    np.testing.assert_allclose(found.kappa, gradients @ gradients.T, rtol=1e-10, atol=1e-14)
    assert all(torch.equal(value, before[name]) for name, value in policy.model.state_dict().items())
    assert all(parameter.grad is None for parameter in policy.model.parameters())
    assert policy.model.training


@pytest.mark.slow
def test_on_tiny_against_autograd() -> None:
    """The tiny base in float64: autograd through a plain padded forward pass over all solutions of a prompt."""
    policy = load_policy("tiny")
    policy.model.double()
    task = get_task("path-small", policy.tokenizer)
    prompts = task.prompts("test")[:5]
    found = prompt_gradients(policy, task, prompts, held=3)
    p, gradients = [], []
    for prompt in prompts:
        value = torch.zeros((), dtype=torch.float64)
        for y in task.solutions(prompt.ids):
            logits = policy.model(torch.tensor([[*prompt.ids, *y]])).logits[0, len(prompt.ids) - 1 : -1]
            value = value + logits.log_softmax(-1)[range(len(y)), list(y)].sum().exp()
        p.append(value.item())
        gradients.append(flat_gradient(value, trained_parameters(policy)))
    stacked = torch.stack(gradients)
    # the model's norms round to float32 inside
    np.testing.assert_allclose(found.p, p, rtol=1e-5)
    np.testing.assert_allclose(found.kappa, stacked @ stacked.T, rtol=1e-4, atol=1e-5 * float(found.kappa.max()))


def test_what_a_step_does_to_each_prompt() -> None:
    """Δp_x′ of a step along Σ a_x ∇p_x is η Σ a_x κ(x, x′), with a residual of second order: slope 2 in η."""
    task, a = SumTask(), np.array([1.0, -0.5, 2.0])
    prompts = task.prompts("train")
    start = random_policy()
    found = prompt_gradients(start, task, prompts)
    _, gradients = by_scores(start, task, prompts, 1.0)
    direction = torch.tensor(a) @ gradients
    residuals = []
    for eta in (1e-3, 1e-4):
        policy = random_policy()
        with torch.no_grad():
            parameters = trained_parameters(policy)
            for parameter, step in zip(parameters, direction.split([q.numel() for q in parameters]), strict=True):
                parameter.add_(eta * step.view_as(parameter))
        moved = prompt_gradients(policy, task, prompts).p - found.p
        residuals.append(np.abs(moved - eta * a @ found.kappa).max())
    assert np.log10(residuals[0] / residuals[1]) == pytest.approx(2, abs=0.1)


def test_aggregates() -> None:
    task = SumTask()
    prompts = task.prompts("train")
    policy = random_policy()
    found = prompt_gradients(policy, task, prompts)
    _, gradients = by_scores(policy, task, prompts, 1.0)
    a, b = np.array([1.0, 0.2, 3.0]), found.pass_at_k_weights(8)
    np.testing.assert_allclose(b, 8 * (1 - found.p) ** 7, rtol=1e-14)
    np.testing.assert_array_equal(found.pass_at_k_weights(1), 1)
    expected = torch.nn.functional.cosine_similarity(torch.tensor(a) @ gradients, torch.tensor(b) @ gradients, dim=0)
    assert found.aggregate_cosine(a, b) == pytest.approx(float(expected), rel=1e-10)
    assert found.aggregate_cosine(a, a) == pytest.approx(1, rel=1e-12)
    assert found.aggregate_cosine(a, -a) == pytest.approx(-1, rel=1e-12)
    weights = prompt_weights("maxrl", 4, found.p.tolist()).weight.numpy()
    assert -1 <= found.aggregate_cosine(weights, np.ones(3)) <= 1


def test_negative_share() -> None:
    kappa = np.array([[1.0, -0.1, 0.2], [-0.1, 1.0, -0.3], [0.2, -0.3, 1.0]])
    assert PromptGradients(np.full(3, 0.5), kappa).negative_share == pytest.approx(2 / 3)
    assert np.isnan(PromptGradients(np.array([0.5]), np.eye(1)).negative_share)


def test_a_prompt_without_solutions() -> None:
    """Longer than allowed, its correct responses are none: p and κ are 0, and no aggregate can be made of it alone."""

    class Unsolvable(SumTask):
        def solutions(self, prompt_ids: Any) -> Any:
            return [] if tuple(prompt_ids) == (4, 4) else super().solutions(prompt_ids)

    task = Unsolvable()
    found = prompt_gradients(random_policy(), task, task.prompts("train"))
    assert found.p[1] == 0
    assert not found.kappa[1].any()
    assert not found.kappa[:, 1].any()
    with pytest.raises(UsageError, match="weights_b: expected weights whose sum of gradients is not zero"):
        found.aggregate_cosine([1, 1, 1], [0, 1, 0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompts": []}, "prompts: expected at least one, got none"),
        ({"held": 0}, "held: expected at least 1, got 0"),
        ({"temperature": 0.0}, "temperatures: expected positive numbers"),
        (
            {"task": SumTask(listed=False)},
            "task: the gradient of each prompt needs the exact gradient, and sums does not",
        ),
    ],
)
def test_refused(change: dict[str, Any], message: str) -> None:
    given = {"task": SumTask(), "prompts": SumTask().prompts("train")} | change
    with pytest.raises(UsageError, match=message):
        prompt_gradients(random_policy(), **given)


def test_weights_refused() -> None:
    found = PromptGradients(np.array([0.5, 0.5]), np.eye(2))
    with pytest.raises(UsageError, match=r"weights_a: expected one finite number for each of 2 prompts, got \[1\.0\]"):
        found.aggregate_cosine([1.0], [1.0, 1.0])
    with pytest.raises(UsageError, match=r"k: expected a whole number from 1, got 0"):
        found.pass_at_k_weights(0)
