"""What the cells are run on: random policies over a set of responses, a fixed share of which is correct.

Every seed is a problem of its own (logits and correct responses), the same for all methods and cells; so is the stream
of uniforms. Logits are normal; which responses are correct is independent of them, so that the base is right about as
often as responses are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from toy_models.exact.bandit import Bandit
from toy_models.exact.loglinear import LogLinear
from toy_models.exact.tree import Tree, tree_leaves
from toy_models.messages import nearest

from ..common.randomness import seed_of
from ..common.short_repr import short_repr
from ..errors import UsageError
from .factors import POLICIES

__all__ = ["Problem", "make_problem"]

# The kinds of exact policies that a problem can be made of.
SPREAD = 1.5  # standard deviation of the logits of the base
CORRECT_SHARE = 0.35
_TREE = (4, 3)  # vocabulary and depth: 40 responses of one to three tokens
_FEATURES_PER_PROMPT = 4


@short_repr
@dataclass(frozen=True)
class Problem:
    """A policy with parameters (S, …), and which responses are correct, bool (S, P, Y)."""

    policy: Bandit | Tree | LogLinear
    correct: Tensor


def make_problem(policy: str, *, seeds: int, prompts: int, arms: int, seed: int) -> Problem:
    """The problem of some seeds; `arms` responses to a prompt (a tree has 40 whatever is asked for).

    Log-linear: 4 features a prompt, drawn once and shared by all prompts and seeds, so that prompts interfere; its
    correct responses are the same for every seed.

    Raises UsageError for an unknown policy or sizes out of range.
    """
    if policy not in POLICIES:
        raise UsageError(f"policy: expected one of {', '.join(POLICIES)}, got {policy!r} ({nearest(policy, POLICIES)})")
    if seeds < 2 or prompts < 1 or arms < 2:
        raise UsageError(
            f"seeds, prompts, arms: expected at least 2, 1 and 2, got {seeds}, {prompts} and {arms}; the seed is the "
            "unit of every interval"
        )
    if policy == "tree" and arms != tree_leaves(*_TREE):
        raise UsageError(f"arms: the tree has {tree_leaves(*_TREE)} responses to a prompt, got arms = {arms}")
    g = torch.Generator().manual_seed(seed_of(seed, f"ladder {policy}"))
    ranks = torch.rand(seeds, prompts, arms, generator=g).argsort(-1)
    correct = ranks < max(1, round(CORRECT_SHARE * arms))
    if policy == "bandit":
        return Problem(Bandit(SPREAD * torch.randn(seeds, prompts, arms, generator=g)), correct)
    if policy == "tree":
        return Problem(
            Tree.random(*_TREE, scale=SPREAD, batch=(seeds, prompts), generator=g, dtype=torch.float32), correct
        )
    n_features = _FEATURES_PER_PROMPT * prompts
    features = torch.randn(prompts, arms, n_features, generator=g) / n_features**0.5
    theta = SPREAD * torch.randn(seeds, n_features, generator=g)
    return Problem(LogLinear(features, theta), correct[:1].expand_as(correct))
