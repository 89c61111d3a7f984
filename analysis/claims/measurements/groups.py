"""Exact numbers about groups: how much a prompt's weight is biased at each group size, and which prompts interfere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from toy_models import BASES, ensure_base, get_task, load_policy

from ...gradient_noise import prompt_gradients
from ...objectives import prompt_weights
from ..evidence import Progress

__all__ = ["GROUP_SIZES", "Interference", "interference", "weight_tables"]

GROUP_SIZES = (2, 4, 8, 16)
NORMALISERS = ("grpo", "dr-grpo", "rloo", "maxrl")
SUCCESS = tuple(round(0.05 * step, 2) for step in range(1, 20))


def weight_tables() -> dict[str, dict[str, list[float | str]]]:
    """Prompt weight h(p) with its limit and variance for each normaliser and group size: column -> values.

    "prompt weights" has one row for each objective, group size and p. "distortion" has for each objective and group
    size the greatest |h(p)/(c·limit(p)) − 1| over p, where c is the factor that makes it least: a constant factor is
    only a learning rate.
    """
    columns = ("objective", "group_size", "p", "weight", "limit", "variance")
    rows: dict[str, list[float | str]] = {name: [] for name in columns}
    shapes: dict[str, list[float | str]] = {"objective": [], "group_size": [], "distortion": []}
    for objective in NORMALISERS:
        for size in GROUP_SIZES:
            found = prompt_weights(objective, size, SUCCESS)
            for p, weight, limit, variance in zip(
                SUCCESS, found.weight.tolist(), found.limit.tolist(), found.variance.tolist(), strict=True
            ):
                for name, value in zip(columns, (objective, size, p, weight, limit, variance), strict=True):
                    rows[name].append(value)
            ratio = (found.weight / found.limit).numpy()
            # max |r/c − 1| is least where the greatest and the least ratio are off by as much: c = (max + min)/2
            centre = (ratio.max() + ratio.min()) / 2
            shapes["objective"].append(objective)
            shapes["group_size"].append(size)
            shapes["distortion"].append(float(np.abs(ratio / centre - 1).max()))
    return {"prompt weights": rows, "distortion": shapes}


@dataclass(frozen=True)
class Interference:
    """Of the base of one seed.

    Attributes:
        p: Mean success probability.
        negative_share: Share of pairs of prompts with ⟨∇p_x, ∇p_x′⟩ < 0.
        cosine: Between the gradients of mean Pass@1 and of mean Pass@k.
    """

    p: float
    negative_share: float
    cosine: float


def interference(base: str, seed: int, k: int, progress: Progress, *, prompts: int = 64) -> Interference:
    """Exact gradients of the success probability of test prompts, by enumeration, of the base of one seed."""
    ensure_base(base, seed)
    policy = load_policy(base, seed=seed)
    task = get_task(BASES[base].task, policy.tokenizer)
    progress(f"gradients of prompts, {base}", seed, seed + 1)
    found = prompt_gradients(policy, task, task.prompts("test")[:prompts])
    ones = np.ones(len(found.p))
    return Interference(
        float(found.p.mean()), found.negative_share, found.aggregate_cosine(ones, found.pass_at_k_weights(k))
    )
