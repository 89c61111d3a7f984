"""Rows of the record tables from traced rollouts; columns and their meaning are those of `records.schema`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .tokenization import Encoded

__all__ = ["prompt_rows", "rollout_rows", "token_rows"]

SPLIT = "offline"
Columns = dict[str, Any]


def prompt_rows(items: Sequence[Encoded]) -> Columns:
    """Rows of `prompts`, one for each of the items, whose prompts are distinct."""
    return {
        "prompt_id": [item.prompt_id for item in items],
        "split": SPLIT,
        "text": [item.prompt_text for item in items],
        "token_ids": [item.prompt.tolist() for item in items],
        "answer": [item.rollout.answer for item in items],
    }


def rollout_rows(items: Sequence[Encoded], judged: Sequence[tuple[float | None, bool | None, str | None]]) -> Columns:
    """Rows of `rollouts`; `judged` are reward, verdict and reason of each."""
    rewards, correct, reasons = zip(*judged, strict=True)
    return {
        "step": [item.rollout.step for item in items],
        "rollout": [item.rollout.index for item in items],
        "rank": 0,
        "prompt_id": [item.prompt_id for item in items],
        "group": [item.group for item in items],
        "response_ids": [item.response.tolist() for item in items],
        "response_text": [item.response_text for item in items],
        "length": [len(item.response) for item in items],
        "finished": [bool(item.finished) for item in items],
        "reward": list(rewards),
        "correct": list(correct),
        "noise_flipped": False,
        "verdict": list(reasons),
        "advantage": [a if isinstance(a := item.rollout.advantage, float) else None for item in items],
        "dropped": False,
    }


def token_rows(items: Sequence[Encoded], measured: Sequence[dict[str, np.ndarray]], *, on_policy: bool) -> Columns:
    """Rows of `tokens`: update −1, no weight; `measured` are the columns of each item.

    On-policy the old log-probs are the model's own, where the file has none.
    """
    lengths = [len(item.response) for item in items]
    columns: Columns = {name: np.concatenate([of[name] for of in measured]) for name in measured[0]}
    columns |= {
        "update": -1,
        "step": np.repeat([item.rollout.step for item in items], lengths),
        "rollout": np.repeat([item.rollout.index for item in items], lengths),
        "position": np.concatenate([np.arange(n) for n in lengths]),
        "epoch": 0,
        "minibatch": 0,
        "token": np.concatenate([item.response for item in items]),
        "advantage": _per_token([item.rollout.advantage for item in items], lengths),
    }
    old = _per_token([item.rollout.old_log_probs for item in items], lengths)
    columns["old_log_prob"] = columns["log_prob"] if old is None and on_policy else old
    if columns["old_log_prob"] is not None:
        columns["ratio"] = np.exp(columns["log_prob"].astype(np.float64) - columns["old_log_prob"])
    return columns


def _per_token(values: Sequence[float | tuple[float, ...] | None], lengths: Sequence[int]) -> np.ndarray | None:
    """One number for each token; None where there are none."""
    if all(value is None for value in values):
        return None
    return np.concatenate(
        [
            np.broadcast_to(np.asarray(value, dtype=np.float64), length)
            for value, length in zip(values, lengths, strict=True)
        ]
    )
