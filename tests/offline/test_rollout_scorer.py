"""A scorer gives row by row what a trace records; alone, and inside Ray Data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis import UsageError, trace_rollouts
from analysis.offline import RolloutScorer
from tests.local_ray import local_ray
from tests.offline.small import make_model, make_tokenizer, rows_of, save

EVERY = ("log_prob", "one_minus_prob", "entropy", "collision", "collision_log_prob", "direction_norm", "argmax_token")
EVERY += ("argmax_prob", "token_rank", "bucket_mass", "bucket_mass_sq", "top_ids", "top_probs")


def scorer(**options: Any) -> RolloutScorer:
    return RolloutScorer(make_model(), make_tokenizer(), **options)


def columns_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {name: [row[name] for row in rows] for name in rows[0]}


def check(table: Any, tmp_path: Path, rows: list[dict[str, Any]], names: tuple[str, ...] = EVERY) -> None:
    """Against the records of a trace of the same rows."""
    run = trace_rollouts(make_model(), make_tokenizer(), rows, out=tmp_path)
    tokens = run.table("tokens", as_="arrow").to_pandas()
    for index, row in enumerate(table.to_pylist()):
        expected = tokens[tokens["rollout"] == index]
        assert row["token"] == expected["token"].tolist()
        assert row["position"] == expected["position"].tolist()
        assert row["length"] == len(expected)
        for name in names:
            got, wanted = np.array(row[name]), np.stack(expected[name].to_list())
            np.testing.assert_allclose(got, wanted, rtol=3e-5, atol=1e-6, err_msg=name)
        assert row["sum_log_prob"] == pytest.approx(expected["log_prob"].sum(), rel=1e-5)
        assert row["mean_entropy"] == pytest.approx(expected["entropy"].mean(), rel=1e-5)


@pytest.mark.parametrize(
    "form", [columns_of, pa.Table.from_pylist, pd.DataFrame, lambda rows: pd.DataFrame(rows).to_dict("series")]
)
def test_the_statistics_are_those_of_a_trace(tmp_path: Path, form: Any) -> None:
    rows = rows_of()
    table = scorer(statistics=EVERY)(form(rows))
    assert table.column_names[:3] == ["prompt", "response", "reward"]
    assert table.column("response").to_pylist() == [row["response"] for row in rows]
    check(table, tmp_path, rows)


def test_numpy_batches_of_token_ids_and_masks(tmp_path: Path) -> None:
    ids, masks = np.empty(2, dtype=object), np.empty(2, dtype=object)
    ids[:] = [np.array([9, 10, 1]), np.array([7, 8])]
    masks[:] = [np.array([1, 0, 1]), np.array([1, 1])]
    batch = {"prompt": np.array(["1 + 2 :", "3 :"]), "response_ids": ids, "response_mask": masks}
    table = scorer(prefix="model_")(batch)
    assert table.column("model_position").to_pylist() == [[0, 2], [0, 1]]
    assert table.column("model_token").to_pylist() == [[9, 1], [7, 8]]
    rows = [{name: column[i] for name, column in batch.items()} for i in range(2)]
    assert table.column("model_length").to_pylist() == [2, 2]
    tokens = trace_rollouts(make_model(), make_tokenizer(), rows, out=tmp_path).table("tokens")
    got = [x for row in table.column("model_log_prob").to_pylist() for x in row]
    np.testing.assert_allclose(got, tokens["log_prob"], rtol=3e-5, atol=1e-6)


def test_rows_that_cannot_be_used_are_null_where_that_is_asked_for() -> None:
    rows = [*rows_of(3), {"prompt": "1 :", "response": "2 " * 70, "reward": 0.0}]
    with pytest.raises(UsageError, match=r"rollout 3: prompt and response have 2 and 70 tokens, more than"):
        scorer()(rows_table := pa.Table.from_pylist(rows))
    table = scorer(skip_bad=True)(rows_table)
    assert table.column("length").is_null().to_pylist() == [False, False, False, True]
    assert table.column("log_prob").to_pylist()[3] is None


def test_an_empty_batch_has_the_same_columns() -> None:
    one = scorer()
    full = pa.Table.from_pylist(rows_of(2))
    assert one(full.slice(0, 0)).schema == one(full).schema


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"statistics": ["logprob"]}, r"statistics: expected some of log_prob, .*, got 'logprob'"),
        ({"columns": {"reward": "score"}}, r"columns: expected roles among prompt, .*, got 'reward'"),
        ({"temperature": 0.0}, r"temperature: expected a positive number, got 0.0"),
        ({"batch_tokens": 0}, r"batch_tokens: expected at least 1, got 0"),
    ],
)
def test_settings_that_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        scorer(**options)


def test_what_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"tokenizer: expected that of the loaded model, got None"):
        RolloutScorer(make_model())
    with pytest.raises(UsageError, match=r"dtype: expected one of float32, .*, got 'int8'"):
        RolloutScorer(save(tmp_path), dtype="int8")
    with pytest.raises(UsageError, match=r"model: expected"):
        RolloutScorer(str(tmp_path / "nowhere"))
    one = scorer()
    with pytest.raises(UsageError, match=r"batch: expected no column 'entropy', which the scorer adds"):
        one(columns_of([row | {"entropy": 1.0} for row in rows_of(2)]))
    with pytest.raises(UsageError, match=r"expected one response a row, got more responses than rows"):
        one({"prompt": ["1 :", "2 :"], "responses": [["3", "4"], ["5", "6"]]})
    with pytest.raises(
        UsageError, match=r"batch: expected a dict of columns, an Arrow table or a data frame, got list"
    ):
        one(rows_of(2))


@pytest.mark.slow  # starts a Ray of this machine
def test_inside_ray_data(tmp_path: Path) -> None:
    rows = [row | {"rollout": i} for i, row in enumerate(rows_of(24))]
    folder = save(tmp_path / "base")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rollouts.parquet")
    with local_ray():
        import ray

        scored = ray.data.read_parquet(str(tmp_path / "rollouts.parquet")).map_batches(
            RolloutScorer,
            fn_constructor_kwargs={"model": str(folder), "statistics": EVERY},
            batch_format="pyarrow",
            batch_size=10,
            concurrency=1,
        )
        scored.write_parquet(str(tmp_path / "scored"))
    table = pq.read_table(tmp_path / "scored").sort_by("rollout")
    assert table.column("rollout").to_pylist() == list(range(24))
    check(table, tmp_path / "run", rows)
