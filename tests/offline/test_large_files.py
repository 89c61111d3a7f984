"""A file of more rollouts than memory holds: reading, encoding and tracing walk through it."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis.offline import forward, read_rollouts
from analysis.offline.objective_requirements import check_inputs_of, parse_objectives
from analysis.offline.tokenization import ModelLimits, encode_rollouts
from analysis.offline.trace_identity import trace_digest
from analysis.offline.trace_notes import file_facts, reward_scheme
from analysis.offline.trace_settings import TraceSettings
from tests.offline.small import VOCAB, make_tokenizer
from toy_models import spooled

TOKENS = 400  # of a response: 13 kB as Python integers above 256, 3 kB as they are here and in an array


def write(path: Path, rows: int) -> Path:
    """Rollouts of four to a prompt."""
    generator = np.random.default_rng(0)
    with path.open("w") as file:
        for index in range(rows):
            prompt = [6 + index // 4 % 20, 7 + index // 80 % 20]
            response = generator.integers(6, VOCAB, TOKENS).tolist()
            row = json.dumps({"prompt_ids": prompt, "response_ids": response, "reward": index % 2})
            file.write("[" * (path.suffix == ".json" and not index) + row)
            file.write("\n" if path.suffix != ".json" else ",\n" if index < rows - 1 else "]")
    if path.suffix == ".parquet":
        table = pa.Table.from_pylist([json.loads(line) for line in path.read_text().splitlines()])
        pq.write_table(table, path, row_group_size=16)
    return path


def peak_of(path: Path) -> int:
    """The greatest number of bytes that were allocated while a file was prepared and walked through."""
    tokenizer = make_tokenizer()
    tracemalloc.start()
    try:
        file = read_rollouts(path)
        plain = TraceSettings(file.columns)
        items = encode_rollouts(file.rollouts, tokenizer, ModelLimits(VOCAB, None), plain, file.columns, file.bad)
        named = parse_objectives(["nsr-log"])
        check_inputs_of(named, items, plain, file)
        assert "of 4" in file_facts(file, items, named, plain, reward_scheme(items, plain, None))["notes"][2]
        trace_digest(items)
        assert sum(len(window) for _, window in forward.windows(items, 0, 100)) == len(items)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".json"])
def test_twice_as_many_rollouts_take_hardly_more_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.setattr(spooled, "BLOCK", 16)
    monkeypatch.setattr("toy_models.table_formats._BATCH", 16)
    monkeypatch.setattr("toy_models.table_formats._LONG", 1)
    monkeypatch.setattr("toy_models.json_arrays.CHUNK", 4096)
    few, many = (peak_of(write(tmp_path / f"{rows}{suffix}", rows)) for rows in (300, 600))
    held = 300 * TOKENS * 8  # what 300 responses take as arrays alone
    assert many - few < held / 3, (few, many)


def test_prompts_that_come_again_are_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analysis.offline.tokenization._PROMPTS", 2)
    tokenizer = make_tokenizer()
    tokenizer.pad_token = "<pad>"
    rows = [{"prompt_ids": [0, 6 + i % 5], "response_ids": [8, 1], "reward": 1} for i in range(20)]
    file, notes = read_rollouts(rows), list[str]()
    settings = TraceSettings(file.columns)
    encode_rollouts(file.rollouts, tokenizer, ModelLimits(VOCAB, None), settings, file.columns, file.bad, notes=notes)
    assert "5 of 5 prompts began with padding, which was taken off." in notes
