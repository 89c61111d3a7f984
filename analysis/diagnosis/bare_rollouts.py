"""The evidence of rollouts without a model: prompts, responses, rewards, advantages and groups, and no token."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..offline import read_rollouts
from ..records.reader import to_pandas
from ..records.schema import arrow_schema
from .evidence import Evidence, signs_of

__all__ = ["of_rollouts"]


def of_rollouts(source: Any, columns: Mapping[str, Any] | None = None) -> tuple[Evidence, str]:
    """The evidence of a file of rollouts or of rows in memory, and its name.

    Groups are those of the file, else responses to the same prompt in a step. Lengths and whether responses were
    truncated are not known without the tokenizer.

    Raises:
        UsageError: the rollouts cannot be read.
    """
    file = read_rollouts(source, columns=columns)
    rows = file.rollouts
    prompts = [str(row.prompt if row.prompt is not None else row.prompt_ids) for row in rows]
    groups = [prompt if row.group is None else str(row.group) for row, prompt in zip(rows, prompts, strict=True)]
    rollouts = pd.DataFrame(
        {
            "step": [row.step for row in rows],
            "rollout": [row.index for row in rows],
            "prompt_id": prompts,
            "group": pd.factorize(np.array(groups, dtype=object))[0],
            "response_ids": [row.response_ids or () for row in rows],
            "response_text": [row.response or "" for row in rows],
            "reward": np.array([np.nan if row.reward is None else row.reward for row in rows]),
            "advantage": np.array([_advantage(row.advantage) for row in rows]),
        }
    )
    rollouts = rollouts.assign(sign=signs_of(rollouts, {}))
    empty = {name: to_pandas(arrow_schema(name).empty_table()) for name in ("tokens", "updates", "steps")}
    name = file.source if file.path is None else str(Path(file.path))
    tokens = empty["tokens"].assign(carried=np.nan, sign=np.nan, length=np.nan, prompt_id="")
    return Evidence(rollouts, tokens, empty["updates"], empty["steps"]), name


def _advantage(value: float | tuple[float, ...] | None) -> float:
    """One advantage for a response: of those of its tokens the largest in size."""
    if value is None:
        return np.nan
    return max(value, key=abs, default=np.nan) if isinstance(value, tuple) else value
