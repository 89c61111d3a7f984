"""What a trace says of how it read its file: groups, columns, turns of others, text that is a part of its ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from analysis import UsageError, trace_rollouts
from analysis.offline import read_rollouts
from analysis.offline.tokenization import ModelLimits, encode_rollouts
from analysis.offline.trace_notes import file_facts
from analysis.offline.trace_settings import TraceSettings
from analysis.records import Run
from analysis.report import summarize_trace
from tests.offline.small import make_model, make_tokenizer


class Tokenizer:
    """One token for a text, whatever it is."""

    eos_token_id, eos_token, chat_template = 1, "$", None

    def __len__(self) -> int:
        return 29

    def encode(self, text: str, **_: Any) -> list[int]:
        return [7]

    def decode(self, ids: Any, **_: Any) -> str:
        return "7"

    def get_added_vocab(self) -> dict[str, int]:
        return {}

    def convert_ids_to_tokens(self, ids: Any) -> Any:
        return "7"


def facts_of(rows: Any, tokenizer: Any = None, **options: Any) -> dict[str, Any]:
    file, settings = read_rollouts(rows, **options), TraceSettings()
    items = encode_rollouts(
        file.rollouts, tokenizer or make_tokenizer(), ModelLimits(29, 64), settings, file.columns, file.bad
    )
    return file_facts(file, items, {}, settings, None)


def notes_of(rows: Any, tokenizer: Any = None, **options: Any) -> str:
    return " ".join(facts_of(rows, tokenizer, **options)["notes"])


def traced(out: Path, rows: Any, **options: Any) -> Run:
    return trace_rollouts(make_model(), make_tokenizer(), rows, out=out, **options)


def test_marks_of_other_turns_without_a_mask_are_told() -> None:
    rows = [{"prompt": "1", "response": text, "reward": 1} for text in ("2", "call <tool_response>3</tool_response> 3")]
    said = notes_of(rows, Tokenizer())
    assert "1 responses hold marks of turns that are not the assistant's, such as '<tool_response>'" in said
    assert "marks" not in notes_of(rows[:1], Tokenizer())


def test_two_groups_with_the_same_prompt_stay_apart(tmp_path: Path) -> None:
    """GRPO of one half right and of all right; merged by their text the second group would have an advantage."""
    rows = [
        {"input": "1 + 1 :", "output": text, "gts": "2", "score": score, "uid": uid}
        for uid, text, score in (("a", "2", 1.0), ("a", "3", 0.0), ("b", "2", 1.0), ("b", "4", 1.0))
    ]
    run = traced(tmp_path, rows, objectives=["grpo"], on_policy=True)
    weights = run.laws("grpo").groupby("rollout")["weight"].first()
    assert weights.tolist() == pytest.approx([0.7071, -0.7071, 0, 0], abs=1e-3)
    notes = " ".join(summarize_trace(run).notes)
    assert "Groups: by 'uid' within a step: 2 of 2 responses." in notes
    assert "The file is read as the rollout dump of verl" in notes
    assert run.info["trace"]["file"]["layout"] == "rollout dump of verl"


def test_groups_that_cannot_be_told_are_said_so() -> None:
    row = {"prompt": "1 :", "response": "2", "reward": 1}
    rows = [row] * 2 + [row | {"prompt": "2 :"}] * 4
    said = notes_of(rows)
    assert "no column tells them apart; responses to the same prompt in a step are a group: 1 of 2, 1 of 4" in said
    assert "two groups with the same prompt cannot be told apart" in said
    assert "cannot be told apart" not in notes_of(rows[:2])
    steps = [row | {"step": step} for step in (0, 0, 1, 1)]
    assert "2 of 2 responses" in notes_of(steps)
    several = [{"prompt": "1 :", "response": ["2", "3"], "reward": [1, 0]}] * 2
    assert "Groups: the responses of a row: 2 of 2 responses" in notes_of(several)


def test_groups_of_different_prompts_are_refused_with_a_way_out() -> None:
    rows = [{"prompt": f"{i} :", "response": "2", "reward": 1, "problem_id": "a"} for i in range(2)]
    with pytest.raises(UsageError, match=r"are of the group 'a' and have different prompts; .* columns group=-"):
        notes_of(rows)
    notes_of(rows, columns={"group": "-"})


def test_text_that_is_a_part_of_its_ids_is_that_of_the_ids(tmp_path: Path) -> None:
    """A server that parses the reasoning into a field of its own leaves the answer in the text, all in the ids."""
    rows = [
        {"prompt": "1 + 2 :", "response": str(i), "response_ids": [9, 7, 3, 6 + i], "reward": 1.0} for i in range(3)
    ]
    run = traced(tmp_path, rows)
    assert run.rows("tokens") == 12
    assert run.table("rollouts")["response_text"].tolist() == ["3 1 + 0", "3 1 + 1", "3 1 + 2"]
    assert "the ids of 3 responses are traced" in " ".join(summarize_trace(run).notes)
