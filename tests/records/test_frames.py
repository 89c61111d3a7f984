"""Columns that follow from the records: all of them described, with units; the text of tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from analysis import UsageError
from analysis.records import Run, RunWriter, load_trace, write_experiment
from analysis.records.frames import FRAMES, TOKEN_TEXT
from analysis.records.schema import TABLES
from tests.records.rows import RUN_JSON, some_rows
from tests.records.test_effects import table_run, write_tokens
from toy_models.tasks.tokenizer import word_tokenizer


def a_run(folder: Path) -> Run:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(12, 9, generator=generator, dtype=torch.float64)
    return write_tokens(folder, logits, torch.arange(12) % 9, torch.ones(12))


def test_laws_have_the_columns_of_the_token_and_units(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    laws, tokens = run.laws(), run.table("tokens")
    single = [c.name for c in TABLES["tokens"].columns if c.kind not in ("ints", "floats")]
    assert list(laws.columns) == [*single, TOKEN_TEXT.name, *(c.name for c in FRAMES["laws"].columns)]
    for name in single:
        np.testing.assert_array_equal(laws[name].isna(), tokens[name].isna())
        if name != "weight":  # float64 in laws
            pd.testing.assert_series_equal(laws[name], tokens[name])
    units = laws.attrs["units"]
    assert units["entropy"] == "nats"
    assert units["dentropy"] == "nats per unit logit step"
    assert "collision" not in units


def test_every_column_of_a_derived_frame_is_described(tmp_path: Path) -> None:
    run = table_run(tmp_path, updates=2)
    flows = run.flows()
    stored = {name for table in ("flows", "contexts") for name in TABLES[table].names}
    described = {column.name for column in FRAMES["flows"].columns}
    assert set(flows.columns) == {n for n in stored if not n.startswith("top_")} | described | {TOKEN_TEXT.name}
    assert flows.attrs["units"]["dlog_prob"] == "nats"
    for name in ("prediction_summary", "shares_summary"):
        frame = getattr(run, name)()
        assert list(frame.columns) == [column.name for column in FRAMES[name].columns]
        assert frame.attrs["units"] == {c.name: c.unit for c in FRAMES[name].columns if c.unit}
    assert all(column.doc for frame in FRAMES.values() for column in frame.columns)
    assert all(set(frame.key) <= set(run_columns(run, name)) for name, frame in FRAMES.items() if name != "laws")


def run_columns(run: Run, name: str) -> list[str]:
    return list(getattr(run, name)().columns)


def test_text_of_tokens_from_recorded_words(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path, run_json=RUN_JSON)
    prompts = some_rows("prompts", 2, seed=0) | {"text": ["go up", "no"], "token_ids": [[4, 7], [1, 2]]}
    writer.append("prompts", prompts)
    writer.append("tokens", some_rows("tokens", 3, seed=0) | {"token": [7, 1, 4]})
    writer.commit(1, {})
    run = Run(tmp_path)
    frame = run.table("tokens")
    assert frame["token_text"].isna().tolist() == [False, True, False]
    assert frame["token_text"].dropna().tolist() == ["up", "go"]
    assert run.table("tokens", ["token_text"]).columns.tolist() == ["token_text"]
    assert run.table("tokens", ["token_text", "step"], as_="arrow").column_names == ["token_text", "step"]
    assert "token_text" not in run.table("tokens", as_="arrow").column_names  # arrow and digests hold what is stored
    with pytest.raises(UsageError, match="expected stored columns for DuckDB, got token_text; choose pandas or arrow"):
        run.table("tokens", ["token_text"], as_="duckdb")
    with pytest.raises(UsageError, match="prompts has no column 'token_text'"):
        run.table("prompts", ["token_text"])


@pytest.mark.parametrize("place", ["checkpoints/final", "."])
def test_text_of_tokens_by_the_tokenizer_in_the_folder(tmp_path: Path, place: str) -> None:
    run = a_run(tmp_path)
    tokenizer = word_tokenizer(["<pad>", "$", "up", "down"], pad="<pad>", eos="$")
    (tmp_path / place).mkdir(parents=True, exist_ok=True)
    tokenizer.backend_tokenizer.save(str(tmp_path / place / "tokenizer.json"))
    laws = Run(run.folder).laws()
    assert laws["token_text"].iloc[:4].tolist() == ["<pad>", "$", "up", "down"]
    assert laws["token_text"].iloc[4:9].isna().all()  # ids that the tokenizer does not have


def test_an_experiment_has_the_text_of_each_run(tmp_path: Path) -> None:
    runs = [{"run_id": name, "label": name.upper(), "seed": 0} for name in ("psr-s0", "nsr-s0")]
    write_experiment(tmp_path, name="x", recipe={}, hash="h", runs=runs, versions={})
    for number, run in enumerate(runs):
        writer = RunWriter(tmp_path / run["run_id"], run_json=RUN_JSON | run)
        writer.append("prompts", some_rows("prompts", 1, seed=0) | {"text": [f"word{number}"], "token_ids": [[5]]})
        writer.append("tokens", some_rows("tokens", 1, seed=0) | {"token": [5]})
        writer.commit(1, {})
    frame = load_trace(tmp_path).table("tokens")
    assert frame["token_text"].tolist() == ["word0", "word1"]
    assert frame.attrs["units"]["log_prob"] == "nats"
