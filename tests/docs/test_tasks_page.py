"""docs/explanation/tasks.md says of the tasks what their code says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from toy_models import get_task

PAGE = (Path(__file__).parents[2] / "docs/explanation/tasks.md").read_text(encoding="utf-8")


def test_the_table_is_that_of_the_code() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \| (\d+), (\d+), (\d+) \| (\d+) tokens \| (\d+) \|$", PAGE, re.MULTILINE)
    assert {name for name, *_ in rows} == {"path", "countdown", "two-modes"}
    for name, *numbers in rows:
        task = get_task(name)
        sizes = [len(task.prompts(split)) for split in ("train", "validation", "test")]
        assert list(map(int, numbers)) == [*sizes, task.max_new_tokens, len(task.tokenizer)], name


@pytest.mark.slow
def test_numbers_of_correct_responses() -> None:
    counts = {}
    for name in ("path", "countdown"):
        task = get_task(name)
        prompts = [prompt for split in ("train", "validation", "test") for prompt in task.prompts(split)]
        counts[name] = [len(task.solutions(prompt.ids) or []) for prompt in prompts]
    least, most = min(counts["path"]), max(counts["path"])
    assert f"between {least} and {most} correct responses" in PAGE
    least, mean = min(counts["countdown"]), sum(counts["countdown"]) / len(counts["countdown"])
    assert f"at least {least} correct ones, {mean:.1f} on average" in PAGE


def test_the_example_has_as_many_correct_responses_as_the_page_says() -> None:
    task = get_task("path")
    ids = task.tokenizer("72 79 75 78 :", add_special_tokens=False)["input_ids"]
    assert len(task.solutions(tuple(ids)) or []) == int(re.findall(r"this prompt has (\d+) correct", PAGE)[0])
