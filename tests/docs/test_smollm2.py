"""Answers to problems of MATH for docs/smollm2.md, with a small random model instead of SmolLM2."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from docs.generators.results import read as read_results
from docs.generators.smollm2 import TASKS
from docs.generators.smollm2_math import chosen_problems, sampled_answers
from docs.generators.smollm2_page import smollm2_page
from docs.generators.templates import StatementError
from tests.offline.small import make_model, make_tokenizer
from toy_models import Policy

pytest.importorskip("math_verify")


def data(path: Path, count: int = 40) -> Path:
    """Problems of four levels, of which two count, and each question twice."""
    rows = [
        {"level": f"Level {1 + i % 4}", "reward_model": {"ground_truth": {"question": f"{i % 20} + 1", "target": "3"}}}
        for i in range(count)
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.fixture(scope="module")
def policy() -> Policy:
    return Policy(make_model(), make_tokenizer(template=True))


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_choice_of_problems_does_not_depend_on_the_order_of_the_file(tmp_path: Path) -> None:
    path = data(tmp_path / "math.parquet")
    chosen = chosen_problems(path, 6)
    shuffled = tmp_path / "shuffled.parquet"
    table = pq.read_table(path)
    pq.write_table(table.take(list(reversed(range(len(table))))), shuffled)
    assert chosen_problems(shuffled, 6) == chosen
    levels = {row["reward_model"]["ground_truth"]["question"]: row["level"] for row in table.to_pylist()}
    assert {levels[problem["question"]] for problem in chosen} <= {"Level 1", "Level 2"}


def test_answers_are_sampled_once_and_a_stopped_call_continues(tmp_path: Path, policy: Policy) -> None:
    problems = [{"question": f"{i} + 1", "answer": str(i + 1)} for i in range(12)]
    out, whole = tmp_path / "part" / "answers.jsonl", tmp_path / "whole.jsonl"
    lines: list[str] = []
    sampled_answers(policy, problems, whole, answers=2, longest=5, told=lines.append)
    assert lines == ["10 of 12 problems", "12 of 12 problems"]
    sampled_answers(policy, problems[:10], out, answers=2, longest=5)
    sampled_answers(policy, problems, out, answers=2, longest=5)
    rows = read(out)
    assert rows == read(whole)
    assert [row["group"] for row in rows] == [i // 2 for i in range(24)]
    assert all(1 <= len(row["response_ids"]) <= 5 for row in rows)
    for row in rows:
        question = problems[row["group"]]["question"]
        assert policy.tokenizer.decode(row["prompt_ids"]) == f"user {question} assistant :"


def test_an_answer_is_judged_by_math_verify(tmp_path: Path, policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    problems = [{"question": f"{i} + 1", "answer": str(i + 1)} for i in range(3)]
    answered = r"\boxed{2}"  # right for the second alone
    monkeypatch.setattr(policy.tokenizer, "decode", lambda ids, **_: answered)
    out = sampled_answers(policy, problems, tmp_path / "answers.jsonl", answers=2, longest=3)
    assert [row["reward"] for row in read(out)] == [0, 0, 1, 1, 0, 0]
    assert {row["response"] for row in read(out)} == {answered}


class TestPage:
    """The page is written from the committed results alone, and refuses numbers that its sentences contradict."""

    def test_a_sentence_that_the_results_contradict(self) -> None:
        found = read_results("smollm2")
        for row in found["tasks"]["sums"]["runs"]:
            if row["method"] == "PSR" and row["step"] > 0:
                row["pass_at_1"] = 0.0
        with pytest.raises(StatementError, match="on sums PSR gains more Pass@1 than NSR"):
            smollm2_page(found)

    def test_a_projection_that_is_off_is_said(self) -> None:
        found = read_results("smollm2")
        for row in found["noise"]["together"]:
            row["projection"] = row["expected"] if row["estimator"] == "PSR" else 1 + 10 * row["projection_se"]
        page = " ".join(smollm2_page(found).split())
        assert len(re.findall(r"The 95% interval of PSR over both seeds, [\d.−]+ to [\d.−]+, holds 1\.", page)) == 1
        assert len(re.findall(r"of NSR over both seeds, [\d.−]+ to [\d.−]+, does not hold 1\.", page)) == 1

    def test_too_little_noise(self) -> None:
        found = read_results("smollm2")
        for row in found["noise"]["together"]:
            row["variance"] = 1.0
        with pytest.raises(StatementError, match="NSR is noisier than PSR"):
            smollm2_page(found)

    def test_numbers(self) -> None:
        found = read_results("smollm2")
        page = smollm2_page(found)
        for name in TASKS:
            for row in found["tasks"][name]["runs"]:
                if row["step"] > 0:
                    label = f"| {row['method']}, {row['seed']} | {row['pass_at_1']:.3f} | {row['pass_at_8']:.3f} |"
                    assert label in page
        assert f"{found['math']['tokens']:,} tokens" in page
