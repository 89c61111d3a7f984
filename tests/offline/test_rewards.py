"""Rewards: sums of columns, several accepted answers, objectives without rewards, and what counts as rewarded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis import UsageError, trace, trace_rollouts
from analysis.offline import read_rollouts
from analysis.offline.rewards import parse_sum, scheme_of
from analysis.records import Run
from analysis.report import TraceData, summarize_trace
from tests.offline.small import make_model, make_tokenizer, save, write_jsonl

TEXTS = ("3", "4", "5", "6")


def rows_with(rewards: Any, **columns: Any) -> list[dict[str, Any]]:
    rows = [{"prompt": "1 + 2 :", "response": text, "reward": r} for text, r in zip(TEXTS, rewards, strict=False)]
    return [row | {name: values[i] for name, values in columns.items()} for i, row in enumerate(rows)]


def traced(out: Path, rows: Any, **options: Any) -> Run:
    return trace_rollouts(make_model(), make_tokenizer(), rows, out=out, **options)


@pytest.mark.parametrize(
    ("text", "weights", "constant"),
    [
        ("a+b", {"a": 1, "b": 1}, 0),
        ("2*a + 0.5*b", {"a": 2, "b": 0.5}, 0),
        ("a*2 - b", {"a": 2, "b": -1}, 0),
        ("1e-3*a+b - 1", {"a": 1e-3, "b": 1}, -1),
        ("-a", {"a": -1}, 0),
        ("1", {}, 1),
        ("f-r + a", {"f-r": 1, "a": 1}, 0),
        ("x.y+a", {"x.y": 1, "a": 1}, 0),
    ],
)
def test_sums(text: str, weights: dict[str, float], constant: float) -> None:
    found = parse_sum(text, ["a", "b", "f-r", "x.y"])
    assert found is not None
    assert (found.weights, found.constant) == (weights, constant)


@pytest.mark.parametrize("text", ["a", "a+b", "a*b", "unknown", "a b", "2**a", "a+", "*a", "2 2", "", "a 2"])
def test_texts_that_are_columns_or_not_sums(text: str) -> None:
    assert parse_sum(text, ["a", "b", "a+b"]) is None


def test_a_sum_of_reward_columns_with_null_as_in_trl() -> None:
    """TRL adds what is not NaN; a response that no function scores has no reward."""
    rows = [{"prompt": "1 :", "response": "2", "a": a, "b": b} for a, b in ((1.0, 0.5), (None, 0.5), (float("nan"), 1))]
    file = read_rollouts(rows, columns={"reward": "2*a+b"})
    assert [rollout.reward for rollout in file.rollouts] == [2.5, 0.5, 1.0]
    assert file.columns["reward"] == "2*a+b"
    with pytest.raises(UsageError, match=r"rollout 1: the columns of the reward 'a\+b' are all null"):
        read_rollouts([rows[0], rows[1] | {"b": None}], columns={"reward": "a+b"})
    with pytest.raises(UsageError, match=r"rollouts has no column 'c' for reward; it has prompt, response, a, b"):
        read_rollouts(rows, columns={"reward": "a+c"})
    with pytest.raises(
        UsageError, match=r"has no column 'accuracy_rewards' for reward.*; did you mean accuracy_reward"
    ):
        read_rollouts(rows_with([1], accuracy_reward=[1.0]), columns={"reward": "accuracy_rewards"})


def test_the_advantage_of_the_file_where_several_columns_may_be_the_reward(tmp_path: Path) -> None:
    table = (
        pd.DataFrame(rows_with([0] * 4, step=[1] * 4)).rename(columns={"response": "completion"}).drop(columns="reward")
    )
    advantage = [1.2, 0.1, -0.4, -0.9]
    table = table.assign(accuracy_reward=[1.0, 0, 0, 0], format_reward=[0.0, 1, 1, 0], advantage=advantage)
    run = traced(tmp_path / "a", table, objectives=["grpo"], on_policy=True)
    assert run.laws("grpo").groupby("rollout")["weight"].first().tolist() == pytest.approx(advantage, rel=1e-6)
    notes = " ".join(summarize_trace(run).notes)
    assert "Several columns of numbers may be the reward (accuracy_reward, format_reward) and none was named" in notes
    assert "A: the advantages of the file" in notes
    assert TraceData.of(run).signs["rewarded"].tolist() == [True, True, False, False]
    with pytest.raises(
        UsageError, match=r"\(columns of numbers: accuracy_reward, format_reward\); map one with columns re"
    ):
        traced(tmp_path / "b", table, objectives=["nsr-log"])
    total = traced(tmp_path / "c", table, columns={"reward": "accuracy_reward + format_reward"}, objectives=["rloo"])
    assert total.table("rollouts")["reward"].tolist() == [1.0, 1.0, 1.0, 0.0]
    assert "each objective's own, from the rewards" in " ".join(summarize_trace(total).notes)
    again = traced(tmp_path / "d", table, columns={"reward": "accuracy_reward", "advantage": "-"}, objectives=["rloo"])
    assert again.table("rollouts")["advantage"].isna().all()


SCHEMES = [
    ([1, 0, 0, 1], "0 and 1", 0.5, [True, False, False, True]),
    ([True, False, False, True], "0 and 1", 0.5, [True, False, False, True]),
    ([1, -1, -1, 1], "-1 and 1", 0.0, [True, False, False, True]),
    ([0, -1, -1, 0], "-1 and 0", -0.5, [True, False, False, True]),
    ([10, 0, 0, 10], "two values", 5.0, [True, False, False, True]),
    ([0.9, 0.2, 0.4, 0.6], "graded", 0.5, [True, False, False, True]),
    ([1.1, 0.1, 0.0, 1.0], "shaped", 0.55, [True, False, False, True]),
    ([2.0, -0.5, -1.0, 0.5], "shaped", 0.0, [True, False, False, True]),
    ([-3.0, -3, -3, -3], "one value", 0.0, [False] * 4),
    ([1, 1, 1, 1], "0 and 1", 0.5, [True] * 4),
]


@pytest.mark.parametrize(("rewards", "kind", "bound", "rewarded"), SCHEMES)
def test_what_counts_as_rewarded(tmp_path: Path, rewards: Any, kind: str, bound: float, rewarded: list[bool]) -> None:
    run = traced(tmp_path, rows_with(rewards))
    assert run.table("rollouts")["reward"].tolist() == pytest.approx(list(map(float, rewards)))  # as they are
    facts = run.info["trace"]["file"]["rewards"]
    assert (facts["kind"], facts["rewarded_above"], run.info["trace"]["rewarded_above"]) == (kind, bound, bound)
    assert f"Rewarded means a reward above {bound:g}" in " ".join(summarize_trace(run).notes)
    signs = TraceData.of(run).signs
    assert signs.get("rewarded", [False] * 4) == pytest.approx(rewarded)


def test_another_bound_moves_labels_alone_and_needs_no_new_trace(tmp_path: Path) -> None:
    rows = rows_with([0.9, 0.2, 0.4, 0.6])
    first = traced(tmp_path, rows)
    again = traced(tmp_path, rows, rewarded_above=0.3)
    assert again.info["created"] == first.info["created"]
    assert TraceData.of(again).signs["rewarded"].tolist() == [True, False, True, True]
    assert again.table("rollouts")["reward"].tolist() == pytest.approx([0.9, 0.2, 0.4, 0.6])
    with pytest.raises(UsageError, match=r"rewarded_above: expected a finite number, got nan"):
        scheme_of([1.0], float("nan"))


def test_a_threshold_is_suggested_by_the_scheme(tmp_path: Path) -> None:
    rows = rows_with([0, -1, -1, 0])
    with pytest.raises(
        UsageError, match=r"defined for rewards 0 and 1, .* others \(-1 and 0\); give a threshold .*old -0.5:"
    ):
        traced(tmp_path, rows, objectives=["nsr-log"])
    run = traced(tmp_path, rows, objectives=["nsr-log"], threshold=-0.5)
    assert run.laws("nsr-log")["weight"].tolist() == [0.0, -1.0, -1.0, 0.0]
    assert "above -0.5 as 1 and else 0" in " ".join(summarize_trace(run).notes)


def test_objectives_without_rewards(tmp_path: Path) -> None:
    rows = [{"prompt": "1 :", "chosen": text} for text in TEXTS]
    run = traced(tmp_path / "sft", rows, columns={"response": "chosen"}, objectives=["sft"])
    assert run.table("rollouts")["reward"].isna().all()
    assert run.laws("sft")["weight"].tolist() == [1.0] * 4
    with pytest.raises(
        UsageError, match=r"psr-log needs rewards, .* count every response as rewarded with columns reward=1"
    ):
        traced(tmp_path / "psr", rows, columns={"response": "chosen"}, objectives=["psr-log"])
    run = traced(tmp_path / "psr", rows, columns={"response": "chosen", "reward": "1"}, objectives=["psr-log"])
    assert run.laws("psr-log")["weight"].tolist() == [1.0] * 4


def test_pairs_of_preferences(tmp_path: Path) -> None:
    rows = [{"prompt": "1 :", "chosen": "2", "rejected": "3"}, {"prompt": "1 :", "chosen": "4", "rejected": "5"}]
    run = traced(tmp_path, rows, objectives=["psr-log", "nsr-log", "dr-grpo"], on_policy=True)
    assert run.table("rollouts")["group"].tolist() == [0, 0, 1, 1]
    assert run.laws("psr-log")["weight"].tolist() == [1, 0, 1, 0]
    assert run.laws("nsr-log")["weight"].tolist() == [0, -1, 0, -1]
    assert run.laws("dr-grpo")["weight"].tolist() == [0.5, -0.5, 0.5, -0.5]


class TestAcceptedAnswers:
    @pytest.mark.parametrize("verifier", ["exact", "math"])
    def test_any_of_them_is_right(self, tmp_path: Path, verifier: str) -> None:
        rows = [{"prompt": "1 + 2 :", "response": text, "gts": ["22", "3", 5]} for text in TEXTS]
        run = traced(tmp_path, rows, verifier=verifier)
        assert run.table("rollouts")["reward"].tolist() == [1.0, 0.0, 1.0, 0.0]
        assert run.table("prompts")["answer"].tolist() == ['["22", "3", "5"]']

    def test_a_function_of_ones_own_is_handed_the_list(self, tmp_path: Path) -> None:
        source = tmp_path / "rule.py"
        rule = (
            "import json\n\n\ndef score(prompt, response, answer):\n    return json.loads(answer) == ['3', response]\n"
        )
        source.write_text(rule)
        rows = [{"prompt": "1 + 2 :", "response": text, "answer": ["3", "4"]} for text in TEXTS]
        run = traced(tmp_path / "a", rows, verifier=f"{source}:score")
        assert run.table("rollouts")["reward"].tolist() == [0.0, 1.0, 0.0, 0.0]

    def test_what_is_refused(self, tmp_path: Path) -> None:
        rows = [{"prompt": "1 :", "response": "2", "answer": answer} for answer in ([], ["2"])]
        with pytest.raises(
            UsageError, match=r"rollout 0, 'answer': expected an answer or a list of accepted answers, got"
        ):
            traced(tmp_path, rows, verifier="exact")
        rows = [{"prompt": "1 :", "response": "2", "answer": {"target": ["2"], "kind": "a"}}]
        with pytest.raises(
            UsageError,
            match=r"rollout 0: answer: expected a text, a number or a list .* got the object .*COLUMN.target",
        ):
            traced(tmp_path, rows, verifier="exact")
        run = traced(tmp_path / "b", rows, verifier="exact", columns={"answer": "answer.target"})
        assert run.table("rollouts")["reward"].tolist() == [1.0]


@pytest.mark.slow
def test_options_of_the_command_reach_the_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import json

    model = save(tmp_path / "model")
    rows = [
        {"prompt": "1 + 2 :", "response": text, "a": a, "b": 0.25, "uid": "x"}
        for text, a in zip(TEXTS, (0, 1, 0, 1), strict=True)
    ]
    file = write_jsonl(tmp_path / "a.jsonl", rows)
    line = ["--model", str(model), "--rollouts", str(file), "--out", str(tmp_path / "out"), "--quiet", "--json"]
    options = ["--columns", "reward=2*a+b,group=-", "--rewarded-above", "1"]
    assert trace.main([*line, *options]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["columns"] == {"prompt": "prompt", "response": "response", "reward": "2*a+b"}
    assert said["file"]["rewards"] == {"kind": "two values", "values": "0.25 and 2.25", "rewarded_above": 1.0}
    assert any("no column tells them apart" in note for note in said["summary"]["notes"])
