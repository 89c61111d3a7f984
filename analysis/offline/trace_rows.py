"""Rows of the record tables from traced rollouts; columns and their meaning are those of `records.schema`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..records.encoding import Columns
from ..records.rows import PromptRow, RolloutRow, TokenColumns
from ..records.rows import prompt_rows as rows_of_prompts
from ..records.rows import rollout_rows as rows_of_rollouts
from ..records.rows import token_rows as rows_of_tokens
from .reward_source import Judged
from .tokenization import Encoded

__all__ = ["prompt_rows", "rollout_rows", "token_rows"]

SPLIT = "offline"


def prompt_rows(items: Sequence[Encoded]) -> Columns:
    """Rows of `prompts`, one for each of the items, whose prompts are distinct."""
    return rows_of_prompts(
        [
            PromptRow(
                prompt_id=item.prompt_id,
                split=SPLIT,
                text=item.prompt_text,
                token_ids=item.prompt.tolist(),
                answer=item.rollout.answer,
            )
            for item in items
        ]
    )


def rollout_rows(items: Sequence[Encoded], judged: Sequence[Judged]) -> Columns:
    """Rows of `rollouts`; `judged` are reward, verdict and reason of each."""
    return rows_of_rollouts(
        [
            RolloutRow(
                step=item.rollout.step,
                rollout=item.rollout.index,
                prompt_id=item.prompt_id,
                group=item.group,
                response_ids=item.response.tolist(),
                response_text=item.response_text,
                finished=bool(item.finished),
                reward=reward,
                correct=correct,
                verdict=reason,
                advantage=item.rollout.advantage if isinstance(item.rollout.advantage, float) else None,
            )
            for item, (reward, correct, reason) in zip(items, judged, strict=True)
        ]
    )


def token_rows(items: Sequence[Encoded], measured: Sequence[dict[str, np.ndarray]], *, on_policy: bool) -> Columns:
    """Rows of `tokens`: update −1, no weight; `measured` are the columns of each item.

    On-policy the old log-probs are the model's own, where the file has none.
    """
    lengths = [len(item.response) for item in items]
    statistics = {name: np.concatenate([columns[name] for columns in measured]) for name in measured[0]}
    log_prob = statistics["log_prob"]
    old = _per_token([item.rollout.old_log_probs for item in items], lengths)
    if old is None and on_policy:
        old = log_prob
    return rows_of_tokens(
        TokenColumns(
            step=np.repeat([item.rollout.step for item in items], lengths),
            rollout=np.repeat([item.rollout.index for item in items], lengths),
            position=np.concatenate([np.arange(length) for length in lengths]),
            token=np.concatenate([item.response for item in items]),
            statistics=statistics,
            old_log_prob=old,
            advantage=_per_token([item.rollout.advantage for item in items], lengths),
            ratio=None if old is None else np.exp(log_prob.astype(np.float64) - old),
        )
    )


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
