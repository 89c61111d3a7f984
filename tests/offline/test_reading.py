"""Files of rollouts: what loads as it is, what is mapped, and every fault of a row by its line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis import UsageError
from analysis.offline import read_rollouts
from analysis.offline.columns import parse_mapping
from tests.offline.small import rows_of, write_jsonl

ROW = {"prompt": "1 + 2 :", "response": "3 $", "reward": 1.0}


def trl_table(rewards: dict[str, Any], *, chat: bool = False) -> pd.DataFrame:
    """As GRPOTrainer.log of TRL 1.16 writes it: the reward functions' columns, what they log, then the advantage."""
    prompts: list[Any] = ["1 + 2 :", "1 + 2 :"]
    completions: list[Any] = ["3", "4"]
    if chat:
        prompts = [[{"role": "user", "content": "1 + 2"}]] * 2
        completions = [[{"role": "assistant", "content": text}] for text in completions]
    return pd.DataFrame(
        {"step": [7, 7], "prompt": prompts, "completion": completions, **rewards, "advantage": [0.7, -0.7]}
    )


class TestLayouts:
    def test_own_columns(self, tmp_path: Path) -> None:
        rows = rows_of(8)
        file = read_rollouts(write_jsonl(tmp_path / "a.jsonl", rows))
        assert [r.reward for r in file.rollouts] == [row["reward"] for row in rows]
        assert [r.index for r in file.rollouts] == list(range(8))
        assert file.rollouts[3].where == "a.jsonl line 4"
        assert file.columns == {"prompt": "prompt", "response": "response", "reward": "reward"}

    @pytest.mark.parametrize("chat", [False, True])
    def test_trl_completions_table(self, tmp_path: Path, chat: bool) -> None:
        path = tmp_path / "completions_00007.parquet"
        trl_table({"accuracy_reward": [1.0, 0.0], "extracted": ["3", "4"]}, chat=chat).to_parquet(path)
        first, second = read_rollouts(path).rollouts
        assert (first.step, first.response, first.reward, first.advantage) == (7, "3", 1.0, 0.7)
        assert (second.response, second.reward) == ("4", 0.0)
        assert isinstance(first.prompt, list if chat else str)

    def test_several_reward_functions_are_not_guessed(self, tmp_path: Path) -> None:
        trl_table({"accuracy": [1.0, 0.0], "format": [0.5, 0.5]}).to_parquet(path := tmp_path / "a.parquet")
        file = read_rollouts(path)
        assert [(rollout.reward, rollout.advantage) for rollout in file.rollouts] == [(None, 0.7), (None, -0.7)]
        assert "(accuracy, format) and none was named" in " ".join(file.notes)
        with pytest.raises(UsageError, match=r"several columns of numbers that may be the reward \(accuracy, format\)"):
            read_rollouts(path, columns={"advantage": "-"})
        assert read_rollouts(path, columns={"reward": "format"}).rollouts[0].reward == 0.5
        for total in ("2*accuracy + format", {"accuracy": 2, "format": 1}):
            assert [rollout.reward for rollout in read_rollouts(path, columns={"reward": total}).rollouts] == [2.5, 0.5]

    @pytest.mark.parametrize("names", [("output", "rewards"), ("responses", "scores")])
    def test_lists_of_responses_have_lists_of_rewards(self, names: tuple[str, str]) -> None:
        response, reward = names
        file = read_rollouts([{"prompt": "1 + 2 :", response: ["3", "4"], reward: [1.0, 0.0]}])
        assert [(rollout.response, rollout.reward) for rollout in file.rollouts] == [("3", 1.0), ("4", 0.0)]

    def test_negative_token_ids_are_named(self) -> None:
        rows = [{"prompt": "1 + 2 :", "response_ids": [-100, 3], "reward": 1.0}]
        with pytest.raises(UsageError, match="rollout 0, 'response_ids': expected token ids from 0 on, got -100"):
            read_rollouts(rows)

    def test_verl_rollout_dump(self, tmp_path: Path) -> None:
        row = {"input": "1 + 2 :", "output": "3", "gts": "3", "score": -1.0, "step": 5, "acc": False, "request_id": "x"}
        file = read_rollouts(write_jsonl(tmp_path / "5.jsonl", [row]))
        (rollout,) = file.rollouts
        assert (rollout.prompt, rollout.response, rollout.reward, rollout.step) == ("1 + 2 :", "3", -1.0, 5)
        (rollout,) = read_rollouts(tmp_path / "5.jsonl", with_answers=True).rollouts
        assert (rollout.answer, rollout.reward) == ("3", None)

    def test_mapped_columns_nested_ones_too(self, tmp_path: Path) -> None:
        rows = [{"question": "1 :", "out": {"text": "2"}, "scores": {"math": True}, "uid": "a"}]
        mapping = parse_mapping("prompt=question,response=out.text,reward=scores.math,group=uid")
        (rollout,) = read_rollouts(write_jsonl(tmp_path / "a.jsonl", rows), columns=mapping).rollouts
        assert (rollout.prompt, rollout.response, rollout.reward, rollout.group) == ("1 :", "2", 1.0, "a")

    def test_rows_in_memory_and_data_frames(self) -> None:
        rows = [ROW | {"response_ids": [3, 1], "old_log_probs": [-0.5, -0.1]}]
        for source in (rows, pd.DataFrame(rows)):
            (rollout,) = read_rollouts(source).rollouts
            assert (rollout.response_ids, rollout.old_log_probs) == ((3, 1), (-0.5, -0.1))


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        (
            [{"question": "a", "answer": "b"}],
            {},
            r"no column for the prompt \(known names: prompt, input, prompt_ids, prompt_token_ids\); it "
            r"has question, answer; map one with columns prompt=NAME, perhaps prompt=question",
        ),
        ([ROW], {"reward": "score"}, r"a.jsonl has no column 'score' for reward; it has prompt, response, reward"),
        ([ROW], {"rewards": "reward"}, r"columns: unknown role 'rewards'; did you mean reward"),
        ([ROW | {"output": "x"}], {}, r"has response and output, either of which may be the response; choose one"),
        ([ROW, {"prompt": "a", "response": "b"}], {}, r"a.jsonl line 2: no column 'reward'; it has prompt, resp"),
        ([ROW | {"response": ""}], {}, r"line 1, 'response': the response is empty"),
        (
            [ROW | {"response": [{"content": "a"}, {"content": "b"}]}],
            {},
            r"one message of the assistant, got 2 messages",
        ),
        (
            [ROW | {"response": [{"role": "user", "content": "a"}]}],
            {},
            r"expected a message of the assistant, got one of 'u",
        ),
        (
            [ROW | {"prompt": None}],
            {},
            r"no column for the prompt \(known names: .*\) \(prompt is null throughout\); it has",
        ),
        ([{}, {}], {}, r"no column for the prompt .*; it has no columns"),
        ([ROW | {"response": 3}], {}, r"expected a string or one message of the assistant, got 3"),
        ([ROW | {"reward": "1"}], {}, r"line 1, 'reward': expected a number or true or false, got '1'"),
        ([ROW, ROW | {"reward": None}], {}, r"line 2: the column 'reward' is null"),
        (
            [ROW, ROW | {"reward": True}],
            {},
            r"the rewards \('reward'\) are of mixed types: a truth value in .* line 2, "
            r"a number in a.jsonl line 1",
        ),
        ([ROW | {"step": -1}], {}, r"'step': expected a whole number from 0, got -1"),
        ([ROW | {"group": [1]}], {}, r"'group': expected a number or a string, the same in all rows of a group"),
        ([ROW | {"response_ids": []}], {}, r"'response_ids': expected at least one token id, got none"),
        ([ROW | {"response_ids": [1, "a"]}], {}, r"'response_ids': expected a list of token ids, got \[1, 'a'\]"),
        ([ROW | {"old_log_probs": "x"}], {}, r"'old_log_probs': expected a list of finite numbers"),
        ([], {}, r"a.jsonl has no rows"),
    ],
)
def test_what_is_refused(tmp_path: Path, rows: Any, columns: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_rollouts(write_jsonl(tmp_path / "a.jsonl", rows), columns=columns)


def test_a_reward_function_that_gave_none(tmp_path: Path) -> None:
    trl_table({"accuracy": [1.0, float("nan")]}).to_parquet(path := tmp_path / "a.parquet")
    with pytest.raises(UsageError, match=r"a.parquet row 2: the column 'accuracy' is null"):
        read_rollouts(path)
    with pytest.raises(UsageError, match=r"rollout 0, 'reward': expected a finite number, got nan"):
        read_rollouts([ROW | {"reward": float("nan")}, ROW])


def test_a_mapping_that_is_none() -> None:
    with pytest.raises(UsageError, match=r"columns: expected ROLE=NAME, such as prompt=question, got 'prompt'"):
        parse_mapping("prompt")


def test_a_verifier_needs_answers(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"answer: a.jsonl has no column of answers for the verifier"):
        read_rollouts(write_jsonl(tmp_path / "a.jsonl", [ROW]), with_answers=True)


def test_broken_lines_by_number_or_counted(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [ROW, '{"prompt": "1', "[1]", ROW | {"response": ""}, ROW])
    with pytest.raises(UsageError, match=r"a.jsonl line 2: not valid JSON .* skip_bad \(--skip-bad\) leaves such"):
        read_rollouts(path)
    file = read_rollouts(path, skip_bad=True)
    bad = file.bad
    assert [r.where for r in file.rollouts] == ["a.jsonl line 1", "a.jsonl line 5"]
    assert bad.counts == {"broken line": 2, "unusable value": 1}
    assert "line 2" in bad.examples[0]
    with pytest.raises(UsageError, match=r"b.jsonl has no rows that can be read \(1 are broken\)"):
        read_rollouts(write_jsonl(tmp_path / "b.jsonl", ["{"]), skip_bad=True)
    with pytest.raises(UsageError, match=r"no row that can be used; the first: c.jsonl line 1, 'response': the"):
        read_rollouts(write_jsonl(tmp_path / "c.jsonl", [ROW | {"response": ""}]), skip_bad=True)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"rollouts: .*nothing.jsonl cannot be read: No such file"):
        read_rollouts(tmp_path / "nothing.jsonl")
    whole = tmp_path / "whole.parquet"
    pd.DataFrame([ROW] * 50).to_parquet(whole)
    half = tmp_path / "half.parquet"
    half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(
        UsageError, match=r"half.parquet cannot be read: (?s:.*)The file may be incomplete: a writer that was"
    ):
        read_rollouts(half)


