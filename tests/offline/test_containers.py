"""Tables in memory, of whatever library, give the rollouts of the list of dicts that they are made from."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from analysis import UsageError
from analysis.offline import read_rollouts
from analysis.offline.row_rollouts import Rollout

ROWS: list[dict[str, Any]] = [
    {
        **{"prompt": "1 + 2 :", "response": "3", "response_ids": [9, 1], "reward": 1.0, "group": 4, "step": 2},
        **{"old_log_probs": [-0.5, -0.1], "advantage": 0.5},
    },
    {
        **{"prompt": "1 + 2 :", "response": "4", "response_ids": [10, 1], "reward": 0.0, "group": 4, "step": 2},
        **{"old_log_probs": [-0.25, -1.0], "advantage": -0.5},
    },
]
COLUMNS = {name: [row[name] for row in ROWS] for name in ROWS[0]}


def rollouts_of(source: Any) -> list[Rollout]:
    return read_rollouts(source).rollouts


def as_dataset() -> Any:
    datasets = pytest.importorskip("datasets")
    return datasets.Dataset.from_list(ROWS)


MAKE = {
    "tuple": lambda: tuple(ROWS),
    "generator": lambda: (row for row in ROWS),
    "dict of lists": lambda: COLUMNS,
    "dict of arrays": lambda: COLUMNS | {name: np.array(COLUMNS[name]) for name in ("reward", "group", "prompt")},
    "numpy scalars": lambda: [
        row
        | {"reward": np.float32(row["reward"]), "group": np.int64(4), "step": np.int32(2)}
        | {"response_ids": [np.int64(i) for i in row["response_ids"]], "old_log_probs": np.array(row["old_log_probs"])}
        for row in ROWS
    ],
    "tensors": lambda: [
        row | {"response_ids": torch.tensor(row["response_ids"]), "reward": torch.tensor(row["reward"])} for row in ROWS
    ],
    "pandas": lambda: pd.DataFrame(ROWS),
    "pandas with arrow types": lambda: pd.DataFrame(ROWS).convert_dtypes(dtype_backend="pyarrow"),
    "arrow table": lambda: pa.Table.from_pylist(ROWS),
    "arrow batch": lambda: pa.RecordBatch.from_pylist(ROWS),
    "arrow reader": lambda: pa.Table.from_pylist(ROWS).to_reader(),
    "dataset": as_dataset,
    "dataset in the format of torch": lambda: as_dataset().with_format("torch"),
}


@pytest.mark.parametrize("name", MAKE)
def test_the_same_rollouts(name: str) -> None:
    assert rollouts_of(MAKE[name]()) == rollouts_of(ROWS)


def test_polars() -> None:
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame(ROWS)
    assert rollouts_of(frame) == rollouts_of(ROWS)
    with pytest.raises(UsageError, match=r"got a polars LazyFrame; give frame.collect\(\)"):
        rollouts_of(frame.lazy())


def test_frames_of_other_libraries_are_told_by_what_they_give() -> None:
    """As polars has it, without polars."""

    class DataFrame:
        def to_dicts(self) -> list[dict[str, Any]]:
            return ROWS

    assert rollouts_of(DataFrame()) == rollouts_of(ROWS)


def test_dictionaries_of_splits_and_streams_are_refused_in_words() -> None:
    datasets = pytest.importorskip("datasets")
    splits = datasets.DatasetDict(train=as_dataset(), test=as_dataset())
    with pytest.raises(UsageError, match=r"got a DatasetDict with the splits train, test; choose one by its name"):
        rollouts_of(splits)
    with pytest.raises(
        UsageError, match=r"got a datasets.IterableDataset; give list\(dataset\), or list\(dataset.take"
    ):
        rollouts_of(as_dataset().to_iterable_dataset())


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (3, r"expected a file, a list of dicts, .* or a datasets.Dataset, got int"),
        (["a"], r"rollout 0 is of type str"),
        ({"prompt": ["a"], "response": ["b", "c"]}, r"columns of one length, got 1 in 'prompt' and 2 in 'response'"),
        (
            {"prompt": "a", "response": "b"},
            r"whose entry 'prompt' is not a list but str; give \[row\] for a single row",
        ),
        ([], r"rollouts has no rows"),
        ({}, r"rollouts has no rows"),
        (pd.DataFrame(), r"rollouts has no rows"),
    ],
)
def test_what_is_refused(source: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        rollouts_of(source)


def test_whole_numbers_that_became_floats_and_missing_values() -> None:
    """A data frame makes floats of a column of whole numbers with a missing value, and NaN of what is missing."""
    frame = pd.DataFrame([*ROWS, {"prompt": "1 :", "response": "2", "reward": 1.0, "group": 5.0, "step": 2.0}])
    assert frame["step"].dtype == float
    first, _, third = rollouts_of(frame)
    assert (first.step, first.group, first.response_ids) == (2, 4, (9, 1))
    assert (third.group, third.response_ids, third.old_log_probs, third.advantage) == (5, None, None, None)
    with pytest.raises(UsageError, match=r"rollout 0, 'step': expected a whole number from 0, got 2.5"):
        rollouts_of([ROWS[0] | {"step": 2.5}])
    with pytest.raises(UsageError, match=r"rollout 2, 'group': expected a number or a string"):
        rollouts_of(pd.DataFrame([*ROWS, {"prompt": "1 :", "response": "2", "reward": 1.0, "step": 2}]))


def test_optional_columns_may_be_null_in_some_rows_or_in_all() -> None:
    names = ("advantage", "old_log_probs", "prompt_ids", "response_ids", "response_mask", "step", "group")
    empty = dict.fromkeys(names)
    (rollout,) = rollouts_of([{"prompt": "1 :", "response": "2", "reward": 1} | empty])
    assert (rollout.step, rollout.group, rollout.response_mask) == (0, None, None)
    some = [ROWS[0] | {"response_ids": None, "old_log_probs": None}, ROWS[1] | {"response": None}]
    first, second = rollouts_of(some)
    assert (first.response, first.response_ids, second.response, second.response_ids) == ("3", None, None, (10, 1))
    with pytest.raises(UsageError, match=r"rollout 1: the column 'response' is null"):
        rollouts_of([ROWS[0], ROWS[1] | {"response": None, "response_ids": None}])


def test_cells_of_a_csv_file(tmp_path: Any) -> None:
    path = tmp_path / "a.csv"
    pd.DataFrame(ROWS).assign(reward=[True, False]).to_csv(path, index=False)
    expected = [
        replace(rollout, where=f"a.csv line {i}", group="4", file="a.csv", row=i)
        for i, rollout in enumerate(rollouts_of(ROWS), start=2)
    ]
    assert rollouts_of(path) == expected
    chat = [{"role": "user", "content": "it's 1"}]
    pd.DataFrame([{"prompt": chat, "response": "12", "reward": "0.5"}]).to_csv(path, index=False)
    (rollout,) = rollouts_of(path)
    assert (rollout.prompt, rollout.response, rollout.reward) == (chat, "12", 0.5)


def test_asking_what_a_container_is_imports_no_library() -> None:
    code = (
        "import sys\nfrom analysis.offline import read_rollouts\n"
        "read_rollouts([{'prompt': 'a', 'response': 'b', 'reward': 1}])\n"
        "assert not {'datasets', 'polars', 'pandas', 'torch'} & set(sys.modules), sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
