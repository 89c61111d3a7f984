"""Text as tokens: as it stands, prompt and response apart; ids as they are; and what the model cannot take."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from analysis import UsageError
from analysis.offline import TraceSettings, read_rollouts
from analysis.offline.tokenization import Encoded, ModelLimits, encode_rollouts
from tests.offline.small import VOCAB, make_tokenizer
from toy_models.tasks.tokenizer import word_tokenizer

LIMITS = ModelLimits(VOCAB, 64)
ROW = {"prompt": "1 + 2 :", "response": "3", "reward": 1.0}


def encode(
    rows: Any,
    tokenizer: Any = None,
    limits: ModelLimits = LIMITS,
    *,
    skip: bool = False,
    columns: Any = None,
    **settings: Any,
) -> list[Encoded]:
    file = read_rollouts(rows, columns=columns, skip_bad=skip)
    bad = file.bad
    return encode_rollouts(
        file.rollouts, tokenizer or make_tokenizer(), limits, TraceSettings(**settings), file.columns, bad
    )


def test_text_is_encoded_as_it_stands_prompt_and_response_apart() -> None:
    tokenizer = make_tokenizer()
    (item,) = encode([ROW])
    assert item.prompt.tolist() == tokenizer.encode("1 + 2 :")
    assert item.response.tolist() == tokenizer.encode("3")  # no end token
    assert item.finished is None
    (ended,) = encode([ROW], eos=True)
    assert ended.response.tolist() == [*tokenizer.encode("3"), tokenizer.eos_token_id]
    assert ended.finished is True


def test_template_on_request_alone() -> None:
    tokenizer = make_tokenizer(template=True)
    chat = [{"role": "user", "content": "1 + 2"}]
    (item,) = encode([ROW | {"prompt": chat}], tokenizer, chat_template=True)
    assert item.prompt_text == "user 1 + 2 assistant :"
    assert item.question == "1 + 2"
    (plain,) = encode([ROW], tokenizer)
    assert plain.prompt_text == ROW["prompt"]
    with pytest.raises(UsageError, match=r"rollout 0: the prompt is a list of chat messages; .*--chat-template"):
        encode([ROW | {"prompt": chat}], tokenizer)
    with pytest.raises(UsageError, match=r"chat_template: expected a tokenizer with a chat template"):
        encode([ROW], chat_template=True)


def test_ids_of_the_file_are_used_as_they_are() -> None:
    (item,) = encode([ROW | {"response_ids": [9, 1]}])  # "3 $", though the text reads "3"
    assert item.response.tolist() == [9, 1]
    assert item.finished is True
    assert item.response_text == "3"
    (item,) = encode([{"prompt_ids": [7, 3, 8, 2], "response_ids": [9], "reward": 0}])
    assert (item.prompt.tolist(), item.prompt_text, item.response_text) == ([7, 3, 8, 2], "1 + 2 :", "3")
    assert item.finished is False


def test_groups_by_column_or_by_prompt_within_a_step() -> None:
    rows = [ROW | {"prompt": f"{p} :", "step": s} for s, p in ((0, 1), (0, 2), (0, 1), (1, 2), (1, 1), (1, 2))]
    assert [item.group for item in encode(rows)] == [0, 1, 0, 0, 1, 0]
    named = [ROW | {"group": name} for name in ("b", "a", "b", "c")]
    assert [item.group for item in encode(named)] == [0, 1, 0, 2]
    with pytest.raises(UsageError, match=r"group: rollout 0 and rollout 1 are of the group 'a' and have different"):
        encode([ROW | {"group": "a"}, ROW | {"group": "a", "prompt": "2 :"}])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"response_ids": [3, VOCAB]},
            rf"the response has the token {VOCAB}, outside the vocabulary of .* \(0 to 28\)",
        ),
        ({"prompt_ids": [VOCAB]}, rf"the prompt has the token {VOCAB}, outside the vocabulary"),
        ({"response": "3 what"}, r"the tokenizer cannot encode '3 what'|UNK"),
        ({"response": " "}, r"expected at least one token, got none from the tokenizer for ' '"),
        ({"prompt": " "}, r"expected a prompt in .prompt., got an empty one"),
        ({"prompt": "1 " * 60, "response": "2 " * 6}, r"prompt and response have 60 and 6 tokens, more than the .* 64"),
        ({"old_log_probs": [-1.0, -1.0]}, r"old_log_probs has 2 numbers for 1 response tokens"),
        ({"advantage": [-1.0, -1.0]}, r"advantage has 2 numbers for 1 response tokens"),
    ],
)
def test_rows_that_the_model_cannot_take(row: Any, message: str) -> None:
    with pytest.raises(UsageError, match=f"rollouts: rollout 0.*({message})"):
        encode([ROW | row])
    both = [
        ROW | row,
        {
            **ROW,
            **{
                name: {"prompt_ids": [7], "response_ids": [9], "advantage": [1.0], "old_log_probs": [-1.0]}.get(
                    name, ROW.get(name)
                )
                for name in row
            },
        },
    ]
    assert [item.rollout.index for item in encode(both, skip=True)] == [1]


def test_the_longest_rollout_that_fits() -> None:
    (item,) = encode([ROW | {"prompt": "1 " * 60, "response": "2 " * 5}])
    assert item.length == 64


def test_nothing_left() -> None:
    with pytest.raises(
        UsageError, match=r"no row is left that the model can take; the first: rollout 0: expected at least"
    ):
        encode([ROW | {"response": " "}], skip=True)


def test_tokenizers_that_do_not_match() -> None:
    with pytest.raises(UsageError, match=r"tokenizer: it has 29 tokens, but the model embeds only 20; they do not"):
        encode([ROW], limits=ModelLimits(20, 64))
    other = word_tokenizer(["<pad>", "$", *(str(n) for n in range(27))], pad="<pad>", eos="$")
    rows = [ROW | {"prompt": "1 2", "response": f"{n} {n + 1}", "response_ids": [6 + n, 7 + n]} for n in range(4)]
    encode(rows)
    with pytest.raises(
        UsageError,
        match=r"tokenizer: it does not match the token ids of the rollouts: those of rollout"
        r" 0 read '4 5', their text is '0 1'",
    ):
        encode(rows, other)
    no_end = make_tokenizer()
    no_end.eos_token = None
    with pytest.raises(UsageError, match=r"eos: the tokenizer has no end token"):
        encode([ROW], no_end, eos=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, r"temperature: expected a positive number, got 0.0"),
        ({"top_k": -1}, r"top_k: expected a number of tokens, 0 for none, got -1"),
        ({"threshold": float("nan")}, r"threshold: expected a finite number, got nan"),
    ],
)
def test_settings_out_of_range(settings: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TraceSettings(**settings)


def test_lengths_are_those_of_the_arrays() -> None:
    (item,) = encode([ROW])
    assert item.length == len(item.prompt) + len(item.response) - 1
    assert item.prompt.dtype == np.int64
