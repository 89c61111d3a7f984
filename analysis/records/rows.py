"""Rows of the tables prompts, rollouts and tokens: one builder, whatever trained the policy or sampled the rollouts.

The training loop, `attach`, offline traces and the plug-ins for other trainers all describe what they saw as
`PromptRow`, `RolloutRow` and `TokenColumns`; the functions below turn these into columns for `RunWriter.append`. The
fields have the names of the columns, whose meaning and units `records.schema` states. None is a value that is not
known; it is stored as missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

import numpy as np

from ..common.short_repr import short_repr
from .encoding import Columns, ColumnValues
from .schema import TOKEN_STATISTICS

if TYPE_CHECKING:
    from ..laws import TokenStatistics

__all__ = [
    "PromptRow",
    "RolloutRow",
    "TokenColumns",
    "prompt_rows",
    "rollout_rows",
    "statistics_columns",
    "token_rows",
]


@short_repr
@dataclass(frozen=True, kw_only=True)
class PromptRow:
    """One prompt."""

    prompt_id: str  # `toy_models.tasks.task.prompt_hash` of its token ids
    split: str  # train, validation, test or offline
    text: str
    token_ids: Sequence[int]
    answer: str | None = None
    n_solutions: int | None = None


@short_repr
@dataclass(frozen=True, kw_only=True)
class RolloutRow:
    """One sampled response."""

    step: int
    rollout: int  # index in the global batch of the step
    prompt_id: str
    group: int  # index of the prompt in the step's batch
    response_ids: Sequence[int]  # the end token included, and what tools wrote in between
    response_text: str
    finished: bool  # whether it ended with the end token
    length: int | None = None  # tokens that the policy sampled; None: all of response_ids
    rank: int = 0  # process that sampled it
    reward: float | None = None  # what training saw, after verifier noise
    correct: bool | None = None  # the true verdict
    noise_flipped: bool = False
    verdict: str | None = None  # the verifier's reason
    score: float | None = None  # the verifier's number, where it gave one
    advantage: float | None = None
    dropped: bool = False  # whether the objective left it out of the update
    reward_values: Sequence[float] | None = None  # of each reward function; NaN where it gave none


@short_repr
@dataclass(frozen=True, kw_only=True)
class TokenColumns:
    """n response tokens, as one update saw them: arrays (n,), or one value for all of them.

    `statistics` are columns of the distribution that predicted each token, see `statistics_columns`.
    """

    step: int | np.ndarray
    rollout: np.ndarray
    position: np.ndarray  # index in the response
    token: np.ndarray  # token id y
    statistics: Mapping[str, np.ndarray] = field(default_factory=dict)
    update: int = -1  # −1 for tokens that no update was made from
    epoch: int = 0
    minibatch: int = 0
    sampling_log_prob: np.ndarray | None = None  # nats
    kept_mass: np.ndarray | None = None
    old_log_prob: np.ndarray | None = None  # nats
    ref_log_prob: np.ndarray | None = None  # nats
    advantage: np.ndarray | None = None
    ratio: np.ndarray | None = None
    clip: np.ndarray | None = None  # −1, 0 or +1
    weight: np.ndarray | None = None  # −∂L/∂log π_y, measured; masked where the gradient does not tell it
    entropy_weight: np.ndarray | None = None
    kl_weight: np.ndarray | None = None
    residual: np.ndarray | None = None  # NaN counts as missing, unless the weight is NaN too and not masked
    bucket_mass: np.ndarray | None = None  # (n, buckets)
    bucket_mass_sq: np.ndarray | None = None  # (n, buckets)


def prompt_rows(prompts: Sequence[PromptRow]) -> Columns:
    """Columns of the table `prompts`.

    Args:
        prompts: distinct prompts that the table does not hold yet.

    Returns:
        Columns for `RunWriter.append("prompts", …)`, one entry for each prompt.
    """
    return {item.name: [getattr(prompt, item.name) for prompt in prompts] for item in fields(PromptRow)} | {
        "token_ids": [list(prompt.token_ids) for prompt in prompts]
    }


def rollout_rows(rollouts: Sequence[RolloutRow]) -> Columns:
    """Columns of the table `rollouts`; `length` is that of the response.

    Args:
        rollouts: in the order in which they are to be stored.

    Returns:
        Columns for `RunWriter.append("rollouts", …)`, one entry for each rollout.
    """
    return {item.name: [getattr(rollout, item.name) for rollout in rollouts] for item in fields(RolloutRow)} | {
        "response_ids": [list(rollout.response_ids) for rollout in rollouts],
        "length": [len(rollout.response_ids) if rollout.length is None else rollout.length for rollout in rollouts],
    }


def token_rows(tokens: TokenColumns) -> Columns:
    """Columns of the table `tokens`.

    Args:
        tokens: what is known of n tokens.

    Returns:
        Columns for `RunWriter.append("tokens", …)`. Statistics and weights are stored as float32.
    """
    columns: dict[str, ColumnValues] = {item.name: getattr(tokens, item.name) for item in fields(TokenColumns)}
    del columns["statistics"]
    if tokens.residual is not None:
        missing = np.isnan(tokens.residual)
        if tokens.weight is not None:  # of a gradient that is not finite neither is a number, which is not missing
            missing &= ~np.ma.filled(np.isnan(tokens.weight), False)
        columns["residual"] = np.ma.masked_array(tokens.residual, missing)
    return columns | dict(tokens.statistics)


def statistics_columns(stats: TokenStatistics) -> dict[str, np.ndarray]:
    """Token statistics (n,) as columns of the table `tokens`; those that were not computed are left out.

    >>> import torch
    >>> from analysis.laws import dense_statistics
    >>> statistics_columns(dense_statistics(torch.zeros(1, 2), torch.tensor([0])))["one_minus_prob"]
    array([0.5], dtype=float32)
    """
    values = {name: getattr(stats, name) for name in TOKEN_STATISTICS}
    return {name: value.detach().cpu().numpy() for name, value in values.items() if value is not None}
