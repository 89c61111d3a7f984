"""A small training loop as a user would write it: padded batches and losses, for the tests of `attach`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.probes.causal_lms import VOCAB

PAD = 0
ADVANTAGES = [1.0, -0.5, 0.7, -1.3]


def sequences(number: int = 4, *, seed: int = 0) -> tuple[list[list[int]], list[list[int]]]:
    """Prompts and responses of ragged lengths; the first two share a prompt."""
    generator = torch.Generator().manual_seed(seed)

    def draw(least: int, most: int) -> list[int]:
        length = int(torch.randint(least, most + 1, (1,), generator=generator))
        return torch.randint(3, VOCAB, (length,), generator=generator).tolist()

    prompts, responses = [draw(1, 5) for _ in range(number)], [draw(1, 6) for _ in range(number)]
    prompts[1] = prompts[0]
    return prompts, responses


def batch(prompts: list[list[int]], responses: list[list[int]], side: str = "left") -> dict[str, Tensor]:
    """input_ids, attention_mask, position_ids and labels, padded on one side."""
    whole = [p + r for p, r in zip(prompts, responses, strict=True)]
    length = max(map(len, whole))
    ids = torch.full((len(whole), length), PAD)
    labels = torch.full((len(whole), length), -100)
    mask = torch.zeros(len(whole), length, dtype=torch.long)
    for row, (prompt, tokens) in enumerate(zip(prompts, whole, strict=True)):
        start = length - len(tokens) if side == "left" else 0
        ids[row, start : start + len(tokens)] = torch.tensor(tokens)
        mask[row, start : start + len(tokens)] = 1
        labels[row, start + len(prompt) : start + len(tokens)] = torch.tensor(tokens[len(prompt) :])
    position_ids = (mask.cumsum(1) - 1).clamp(min=0)
    return {"input_ids": ids, "attention_mask": mask, "position_ids": position_ids, "labels": labels}


def token_log_probs(logits: Tensor, labels: Tensor, temperature: float = 1.0) -> list[Tensor]:
    """log π_y of each row's labelled tokens, from logits (B, T, V)."""
    log_pi = torch.log_softmax(logits / temperature, dim=-1)
    out = []
    for row in range(len(labels)):
        at = (labels[row] != -100).nonzero().squeeze(1)
        out.append(log_pi[row, at - 1, labels[row, at]])
    return out


def clipped(log_probs: list[Tensor], rows: Any = None, *, advantages: list[float] | None = None) -> Tensor:
    """A clipped ratio against made-up old log-probs, sequence means: no weight is like another."""
    total = torch.zeros((), dtype=log_probs[0].dtype)
    for number, (values, advantage) in enumerate(zip(log_probs, advantages or ADVANTAGES, strict=True)):
        drift = 0.15 * torch.sin(torch.arange(len(values), dtype=values.dtype) + number)
        ratio = torch.exp(values - values.detach() + drift)
        term = torch.minimum(ratio * advantage, ratio.clamp(0.9, 1.1) * advantage)
        total = total - term.mean() / len(log_probs)
    return total