class TestGroups:
    """Whose responses are compared: told by a column, else by the prompt, and the summary says which."""

    @pytest.mark.parametrize("name", ["group", "uid", "group_id", "group_index", "problem_id", "example_id", "qid"])
    def test_known_names(self, name: str) -> None:
        rows = [ROW | {name: value} for value in ("a", "a", "b", "b")]
        file = read_rollouts(rows)
        assert [rollout.group for rollout in file.rollouts] == ["a", "a", "b", "b"]
        assert file.columns["group"] == name

    def test_keys_of_verl_name_the_prompt_first(self) -> None:
        file = read_rollouts([ROW | {"uid": uid} for uid in ("p1_0_0", "p1_1_0", "p2_0_0", "p2_1_0")])
        assert [rollout.group for rollout in file.rollouts] == ["p1", "p1", "p2", "p2"]
        assert "is PROMPT_ROLLOUT_OUTPUT, as verl writes it" in " ".join(file.notes)

    def test_a_column_that_names_rows_names_no_groups(self) -> None:
        file = read_rollouts([ROW | {"uid": str(i)} for i in range(4)])
        assert [rollout.group for rollout in file.rollouts] == [None] * 4
        assert "'uid' differs from row to row and names no groups" in " ".join(file.notes)
        named = read_rollouts([ROW | {"uid": str(i)} for i in range(4)], columns={"group": "uid"})
        assert [rollout.group for rollout in named.rollouts] == ["0", "1", "2", "3"]
        single = read_rollouts([ROW | {"uid": str(i), "prompt": f"{i} :"} for i in range(4)])
        assert single.columns["group"] == "uid"

    def test_a_column_may_be_left_out(self) -> None:
        file = read_rollouts([ROW | {"group": "math"}] * 2, columns={"group": "-"})
        assert file.rollouts[0].group is None
        assert "group" not in file.columns


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"response": "3 \ud835"}, r"'response': the text has half of a surrogate pair \(U\+D835\) at character 2"),
        ({"prompt": "1 \udc00 :"}, r"'prompt': the text has half of a surrogate pair \(U\+DC00\) at character 2"),
        ({"prompt": [{"role": "user", "content": "\ud835"}]}, r"'prompt': the text has half of a surrogate pair"),
        ({"group": "\ud835"}, r"'group': the text has half of a surrogate pair"),
    ],
)
def test_half_of_a_surrogate_pair_is_one_bad_row(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [ROW | {"group": "a"}, ROW | {"group": "a"} | row])
    with pytest.raises(UsageError, match=rf"a.jsonl line 2, {message}"):
        read_rollouts(path)
    file = read_rollouts(path, skip_bad=True)
    assert [rollout.where for rollout in file.rollouts] == ["a.jsonl line 1"]
    assert file.bad.counts == {"unusable value": 1}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (float("nan"), r"'reward': expected a finite number, got nan"),
        (float("inf"), r"'reward': expected a finite number, got inf"),
        ("high", r"'reward': expected a number or true or false, got 'high'"),
        ([1.0], r"'reward': expected a number or true or false, got \[1.0\]"),
        (
            {"acc": 1},
            r"'reward': expected a number or true or false, got \{'acc': 1\}; choose one of its entries \(acc\)",
        ),
    ],
)
def test_rewards_that_are_not_numbers_are_bad_rows(value: Any, message: str) -> None:
    rows = [ROW, ROW | {"reward": value}]
    with pytest.raises(UsageError, match=rf"rollout 1, {message}; skip_bad"):
        read_rollouts(rows)
    assert len(read_rollouts(rows, skip_bad=True).rollouts) == 1


