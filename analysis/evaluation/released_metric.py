"""The entropy that the paper's released code computes under dynamic batching, beside the right one.

The code is verl of early 2025 (github.com/TianHongZXY/RLVR-Decomposed, verl/workers/actor/dp_actor.py). With
`use_dynamic_bsz` a worker splits its rows into micro-batches of balanced length and computes log-probs and entropies in
that order, σ(1), σ(2), …. It puts the log-probs back into the order of the rows and forgets the entropies (verl's pull
request 1943 mends it), which are then averaged with the masks of the rows that stand at their places:

    right     Σ_i Σ_t m_it·H_it / Σ_it m_it
    released  Σ_i Σ_t m_it·H_σ(i)t / Σ_it m_it       H_it = 0 behind the end of row i

A short row that stands where a long one was counts zeros behind its end, a long one where a short one was is cut: early
positions weigh more and the end less. The two agree where all rows have one length, and where there is one micro-batch.

The rows are split as there: ⌈Σ length/max_tokens⌉ micro-batches, lengths with prompt, the largest number of any worker;
Karmarkar and Karp's largest differencing method; rows of a micro-batch in ascending order. Workers get equal,
contiguous parts of the batch. One difference remains: right behind the end of a row the code has the entropy of what
would follow the end token, which is not recorded and counts 0 here.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import pandas as pd

from ..errors import UsageError

__all__ = ["balanced_partitions", "misplaced_rows", "released_entropy"]

_Set = tuple[int, int, list[tuple[int, int]]]  # sum of lengths, how many rows, (row, length) of each


class HasColumns(Protocol):
    """What is read of a run: columns of its tables; `analysis.records.Run` is one."""

    def table(self, name: str, columns: Sequence[str] | None = None) -> Any: ...


def released_entropy(run: HasColumns, *, max_tokens: int, workers: int = 1) -> pd.DataFrame:
    """The mean entropy of each step's rollouts as the released code computes it, beside the right one, in nats.

    Entropies are those of the first pass over the rollouts, at the policy of each token's update: those of the policy
    that sampled where a step makes one update, nearly so where it makes several.

    Args:
        run: a run in which every token is recorded: `record.tokens = 1`, `record.rollouts = 1` and no dropped rows.
        max_tokens: tokens of a micro-batch, prompts included (ppo_max_token_len_per_gpu); the paper's default is not
            ours, so there is none here.
        workers: processes that the rollouts of a step are dealt to in equal parts.

    Returns:
        One row for each step: step, entropy, released, micro_batches (of each worker).

    Raises:
        UsageError: tokens that are not recorded, a row longer than max_tokens, workers that do not divide the rows.
    """
    rollouts = run.table("rollouts", ["step", "rollout", "prompt_id", "response_ids", "length"])
    prompts = run.table("prompts", ["prompt_id", "token_ids"])
    tokens = run.table("tokens", ["step", "rollout", "position", "epoch", "entropy"])
    prompt_lengths = dict(zip(prompts["prompt_id"], map(len, prompts["token_ids"]), strict=True))
    by_step = dict(list(tokens[tokens["epoch"] == 0].groupby("step")))
    rows = []
    for step, drawn in rollouts.sort_values(["step", "rollout"]).groupby("step"):
        recorded = by_step.get(step)
        if recorded is None or len(recorded) != drawn["length"].sum():
            raise UsageError(
                f"run: expected the entropy of every token of step {step}, {drawn['length'].sum()} of them, got "
                f"{0 if recorded is None else len(recorded)}; record.tokens = 1 with update.rows = keep records all"
            )
        widths = np.array([len(ids) for ids in drawn["response_ids"]])
        places = pd.Series(range(len(drawn)), index=drawn["rollout"])
        entropy = np.zeros((len(drawn), widths.max()))
        mask = np.zeros(entropy.shape, dtype=bool)
        where = places[recorded["rollout"]].to_numpy(), recorded["position"].to_numpy()
        entropy[where], mask[where] = recorded["entropy"], True
        lengths = widths + drawn["prompt_id"].map(prompt_lengths).to_numpy()
        order, parts = misplaced_rows(lengths.tolist(), max_tokens, workers)
        rows.append(
            {
                "step": step,
                "entropy": entropy[mask].mean(),
                "released": entropy[order][mask].mean(),
                "micro_batches": parts,
            }
        )
    return pd.DataFrame(rows, columns=["step", "entropy", "released", "micro_batches"])


def misplaced_rows(lengths: Sequence[int], max_tokens: int, workers: int = 1) -> tuple[list[int], int]:
    """σ, the row whose entropies stand at each place, and the micro-batches of each worker.

    Args:
        lengths: tokens of each row, prompt and response.
        max_tokens: tokens of a micro-batch.
        workers: processes that the rows are dealt to in equal, contiguous parts.

    Raises:
        UsageError: no rows, a row longer than max_tokens, workers that do not divide the rows.

    >>> misplaced_rows([5, 4, 3, 4], max_tokens=8)  # rows 1 and 3 are a micro-batch, then rows 0 and 2
    ([1, 3, 0, 2], 2)
    """
    if not lengths or workers < 1 or len(lengths) % workers:
        raise UsageError(
            f"workers: expected a number that divides {len(lengths)} rows (at least one), got {workers}; each has as "
            "many"
        )
    if max(lengths) > max_tokens:
        raise UsageError(f"max_tokens: expected at least the longest row, {max(lengths)} tokens, got {max_tokens}")
    share = len(lengths) // workers
    dealt = [lengths[low : low + share] for low in range(0, len(lengths), share)]
    count = max(-(-sum(own) // max_tokens) for own in dealt)
    order = [
        worker * share + row
        for worker, own in enumerate(dealt)
        for part in balanced_partitions(own, count)
        for row in part
    ]
    return order, count


def balanced_partitions(lengths: Sequence[int], count: int) -> list[list[int]]:
    """Rows in `count` parts of nearly equal total length: Karmarkar and Karp's largest differencing method.

    It starts with a split for each row, that row against nothing, and joins the two splits of largest spread, largest
    part with smallest, until one is left. Ties are broken as in verl's get_seqlen_balanced_partitions.

    Args:
        lengths: of each row.
        count: number of parts.

    Returns:
        Row indices of each part, ascending, the largest part first.

    Raises:
        UsageError: fewer rows than parts.

    >>> balanced_partitions([5, 4, 3, 4], 2)
    [[1, 3], [0, 2]]
    """
    if not 1 <= count <= len(lengths):
        raise UsageError(f"count: expected 1 to {len(lengths)}, the number of rows, got {count}; raise max_tokens")
    nothing: _Set = (0, 0, [])
    heap = [
        _keyed([(length, 1, [(row, length)]), *[nothing] * (count - 1)])
        for length, row in sorted((length, row) for row, length in enumerate(lengths))
    ]
    heapq.heapify(heap)
    while len(heap) > 1:
        first, second = heapq.heappop(heap)[1], heapq.heappop(heap)[1]
        pairs = zip(first, second[::-1], strict=True)
        joined = [(a + b, m + n, rows + others) for (a, m, rows), (b, n, others) in pairs]
        heapq.heappush(heap, _keyed(sorted(joined, reverse=True)))
    return [sorted(row for row, _ in rows) for _, _, rows in heap[0][1]]


def _keyed(parts: list[_Set]) -> tuple[tuple[Any, ...], list[_Set]]:
    """A split with its place in the heap: the largest spread first, then the largest first part."""
    total, size, rows = parts[0]
    return (parts[-1][0] - total, -total, -size, [(-row, -length) for row, length in rows]), parts
