"""Softmax quantities by their textbook formulas and automatic differentiation, dense, in the dtype they are given."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

TIED = [[1.0, 1.0, 1.0, 0.0, -1.0], [2.0, 2.0, 0.0, 0.0, 0.0], [0.0, 3.0, 3.0, -2.0, 3.0]]


def statistics(logits: Tensor, tokens: Tensor) -> dict[str, Tensor]:
    log_probs = torch.log_softmax(logits, -1)
    probs = log_probs.exp()
    log_prob = log_probs.gather(-1, tokens[..., None]).squeeze(-1)
    one_hot = torch.nn.functional.one_hot(tokens, logits.shape[-1]).to(logits.dtype)
    p_y = log_prob.exp()
    entropy = -(probs * log_probs).sum(-1)
    collision = (probs**2).sum(-1)
    collision_log_prob = (probs**2 * log_probs).sum(-1)
    return {
        "log_prob": log_prob,
        "one_minus_prob": 1 - p_y,
        "entropy": entropy,
        "collision": collision,
        "collision_log_prob": collision_log_prob,
        "direction_norm": (one_hot - probs).norm(dim=-1),
        "argmax_prob": probs.amax(-1),
        "covariance": p_y * (log_prob + entropy) - collision_log_prob - collision * entropy,
    }


def entropy(logits: Tensor) -> Tensor:
    return -(torch.softmax(logits, -1) * torch.log_softmax(logits, -1)).sum(-1)


def split_entropy(logits: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """h(π_y), (1 − π_y)·H(rest) and H(rest), the last from a softmax over the other logits."""
    probs = torch.softmax(logits, -1)
    p = probs.gather(-1, tokens[..., None]).squeeze(-1)
    binary = -p * p.log() - (1 - p) * (1 - p).log()
    keep = torch.ones_like(logits, dtype=torch.bool).scatter(-1, tokens[..., None], False)
    others = logits[keep].reshape(*logits.shape[:-1], logits.shape[-1] - 1)
    rest = entropy(others)
    return binary, (1 - p) * rest, rest


def derivative(function: Callable[[Tensor], Tensor], logits: Tensor, direction: Tensor) -> Tensor:
    """Directional derivative by forward-mode automatic differentiation."""
    return torch.func.jvp(function, (logits,), (direction,))[1]


def rows(kind: str, n: int = 200, vocab: int = 24, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Float64 logits and tokens drawn from them: random, uniform, tied, or peaked (one token holds nearly all)."""
    generator = torch.Generator().manual_seed(seed)
    if kind == "random":
        logits = 2 * torch.randn(n, vocab, generator=generator, dtype=torch.float64)
    elif kind == "uniform":
        logits = torch.full((n, vocab), 0.7, dtype=torch.float64)
    elif kind == "tied":
        logits = torch.tensor(TIED, dtype=torch.float64).repeat(n // len(TIED), 1)
    else:
        logits = torch.randn(n, vocab, generator=generator, dtype=torch.float64)
        logits[:, 3] += 12
    if kind == "peaked":
        tokens = torch.randint(vocab, (len(logits),), generator=generator)
        tokens[::2] = 3
    else:
        tokens = torch.multinomial(torch.softmax(logits, -1), 1, generator=generator).squeeze(-1)
    return logits, tokens
