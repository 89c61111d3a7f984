"""Rows of the record tables from traced rollouts; columns and their meaning are those of `records.schema`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..records.encoding import Columns
from ..records.rows import PromptRow, RolloutRow, TokenColumns
from ..records.rows import prompt_rows as rows_of_prompts
from ..records.rows import rollout_rows as rows_of_rollouts
from ..records.rows import token_rows as rows_of_tokens
from .policy_tokens import own_values
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
                length=item.own_length,
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
    """Rows of `tokens`, those of the policy: update −1, no weight; `measured` are the columns of each item.

    On-policy the old log-probs are the model's own, where the file has none.
    """
    lengths = [item.own_length for item in items]
    statistics = {
        name: np.concatenate([columns[name][item.policy] for item, columns in zip(items, measured, strict=True)])
        for name in measured[0]
    }
    log_prob = statistics["log_prob"]
    old = _per_token([item.rollout.old_log_probs for item in items], items)
    if on_policy:
        old = log_prob if old is None else np.ma.filled(old, np.nan)
        old = np.where(np.isnan(old), log_prob, old)
    return rows_of_tokens(
        TokenColumns(
            step=np.repeat([item.rollout.step for item in items], lengths),
            rollout=np.repeat([item.rollout.index for item in items], lengths),
            position=np.concatenate([np.flatnonzero(item.policy) for item in items]),
            token=np.concatenate([item.response[item.policy] for item in items]),
            statistics=statistics,
            old_log_prob=old,
            sampling_log_prob=_per_token([item.rollout.sampling_log_probs for item in items], items),
            advantage=_per_token([item.rollout.advantage for item in items], items),
            ratio=None if old is None else np.exp(log_prob.astype(np.float64) - old),
        )
    )


def _per_token(values: Sequence[float | tuple[float, ...] | None], items: Sequence[Encoded]) -> np.ndarray | None:
    """One number for each token of the policy, masked for a row without one; None where no row has any."""
    if all(value is None for value in values):
        return None
    numbers = np.concatenate(
        [
            own_values(value, item.policy)
            if isinstance(value, tuple)
            else np.full(item.own_length, np.nan if value is None else value)
            for value, item in zip(values, items, strict=True)
        ]
    )
    return np.ma.masked_array(numbers, np.isnan(numbers)) if None in values else numbers