def test_names_that_are_nearly_known() -> None:
    row = {"problem": "1 :", "generation": "2", "reward": 1}
    with pytest.raises(
        UsageError, match=r"for the prompt .* it has problem, generation, reward; .*perhaps prompt=problem"
    ):
        read_rollouts([row])
    with pytest.raises(UsageError, match=r"for the response .*perhaps response=generation"):
        read_rollouts([row], columns={"prompt": "problem"})
    with pytest.raises(UsageError, match=r"no column 'generations' for response; .*; did you mean generation"):
        read_rollouts([row], columns={"prompt": "problem", "response": "generations"})


def test_columns_that_say_the_same_need_no_choice() -> None:
    (rollout,) = read_rollouts([ROW | {"output": ROW["response"], "score": ROW["reward"]}]).rollouts
    assert (rollout.response, rollout.reward) == (ROW["response"], ROW["reward"])
    with pytest.raises(
        UsageError, match=r"has reward and score, either .* and they differ \(such as 1.0 and 0.5\); choose"
    ):
        read_rollouts([ROW | {"score": 0.5}])


def test_a_reward_column_that_is_null_throughout_is_none() -> None:
    file = read_rollouts([ROW | {"reward": None}] * 2)
    assert [rollout.reward for rollout in file.rollouts] == [None, None]
    assert "The column 'reward' is null throughout" in " ".join(file.notes)
