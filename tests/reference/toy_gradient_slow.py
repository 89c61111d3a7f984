"""The expected gradient of an objective on a toy: every response alone, its weights by autograd of the loss.

    Σ_x [1/P for a log-linear policy] Σ_y μ_x(y) Σ_t w_t(y) ∇_θ log π_x(y_t | y_<t)

for one seed; no formula of the package but the objective's loss and advantages, and the toys' log-probs.
"""

from __future__ import annotations

import torch

from analysis.objectives import TokenBatch
from toy_models import LogLinear, Tree


def token_log_probs(policy, parameters, prompt):
    """log π of the tokens of every response to a prompt: a list of (T,) tensors, differentiable in the parameters."""
    if not isinstance(policy, Tree):
        z = policy.features[prompt] @ parameters if isinstance(policy, LogLinear) else parameters[prompt]
        return list(z.log_softmax(-1)[:, None])
    vocab, depth = policy.vocab, policy.depth
    levels, first = [], 0
    for t in range(depth):
        n = (vocab - 1) ** t
        levels.append(parameters[prompt, first : first + n * vocab].view(n, vocab).log_softmax(-1))
        first += n * vocab
    rows = []
    for response in policy.enumerate():
        context, row = 0, []
        for t, token in enumerate(response):
            row.append(levels[t][context, token])
            context = context * (vocab - 1) + token - 1
        rows.append(torch.stack(row))
    return rows


def expected_gradient(policy, parameters, behaviour, correct, objective, length_mean):
    """The gradient at `parameters` of one seed; responses from the policy at `behaviour`, `correct` bool (P, Y)."""
    prompts = len(correct)
    theta = parameters.clone().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for x in range(prompts):
        now, old = (token_log_probs(policy, where, x) for where in (theta, behaviour))
        chances = torch.stack([row.sum() for row in old]).exp()
        p = (chances * correct[x]).sum()
        for row, before, chance, right in zip(now, old, chances, correct[x], strict=True):
            a = objective.limit_advantages(p)[int(right)]
            leaf = row.detach()[None].requires_grad_()
            reward = right.double()[None]
            batch = TokenBatch(leaf.detach(), before[None], a[None], None, reward, p[None])
            (gradient,) = torch.autograd.grad(objective.loss(leaf, batch).sum(), leaf)
            weights = -gradient[0] / (len(row) if length_mean else 1)
            total = total + chance * (weights * row).sum()
    (out,) = torch.autograd.grad(total / (prompts if isinstance(policy, LogLinear) else 1), theta)
    return out
