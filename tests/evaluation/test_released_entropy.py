"""The entropy metric of the released code: by hand, against verl's own partition, and from the records of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.errors import UsageError
from analysis.evaluation import released_entropy
from analysis.evaluation.released_metric import balanced_partitions, misplaced_rows
from analysis.recipes import Recipe
from analysis.records import load_trace
from analysis.training.loop import train
from tests.objectives.peers import verl_peer


class Tables:
    """A run of one step or several, from the entropies of its rows; prompts of two tokens."""

    def __init__(self, *steps: list[list[float]]) -> None:
        drawn = [(s, i, row) for s, rows in enumerate(steps) for i, row in enumerate(rows)]
        self.tables = {
            "prompts": pd.DataFrame({"prompt_id": ["x"], "token_ids": [[7, 8]]}),
            "rollouts": pd.DataFrame(
                [
                    {"step": s, "rollout": i, "prompt_id": "x", "response_ids": row, "length": len(row)}
                    for s, i, row in drawn
                ]
            ),
            "tokens": pd.DataFrame(
                [
                    {"step": s, "rollout": i, "position": t, "epoch": epoch, "entropy": h + 10 * epoch}
                    for epoch in (0, 1)
                    for s, i, row in drawn
                    for t, h in enumerate(row)
                ]
            ),
        }

    def table(self, name: str, columns: Any = None) -> pd.DataFrame:
        return self.tables[name][list(columns)]


def test_by_hand() -> None:
    """Lengths 5, 4, 3, 4 with prompts, in the micro-batches {1, 3} and {0, 2}: at the places 0 to 3 stand 1, 3, 0, 2.

    Place 0 has three positions of row 1, the last of them behind its end; place 2 the first of row 0; place 3 two of
    row 2, which has one.
    """
    rows = [[1.0, 2.0, 3.0], [10.0, 20.0], [5.0], [7.0, 9.0]]
    frame = released_entropy(Tables(rows), max_tokens=8)
    assert frame.to_dict("list") == {
        "step": [0],
        "entropy": [pytest.approx((6 + 30 + 5 + 16) / 8)],
        "released": [pytest.approx(((10 + 20 + 0) + (7 + 9) + 1 + (5 + 0)) / 8)],
        "micro_batches": [2],
    }


def test_they_agree_where_all_rows_have_one_length_and_in_one_micro_batch() -> None:
    generator = np.random.default_rng(0)
    equal = generator.random((6, 4)).tolist()
    ragged = [row[: 1 + i % 4] for i, row in enumerate(equal)]
    same = released_entropy(Tables(equal, equal[::-1]), max_tokens=12)
    assert same.micro_batches.tolist() == [3, 3]
    assert same.released.tolist() == pytest.approx(same.entropy.tolist(), rel=1e-14)
    whole = released_entropy(Tables(ragged), max_tokens=1000)
    assert whole.micro_batches.tolist() == [1]
    assert whole.released.tolist() == whole.entropy.tolist()
    cut = released_entropy(Tables(ragged), max_tokens=8)
    assert cut.released[0] != pytest.approx(cut.entropy[0], rel=1e-3)


def test_workers_have_rows_of_their_own() -> None:
    """Each worker's rows stay in its part; all make as many micro-batches as the one with most tokens."""
    order, parts = misplaced_rows([9, 3, 4, 2, 1, 1, 2, 1], 9, workers=2)
    assert parts == 2
    assert sorted(order[:4]) == [0, 1, 2, 3]
    assert sorted(order[4:]) == [4, 5, 6, 7]
    assert order[4:] == [4 + row for part in balanced_partitions([1, 1, 2, 1], 2) for row in part]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=24), st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_a_partition_is_one_and_balanced(lengths: list[int], count: int) -> None:
    count = min(count, len(lengths))
    parts = balanced_partitions(lengths, count)
    assert sorted(row for part in parts for row in part) == list(range(len(lengths)))
    sums = [sum(lengths[row] for row in part) for part in parts]
    assert len(parts) == count
    assert min(map(len, parts)) >= 1
    assert max(sums) - min(sums) <= max(lengths)


@pytest.mark.slow
def test_against_verl() -> None:
    """The same parts in the same order, ties included."""
    theirs = verl_peer.module("verl.utils.seqlen_balancing").get_seqlen_balanced_partitions
    generator = np.random.default_rng(1)
    for size, longest in ((1, 5), (7, 3), (16, 4), (64, 9), (200, 1000)):
        lengths = generator.integers(1, longest + 1, size).tolist()
        for count in {1, min(2, size), min(5, size), size}:
            assert balanced_partitions(lengths, count) == theirs(lengths, count, equal_size=False)


@pytest.mark.slow
def test_of_a_run(tmp_path: Path) -> None:
    """The right value is the mean over the step's tokens as the table steps has it, before its single update."""
    changes = {
        "grid": "unset",
        "steps": 2,
        "objective.name": "reinforce",
        "rollout.prompts": 8,
        "update.rows": "keep",
        "update.minibatches": 1,
        "eval.every": 10,
        "eval.prompts": 1,
        "eval.final_prompts": 1,
        "eval.samples": 0,
        "record.tokens": 1.0,
        "record.contexts": 0,
        "record.checkpoint": False,
    }
    config = Recipe.load("tiny").set(**changes).expand()[0].config
    assert train(config, tmp_path / "run", run_id="r", label="L") == "complete"
    run = load_trace(tmp_path / "run")
    frame = released_entropy(run, max_tokens=64, workers=2)
    assert frame.step.tolist() == [0, 1]
    np.testing.assert_allclose(frame.entropy, run.table("steps").entropy_own, rtol=1e-5)
    assert (frame.micro_batches > 1).all()
    assert ((frame.released - frame.entropy).abs() > 1e-3).all()


def test_refused() -> None:
    tables = Tables([[1.0, 2.0], [3.0]])
    with pytest.raises(UsageError, match="max_tokens: expected at least the longest row, 4 tokens, got 3"):
        released_entropy(tables, max_tokens=3)
    with pytest.raises(UsageError, match=r"workers: expected a number that divides 2 rows \(at least one\), got 3"):
        released_entropy(tables, max_tokens=8, workers=3)
    with pytest.raises(UsageError, match="count: expected 1 to 2, the number of rows, got 3; raise max_tokens"):
        balanced_partitions([1, 1], 3)
    tables.tables["tokens"] = tables.tables["tokens"].iloc[1:]
    with pytest.raises(
        UsageError, match=r"run: expected the entropy of every token of step 0, 3 of them, got 2; record"
    ):
        released_entropy(tables, max_tokens=8)
