"""What counts as finished in a trace, and what a verifier sees of a response that ends in one of several ways."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from analysis import trace_rollouts
from tests.offline.byte_models import byte_tokenizer, small_model


def traced(folder: Path, rows: Any, **options: Any) -> Any:
    tokenizer = byte_tokenizer()
    model = small_model(len(tokenizer))
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<end>")]
    return trace_rollouts(model, tokenizer, rows, out=folder, verifier="exact", **options)


@pytest.fixture
def ids() -> Any:
    tokenizer = byte_tokenizer()
    return lambda text: tokenizer.encode(text, add_special_tokens=False)


def test_of_token_ids(tmp_path: Path, ids: Any) -> None:
    texts = ("2<end>", "2<eos>", "3<end>", "2", "<end>2<end>", "2<end>2")
    rows = [{"prompt": "1+1=", "response_ids": ids(text), "answer": "2"} for text in texts]
    table = traced(tmp_path, rows).table("rollouts")
    assert table["finished"].tolist() == [True, True, True, False, True, False]
    assert table["reward"].tolist() == [1, 1, 0, 0, 1, 0]


def test_an_end_token_that_is_no_special_token_is_not_judged(tmp_path: Path, ids: Any) -> None:
    tokenizer = byte_tokenizer()
    model = small_model(len(tokenizer))
    model.generation_config.eos_token_id = ids("!")
    rows = [{"prompt": "1+1=", "response_ids": ids("2!"), "answer": "2"}]
    run = trace_rollouts(model, tokenizer, rows, out=tmp_path, verifier="exact")
    assert run.table("rollouts")["reward"].tolist() == [1]
    assert run.info["trace"]["end_tokens"] == {"<eos>": tokenizer.eos_token_id, "!": ids("!")[0]}


def test_of_texts(tmp_path: Path) -> None:
    rows = [{"prompt": "1+1=", "response": text, "answer": "2"} for text in ("2<end>", "2", "3<end>")]
    table = traced(tmp_path, rows).table("rollouts")
    assert table["reward"].tolist() == [1, 1, 0]  # of a text without an end token nobody knows whether it ended
    assert table["finished"].tolist() == [True, False, True]


def test_eos_is_added_where_there_is_no_end_token_yet(tmp_path: Path, ids: Any) -> None:
    rows = [{"prompt": "1+1=", "response": text, "answer": "2"} for text in ("2<end>", "2", "2<eos>")]
    table = traced(tmp_path, rows, eos=True).table("rollouts")
    assert [row.tolist() for row in table["response_ids"]] == [ids("2<end>"), ids("2<eos>"), ids("2<eos>")]
    assert table["finished"].all()
