"""Where an update moves probability in contexts of a method's own responses: to continuations that can still be correct
or to those that cannot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from toy_models import get_task

from ...records import Run

__all__ = ["continuation_flows", "flows_by_verdict"]

# prompt ids -> its correct responses, None where the task does not list them
Solutions = Callable[[tuple[int, ...]], Sequence[Sequence[int]] | None]


def continuation_flows(run: Run) -> dict[str, float]:
    """Mean change of the mass of correct and of wrong alternatives, over the contexts of a run that were trained on.

    An alternative is correct if some correct response to the prompt begins with the prefix and this token.
    Contexts without a correct alternative are left out.
    """
    task = get_task(str(run.info["task"]))
    prompts = run.table("prompts").set_index("prompt_id")["token_ids"]
    flows = run.table("flows").merge(run.table("contexts"), on="context")
    flows = flows[(flows["kind"] == "batch") & (flows["weight"].fillna(0.0) != 0)]
    return flows_by_verdict(flows.assign(prompt_ids=flows["prompt_id"].map(prompts)), task.solutions)


def flows_by_verdict(flows: pd.DataFrame, solutions: Solutions) -> dict[str, float]:
    """The same from rows with prompt_ids, prefix_ids, token, top_ids, top_prob_before and top_prob_after.

    Returns:
        "correct" and "wrong"; NaN where no context has a correct alternative.
    """
    known: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    changes = []
    names = ("prompt_ids", "prefix_ids", "token", "top_ids", "top_prob_before", "top_prob_after")
    columns: list[list[Any]] = [flows[name].tolist() for name in names]
    for prompt_ids, prefix_ids, token, top_ids, before, after in zip(*columns, strict=True):
        prompt = tuple(map(int, prompt_ids))
        if prompt not in known:
            known[prompt] = [tuple(map(int, response)) for response in solutions(prompt) or ()]
        begun = tuple(map(int, prefix_ids))[len(prompt) :]
        n = len(begun)
        following = {response[n] for response in known[prompt] if len(response) > n and response[:n] == begun}
        ids = np.asarray(top_ids)
        change = np.asarray(after, dtype=float) - np.asarray(before, dtype=float)
        other = ids != token
        correct = np.isin(ids, list(following)) & other
        if correct.any():
            changes.append((change[correct].sum(), change[other & ~correct].sum()))
    means = np.mean(changes, axis=0) if changes else np.full(2, np.nan)
    return {"correct": float(means[0]), "wrong": float(means[1])}
