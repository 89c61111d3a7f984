"""Advantages by the book, one response at a time."""

from __future__ import annotations

import statistics


def signed(name: str, reward: float, lambda_: float | None) -> float:
    correct = {"psr": 1.0, "nsr": 0.0, "w-reinforce": lambda_, "reinforce": 1.0, "grpo": 1.0}[name]
    wrong = {"psr": 0.0, "nsr": -1.0, "w-reinforce": -1.0, "reinforce": -1.0, "grpo": 0.0}[name]
    assert correct is not None
    return correct if reward == 1 else wrong


def advantages(name: str, how: str, rewards: list[float], group_size: int, lambda_: float | None) -> list[float]:
    values = [signed(name, r, lambda_) for r in rewards]
    result = []
    for i, value in enumerate(values):
        start = i // group_size * group_size
        peers = values if how == "batch_mean_std" else values[start : start + group_size]
        if how == "none":
            result.append(value)
        elif len(set(peers)) == 1:
            result.append(0.0)
        else:
            scale = 1.0 if how == "group_mean" else statistics.stdev(peers) + 1e-6
            result.append((value - statistics.mean(peers)) / scale)
    return result
