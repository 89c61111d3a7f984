"""The one builder of rows: every column of its tables has a field, and what is described comes back from a folder."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch

from analysis.errors import UsageError
from analysis.laws import dense_statistics
from analysis.records import (
    PromptRow,
    RolloutRow,
    Run,
    RunWriter,
    TokenColumns,
    prompt_rows,
    rollout_rows,
    statistics_columns,
    token_rows,
)
from analysis.records.schema import TABLES, TOKEN_STATISTICS
from tests.records.rows import RUN_JSON

FILLED_IN = {
    "prompts": (PromptRow, set()),
    "rollouts": (RolloutRow, set()),
    "tokens": (TokenColumns, set(TOKEN_STATISTICS)),
}


@pytest.mark.parametrize("table", FILLED_IN)
def test_every_column_has_a_field_and_every_field_a_column(table):
    row, filled_in = FILLED_IN[table]
    names = {item.name for item in fields(row)} - {"statistics"}
    assert names | filled_in == set(TABLES[table].names)
    assert not names & filled_in


def described(n: int = 3):
    logits = torch.randn(n, 7, generator=torch.Generator().manual_seed(0))
    tokens = torch.arange(n)
    stats = dense_statistics(logits, tokens, top_k=2, rank=True)
    prompt = PromptRow(prompt_id="p", split="train", text="a b", token_ids=(1, 2))
    rollout = RolloutRow(
        step=0, rollout=4, prompt_id="p", group=1, response_ids=[0, 1, 2], response_text="x", finished=True, reward=1.0
    )
    columns = TokenColumns(
        step=0,
        update=5,
        rollout=np.full(n, 4),
        position=np.arange(n),
        token=tokens.numpy(),
        statistics=statistics_columns(stats),
        weight=np.array([0.5, -1.0, 0.0]),
        residual=np.array([0.0, np.nan, 0.25]),
    )
    return stats, prompt, rollout, columns


def test_what_was_described_is_read_back(tmp_path):
    stats, prompt, rollout, columns = described()
    writer = RunWriter(tmp_path, run_json=RUN_JSON)
    writer.append("prompts", prompt_rows([prompt]))
    writer.append("rollouts", rollout_rows([rollout]))
    writer.append("tokens", token_rows(columns))
    writer.commit(1, {})
    run = Run(tmp_path)
    assert run.table("prompts")["token_ids"][0].tolist() == [1, 2]
    assert run.table("prompts")["answer"].isna().all()
    stored = run.table("rollouts").iloc[0]
    assert (stored["length"], stored["reward"], stored["rank"]) == (3, 1.0, 0)
    assert np.isnan(stored["advantage"])
    assert run.table("rollouts")["correct"].isna().all()
    tokens = run.table("tokens")
    assert tokens["update"].tolist() == [5, 5, 5]
    assert tokens["weight"].tolist() == [0.5, -1.0, 0.0]
    assert tokens["residual"].isna().tolist() == [False, True, False]  # a residual of nothing is missing
    assert run.table("tokens", ["residual"], as_="arrow").column("residual").null_count == 1
    for name in TOKEN_STATISTICS:
        np.testing.assert_array_equal(np.stack(tokens[name].tolist()), getattr(stats, name).numpy())


def test_no_rows_are_rows_of_no_length(tmp_path):
    writer = RunWriter(tmp_path, run_json=RUN_JSON)
    writer.append("prompts", prompt_rows([]))
    writer.append("rollouts", rollout_rows([]))
    writer.commit(1, {})
    assert Run(tmp_path).rows("rollouts") == 0


def test_statistics_that_were_not_computed_are_left_out():
    stats = dense_statistics(torch.zeros(1, 4), torch.tensor([0]))
    assert set(statistics_columns(stats)) == set(TOKEN_STATISTICS) - {"token_rank", "top_ids", "top_probs"}


def test_a_missing_statistic_is_refused_by_name(tmp_path):
    *_, columns = described()
    writer = RunWriter(tmp_path, run_json=RUN_JSON)
    fewer = {name: values for name, values in columns.statistics.items() if name != "entropy"}
    columns = TokenColumns(
        **{item.name: getattr(columns, item.name) for item in fields(columns)} | {"statistics": fewer}
    )
    with pytest.raises(UsageError, match="expected the columns entropy"):
        writer.append("tokens", token_rows(columns))
