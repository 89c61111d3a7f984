"""Pass@k of verl's validation dumps: prompts by their text, padding and earlier outputs left out, two rewards."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from analysis.errors import UsageError
from analysis.passk import pass_curves, read_graded

PAD = "pad" + "0b" * 16


def row(uid: str, prompt: str = "1+1=", score: float = 1.0, **more: Any) -> dict[str, Any]:
    return {"input": prompt, "output": "2", "gts": "2", "score": score, "step": 0, "uid": uid} | more


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    return path


def counts(path: Path, **options: Any) -> dict[str, tuple[int, int]]:
    graded = read_graded(path, **options)
    return dict(zip(graded.prompts, zip(graded.n.tolist(), graded.c.tolist(), strict=True), strict=True))


def test_prompts_of_two_validations_are_paired(tmp_path: Path) -> None:
    """verl draws their names anew, and sorts rows by them."""
    files = [
        write(
            tmp_path / f"{step}.jsonl",
            [row(f"{name}_{s}_0", f"{p}+1=", float(s < hits)) for name, p in names for s in range(3)],
        )
        for step, names, hits in ((0, (("x", 1), ("y", 2)), 1), (5, (("q", 2), ("r", 1)), 2))
    ]
    assert [counts(path) for path in files] == [{"1+1=": (3, 1), "2+1=": (3, 1)}, {"2+1=": (3, 2), "1+1=": (3, 2)}]
    curves = pass_curves(*map(read_graded, files))
    assert curves.difference["value"].iloc[0] == pytest.approx(1 / 3)
    assert "Prompts are told apart by 'input'" in curves.notes[0]
    assert counts(files[0], columns={"prompt": "uid"}) == {"x": (3, 1), "y": (3, 1)}


def test_two_prompts_of_one_text_stay_apart(tmp_path: Path) -> None:
    path = write(
        tmp_path / "0.jsonl",
        [row(f"{name}_{s}_0", score=score) for name, score in (("a", 0), ("b", 1)) for s in (0, 1)],
    )
    assert counts(path) == {"1+1=": (2, 0), "1+1= (2)": (2, 2)}


def test_padding_and_earlier_outputs_do_not_count(tmp_path: Path) -> None:
    rows = [
        row("a_0_0", score=1.0),
        row("a_0_1", "1+1=2 and then", score=1.0),
        row("a_1_0", score=0.0),
        row(f"{PAD}_0_0", "", 0.0),
    ]
    path = write(tmp_path / "0.jsonl", rows)
    assert counts(path) == {"1+1=": (2, 1)}
    notes = " ".join(read_graded(path).notes)
    assert "1 of 4 rows are left out: verl filled up a batch" in notes
    assert "1 rows are earlier outputs of a rollout" in notes


def test_padding_alone(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"expected rows of graded samples, got none in .* 1 of 1 rows are left out"):
        read_graded(write(tmp_path / "0.jsonl", [row(f"{PAD}_0_0", "", 0.0)]))


def test_responses_are_not_held_in_memory(tmp_path: Path) -> None:
    """MATH's 5,000 test prompts, 256 samples each, are several gigabytes of text."""
    path = write(
        tmp_path / "0.jsonl", [row(f"{i // 8}_{i % 8}_0", f"{i // 8}+1=", output="x" * 20000) for i in range(400)]
    )
    tracemalloc.start()
    try:
        assert read_graded(path).n.tolist() == [8] * 50
        assert tracemalloc.get_traced_memory()[1] < path.stat().st_size / 4
    finally:
        tracemalloc.stop()


def test_reward_and_score(tmp_path: Path) -> None:
    same = write(tmp_path / "same.jsonl", [row(f"a_{s}_0", score=s, reward=s) for s in (0, 1)])
    assert counts(same) == {"1+1=": (2, 1)}
    other = [row(f"a_{s}_0", score=s, reward=0.0) for s in (0, 1)]
    path = write(tmp_path / "other.jsonl", other)
    with pytest.raises(UsageError, match=r"they differ .*; choose one with columns correct=reward or correct=score"):
        read_graded(path)
    assert counts(path, columns={"correct": "score"}) == {"1+1=": (2, 1)}
    judged = write(tmp_path / "acc.jsonl", [each | {"acc": True} for each in other])
    assert counts(judged) == {"1+1=": (2, 2)}


def test_names_that_are_not_verls_are_taken_as_they_are(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"uid": uid, "correct": True} for uid in ("a_0_0", "a_0_0", "b_0")])
    assert counts(path) == {"a_0_0": (2, 2), "b_0": (1, 1)}
