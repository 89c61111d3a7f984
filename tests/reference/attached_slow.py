"""What `attach` should record of a batch, by one unpadded sequence at a time and dense autograd."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def log_probs_of(model, prompt: Sequence[int], response: Sequence[int], temperature: float) -> tuple[Tensor, Tensor]:
    """(log π_y (R,), log π (R, V)) of each response token after its own prefix, one sequence without padding."""
    ids = torch.tensor([[*prompt, *response]])
    log_pi = torch.log_softmax(model(input_ids=ids).logits[0].double() / temperature, dim=-1)
    rows = torch.stack([log_pi[len(prompt) + r - 1] for r in range(len(response))])
    return torch.stack([rows[r, token] for r, token in enumerate(response)]), rows


def expected_rows(
    model,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    loss: Callable[[list[Tensor], list[Tensor]], Tensor],
    temperature: float = 1.0,
) -> dict[tuple[int, int], dict[str, float]]:
    """By (row, position): the statistics, and the weight −∂L/∂log π_y; `loss` is a function of the list of log π_y and
    of that of log π, of which the weight holds the second fixed."""
    pairs = [log_probs_of(model, p, r, temperature) for p, r in zip(prompts, responses, strict=True)]
    leaves = [pair[0].detach().requires_grad_() for pair in pairs]
    dense = [pair[1].detach() for pair in pairs]
    gradients = torch.autograd.grad(loss(leaves, dense), leaves)
    out = {}
    for row, (response, rows, gradient) in enumerate(zip(responses, dense, gradients, strict=True)):
        for position, token in enumerate(response):
            pi = rows[position].exp()
            direction = -pi.clone()
            direction[token] += 1
            ordered = sorted(range(len(pi)), key=lambda v: (-pi[v].item(), v))
            out[row, position] = {
                "token": token,
                "log_prob": rows[position, token].item(),
                "one_minus_prob": sum(pi[v].item() for v in range(len(pi)) if v != token),
                "entropy": -sum(p * q for p, q in zip(pi.tolist(), rows[position].tolist(), strict=True)),
                "collision": sum(p * p for p in pi.tolist()),
                "collision_log_prob": sum(p * p * q for p, q in zip(pi.tolist(), rows[position].tolist(), strict=True)),
                "direction_norm": sum(x * x for x in direction.tolist()) ** 0.5,
                "argmax_token": ordered[0],
                "argmax_prob": pi[ordered[0]].item(),
                "token_rank": ordered.index(token),
                "weight": -gradient[position].item(),
            }
    return out
