"""What counts as finished in a trace, and what a verifier sees of a response that ends in one of several ways."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from analysis import UsageError, trace_rollouts
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


@pytest.mark.parametrize("pad", ["<pad>", "<eos>"])
def test_padding_after_a_response_is_not_traced(tmp_path: Path, ids: Any, pad: str) -> None:
    texts = (f"2<end>{pad * 3}", f"2<eos>{pad}", f"12{pad * 2}" if pad == "<pad>" else "12", "2<eos><eos>")
    rows = [{"prompt": "1+1=", "response_ids": ids(text), "answer": "2"} for text in texts]
    run = traced(tmp_path, rows)
    table = run.table("rollouts")
    assert table["finished"].tolist() == [True, True, False, True]
    assert table["reward"].tolist() == [1, 1, 0, 1]
    assert run.table("tokens").groupby("rollout").size().tolist() == [2, 2, 2, 2]
    assert "responses are filled up with padding, which is not traced" in run.info["trace"]["notes"][0]


def test_values_of_padded_responses_are_those_of_their_tokens(tmp_path: Path, ids: Any) -> None:
    row = {"prompt": "1+1=", "response_ids": ids("2<end><pad>"), "answer": "2", "old_log_probs": [-1.0, -2.0, 0.0]}
    tokens = traced(tmp_path, [row]).table("tokens")
    assert tokens["old_log_prob"].tolist() == [-1.0, -2.0]


def test_the_last_token_of_the_policy_says_whether_it_ended(tmp_path: Path, ids: Any) -> None:
    """A tool's output, or padding, after the end token is not the policy's."""
    rows = [
        {"prompt": "1+1=", "response_ids": ids("2<end>99"), "response_mask": [1, 1, 0, 0], "answer": "2"},
        {"prompt": "1+1=", "response_ids": ids("2<end>99"), "response_mask": [1, 1, 1, 1], "answer": "2"},
    ]
    assert traced(tmp_path, rows).table("rollouts")["finished"].tolist() == [True, False]


def test_padding_before_a_prompt_is_taken_off(tmp_path: Path, ids: Any) -> None:
    rows = [{"prompt_ids": ids(f"{'<pad>' * n}1+1="), "response_ids": ids("2<end>"), "answer": "2"} for n in (0, 3)]
    run = traced(tmp_path, rows)
    assert run.rows("prompts") == 1
    log_probs = run.table("tokens")["log_prob"].to_numpy()
    assert log_probs[:2].tolist() == pytest.approx(log_probs[2:].tolist(), abs=1e-5)
    assert run.info["trace"]["notes"] == ["1 of 2 prompts began with padding, which was taken off."]


@pytest.mark.parametrize("side", ["prompt", "response"])
def test_padding_alone_is_refused(tmp_path: Path, ids: Any, side: str) -> None:
    row = {"prompt_ids": ids("1"), "response_ids": ids("2"), "answer": "2"} | {f"{side}_ids": ids("<pad><pad>")}
    with pytest.raises(UsageError, match=rf"rollouts: rollout 0: expected a {side}, got padding alone"):
        traced(tmp_path, [row])
