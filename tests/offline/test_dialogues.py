"""Dialogues of several turns: the tokens of the whole in the chat template, and which of them the policy wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from analysis import UsageError
from analysis.offline import read_rollouts, trace_rollouts
from tests.offline.small import WORDS, make_model
from toy_models.tasks.tokenizer import word_tokenizer

TURNS = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} $ {% endfor %}"
TEMPLATE = TURNS + "{% if add_generation_prompt %}assistant {% endif %}"
PROMPT = [{"role": "user", "content": "1 + 2"}]
DIALOGUE: list[dict[str, Any]] = [
    {"role": "assistant", "content": "4 5"},
    {"role": "tool", "content": "6"},
    {"role": "assistant", "content": "7"},
    {"role": "user", "content": "8"},
    {"role": "assistant", "content": "9 10 11"},
]


def tokenizer_with(template: str) -> Any:
    tokenizer = word_tokenizer([*WORDS, "tool"], pad="<pad>", eos="$")
    tokenizer.chat_template = template
    return tokenizer


def traced(tmp_path: Path, row: dict[str, Any], *, template: str = TEMPLATE, **options: Any) -> tuple[Any, list[str]]:
    """The run, and the words of the policy's tokens."""
    tokenizer = tokenizer_with(template)
    run = trace_rollouts(
        make_model(vocab=len(WORDS) + 1), tokenizer, [row], out=tmp_path / "run", chat_template=True, **options
    )
    return run, tokenizer.convert_ids_to_tokens(run.table("tokens")["token"].tolist())


ROW = {"messages": [*PROMPT, *DIALOGUE], "reward": 1.0}


def test_tokens_are_those_of_the_whole_dialogue(tmp_path: Path) -> None:
    run, own = traced(tmp_path, ROW)
    assert own == ["4", "5", "7", "9", "10", "11"]
    tokenizer = tokenizer_with(TEMPLATE)
    whole = tokenizer.apply_chat_template([*PROMPT, *DIALOGUE], tokenize=False)
    ids = tokenizer.encode(whole, add_special_tokens=False)
    prompt = run.table("prompts")["token_ids"][0].tolist()
    response = run.table("rollouts")["response_ids"][0].tolist()
    assert [*prompt, *response, tokenizer.eos_token_id] == ids
    positions = run.table("tokens")["position"].tolist()
    assert [response[i] for i in positions] == run.table("tokens")["token"].tolist()
    notes = " ".join([*run.info["trace"]["notes"], *run.info["trace"]["file"]["notes"]])
    assert "1 responses are dialogues of several turns in the chat template" in notes
    assert run.info["trace"]["file"]["tokens_of_others"] == len(response) - 6


def test_end_tokens_are_the_policys_where_responses_end_with_them(tmp_path: Path) -> None:
    run, own = traced(tmp_path, ROW, eos=True)
    assert own == ["4", "5", "$", "7", "$", "9", "10", "11", "$"]
    assert run.table("rollouts")["finished"].tolist() == [True]


def test_turns_of_weight_zero_are_context(tmp_path: Path) -> None:
    turns = [dict(turn) for turn in DIALOGUE]
    turns[2]["weight"] = 0
    _, own = traced(tmp_path, {"messages": [*PROMPT, *turns], "reward": 1.0})
    assert own == ["4", "5", "9", "10", "11"]
    turns[0]["weight"] = 0
    (rollout,) = read_rollouts([{"messages": [*PROMPT, *turns], "reward": 1.0}]).rollouts
    assert (rollout.prompt, rollout.response) == ([*PROMPT, *turns[:4]], "9 10 11")


def test_prompt_and_completion_as_messages(tmp_path: Path) -> None:
    row = {"prompt": PROMPT, "completion": [*DIALOGUE, {"role": "tool", "content": "1"}], "reward": 1.0}
    _, own = traced(tmp_path, row)
    assert own == ["4", "5", "7", "9", "10", "11"]


def test_users_turns_alone_need_the_format(tmp_path: Path) -> None:
    row = {"messages": [*PROMPT, *DIALOGUE[2:]], "reward": 1.0}
    assert read_rollouts([row]).rollouts[0].response == "9 10 11"
    _, own = traced(tmp_path, row, format="dialogue")
    assert own == ["7", "9", "10", "11"]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            "{% for m in messages %}{{ m['role'] }} {{ m['content'] if loop.last else '' }} $ {% endfor %}"
            "{% if add_generation_prompt %}assistant {% endif %}",
            r"rollout 0: the chat template writes a turn otherwise once others follow",
        ),
        (TURNS + "{% if add_generation_prompt %}assistant : {% endif %}", r"or otherwise than it opens one: ': "),
    ],
)
def test_a_template_that_changes_what_was_written(tmp_path: Path, template: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        traced(tmp_path, ROW, template=template)


def test_a_template_that_leaves_out_what_the_policy_wrote(tmp_path: Path) -> None:
    turns = [dict(turn) for turn in DIALOGUE]
    turns[2]["reasoning_content"] = "12"
    with pytest.raises(
        UsageError, match=r"the chat template leaves out the reasoning of a turn of the assistant: '12'"
    ):
        traced(tmp_path, {"messages": [*PROMPT, *turns], "reward": 1.0})


def test_without_a_template_or_a_beginning(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"ask for the tokenizer's template with chat_template"):
        trace_rollouts(make_model(vocab=len(WORDS) + 1), tokenizer_with(TEMPLATE), [ROW], out=tmp_path / "run")
    with pytest.raises(
        UsageError, match=r"'response': expected a response that begins with a message of the assistant"
    ):
        read_rollouts([{"prompt": PROMPT, "response": DIALOGUE[1:], "reward": 1.0}])
    with pytest.raises(UsageError, match=r"expected a prompt that ends before the first turn of the response"):
        traced(tmp_path, {"prompt": [*PROMPT, DIALOGUE[0]], "response": DIALOGUE, "reward": 1.0})
