"""Pass@k from files: formats, numbers against exact fractions, pairing, crossings, and the command."""

from __future__ import annotations

import json
from fractions import Fraction
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.errors import UsageError
from analysis.evaluation import interval
from analysis.passk import Graded, pass_curves, read_graded
from analysis.passk.__main__ import main


def _slow_pass_at_k(n: int, c: int, k: int) -> Fraction:
    """The fraction of subsets of k among n samples that hold a correct one, by listing them."""
    subsets = list(combinations([1] * c + [0] * (n - c), k))
    return Fraction(sum(any(subset) for subset in subsets), len(subsets))


def _graded(name: str, c: list[int], n: int = 8) -> Graded:
    return Graded(name, tuple(f"p{i}" for i in range(len(c))), np.full(len(c), n), np.array(c))


def _write(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_every_k_against_listed_subsets() -> None:
    counts = [0, 1, 3, 7, 8, 2, 5, 4, 6, 1]
    table = pass_curves(_graded("a", counts)).table
    assert table["k"].tolist() == list(range(1, 9))
    for k, value in zip(table["k"], table["value"], strict=True):
        exact = sum(_slow_pass_at_k(8, c, int(k)) for c in counts) / len(counts)
        assert value == pytest.approx(float(exact), rel=1e-13)  # float64 sums of ten numbers


def test_against_scorio() -> None:
    evaluations = pytest.importorskip("scorio.eval", reason="scorio is not installed (make test installs it)")
    verdicts = np.random.default_rng(0).random((20, 8)) < np.linspace(0.05, 0.95, 20)[:, None]
    graded = _graded("a", verdicts.sum(1).tolist())
    for _, row in pass_curves(graded).table.iterrows():
        assert row["value"] == pytest.approx(float(evaluations.pass_at_k(verdicts.astype(int), int(row["k"]))), 1e-12)


def test_intervals_are_those_of_evaluation() -> None:
    counts = np.random.default_rng(1).integers(0, 9, 40).tolist()
    row = pass_curves(_graded("a", counts)).table.iloc[0]
    mean = interval(np.array(counts) / 8, method="success")
    assert (row["low"], row["high"], row["kind"]) == (mean.low, mean.high, "success")
    assert "fewer than 10 prompts" in pass_curves(_graded("a", counts[:9])).table["reason"].iloc[0]


@pytest.mark.parametrize("form", ["samples", "counts", "lists", "csv", "parquet", "scores"])
def test_formats_say_the_same(form: str, tmp_path: Path) -> None:
    samples = [{"prompt": f"q{i}", "correct": j < i} for i in range(4) for j in range(3)]
    frame, above = pd.DataFrame(samples), None
    path = tmp_path / "graded.jsonl"
    if form == "samples":
        _write(path, samples)
    elif form == "counts":
        _write(path, [{"prompt_id": f"q{i}", "n": 3, "c": min(i, 3)} for i in range(4)])
    elif form == "lists":
        _write(path, [{"question": f"q{i}", "passed": [j < i for j in range(3)]} for i in range(4)])
    elif form == "scores":
        above = 0.5
        _write(path, [{"prompt": row["prompt"], "score": 0.9 if row["correct"] else 0.1} for row in samples])
    else:
        path = tmp_path / f"graded.{form}"
        frame.to_csv(path, index=False) if form == "csv" else frame.to_parquet(path)
    graded = read_graded(path, above=above)
    assert (graded.prompts, graded.n.tolist(), graded.c.tolist()) == (("q0", "q1", "q2", "q3"), [3] * 4, [0, 1, 2, 3])
    assert repr(graded) == f"Graded({path.name!r}, 4 prompts, 12 samples, 6 correct)"


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"prompt": "a", "correct": 0.7}], "line 1: expected 0 or 1 for correct, got 0.7; .*--above"),
        ([{"prompt": "a", "correct": "maybe"}], "expected true or false, or a number, for correct, got 'maybe'"),
        ([{"prompt": "a", "correct": None}], "line 1: the column 'correct' is null"),
        ([{"prompt": "a", "correct": []}], "expected at least one verdict, got an empty list"),
        (
            [{"prompt": "a", "verdict": 1}],
            "expected prompt with correct, .*got prompt, verdict .*--columns correct=NAME",
        ),
        ([{"prompt": "a", "n": 4, "c": 5}], "expected 0 ≤ c ≤ n with n ≥ 1, got c = 5, n = 4"),
        ([{"prompt": "a", "n": 4, "c": 2}] * 2, "line 2: expected one row of counts for each prompt"),
        ([{"prompt": "a", "n": 4.5, "c": 2}], "expected a whole number of at most 1,000,000,000 for n, got 4.5"),
        ([{"prompt": "a", "n": float("inf"), "c": 2}], "expected a whole number .* for n, got inf"),
        ([{"prompt": "a", "n": 4, "c": float("nan")}], "expected a whole number .* for c, got nan"),
        ([{"prompt": "a", "n": 10**30, "c": 2}], "expected a whole number .* for n, got 10000"),
        ([{"prompt": "a", "correct": float("nan")}], "expected true or false, or a number, for correct, got nan"),
        ([{"prompt": "a", "correct": [[1, 0]]}], r"expected true or false, or a number, for correct, got \[1, 0\]"),
        ([], "expected rows of graded samples, got none"),
    ],
)
def test_what_a_file_cannot_say_is_refused(rows: list[dict[str, object]], said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said):
        read_graded(_write(tmp_path / "graded.jsonl", rows))


def test_a_column_that_numbers_the_samples_is_noticed(tmp_path: Path) -> None:
    path = _write(tmp_path / "graded.jsonl", [{"id": i, "question": f"q{i % 2}", "correct": i < 2} for i in range(6)])
    assert "single sample, by the column 'id'" in pass_curves(read_graded(path)).notes[0]
    curves = pass_curves(read_graded(path, columns={"prompt": "question"}))
    assert (curves.prompts, curves.notes) == (2, ())


def test_a_dump_of_verl_is_grouped_by_its_text_and_counts_the_last_turn(tmp_path: Path) -> None:
    def row(text: str, uid: str, score: float) -> dict[str, object]:
        return {"input": text, "output": "…", "gts": "1", "score": score, "step": 7, "acc": score, "uid": uid}

    rows = [row("1+1", "f3-a_0_0", 0.0), row("1+1", "f3-a_0_1", 1.0), row("1+1", "f3-a_1_0", 0.0)]
    rows += [row("2+2", "9c-b_0_0", 1.0), row("2+2", "9c-b_1_0", 1.0)]
    graded = read_graded(_write(tmp_path / "7.jsonl", rows))
    assert (graded.prompts, graded.n.tolist(), graded.c.tolist()) == (("1+1", "2+2"), [2, 2], [1, 2])
    assert "Prompts are told apart by 'input'" in graded.notes[-1]
    again = [{**line, "uid": "x" + str(line["uid"])} for line in rows]
    curves = pass_curves(graded, read_graded(_write(tmp_path / "14.jsonl", again)))
    assert (curves.prompts, curves.difference["value"].tolist()) == (2, [0.0, 0.0])


def test_prompts_of_csv_and_json_are_the_same(tmp_path: Path) -> None:
    table = tmp_path / "a.csv"
    table.write_text("prompt,correct\n1,1\n1,0\n2,True\n2,False\n", encoding="utf-8")
    lines = _write(tmp_path / "b.jsonl", [{"prompt": i, "correct": True} for i in (2, 1, 1, 2)])
    assert pass_curves(read_graded(table), read_graded(lines)).difference["value"].tolist() == [0.5, 0.0]


def test_thousands_of_samples_are_thinned_and_keep_both_ends() -> None:
    ks = pass_curves(Graded("a", ("x",), np.array([4096]), np.array([3]))).table["k"].to_numpy()
    assert (ks[:256] == np.arange(1, 257)).all()
    assert ks[-1] == 4096
    assert (ks[1:] / ks[:-1])[256:].max() < 1.02
    assert len(ks) < 600


def test_names_of_files_are_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = _write(tmp_path / "[red]x\x1b[bold].jsonl", [{"prompt": "a", "correct": True}])
    assert main([str(path)]) == 0
    shown = capsys.readouterr().out
    assert "[red]x" in shown
    assert "\x1b" not in shown


def test_two_checkpoints_are_paired_by_prompt() -> None:
    first = Graded("a", ("x", "y", "z"), np.array([4, 4, 6]), np.array([1, 2, 3]))
    second = Graded("b", ("z", "w", "x"), np.array([4, 4, 4]), np.array([4, 0, 0]))
    curves = pass_curves(first, second)
    assert (curves.prompts, curves.table["k"].max()) == (2, 4)
    assert curves.difference["value"].iloc[0] == pytest.approx((1 + 0) / 2 - (0.5 + 0.25) / 2)
    assert "2 prompts are in one file only" in curves.notes[0]
    assert "Prompts have 4 to 6 samples" in curves.notes[1]
    with pytest.raises(UsageError, match="expected prompts that both files have, got none in common"):
        pass_curves(first, Graded("b", ("q",), np.array([4]), np.array([4])))
    with pytest.raises(UsageError, match="k: expected whole numbers from 1 to 4"):
        pass_curves(first, second, ks=[1, 5])


def test_a_crossing_and_its_interval() -> None:
    steady = _graded("steady", [4] * 64)  # every prompt half the time
    sharp = _graded("sharp", [8, 0, 8, 8] * 16)  # three quarters always, one quarter never
    curves = pass_curves(sharp, steady)
    (crossing,) = curves.crossings
    # 1 − C(4, k)/C(8, k) = 1/2, 11/14, … against 3/4: between 1 and 2, linearly
    assert crossing.at == pytest.approx(1 + 0.25 / (0.25 + 11 / 14 - 0.75))
    assert crossing.above == "steady"
    assert crossing.low is not None
    assert crossing.high is not None
    assert crossing.low <= crossing.at <= crossing.high
    assert "sharp is higher before, steady after" in curves.sentences()[0]
    few = pass_curves(_graded("sharp", [8, 0, 8, 8]), _graded("steady", [4] * 4))
    assert "no interval: fewer than 32 prompts (4)" in few.sentences()[0]
    assert pass_curves(steady, steady).sentences() == ["The curves are the same at every k."]


@pytest.mark.slow
@pytest.mark.parametrize("level", [0.75, 0.7, 0.8125])  # at a whole k, and between two
def test_the_interval_of_a_crossing_covers(level: float) -> None:
    """300 pairs of files of 64 prompts each; coverage at least 0.95 − 3 standard errors of 0.0126."""
    rng = np.random.default_rng(5)
    # Pass@k of steady prompts is 1/2, 3/4, 7/8 for k = 1, 2, 3; the polygon through it meets `level` at k_true
    k_true = float(np.interp(level, [0.5, 0.75, 0.875], [1.0, 2.0, 3.0]))
    covered = replicates = 0
    for _ in range(300):
        sharp = np.where(rng.random(64) < level, 8, 0)
        steady = rng.binomial(8, 0.5, 64)
        curves = pass_curves(_graded("sharp", sharp.tolist()), _graded("steady", steady.tolist()))
        if not curves.crossings:
            continue
        replicates += 1
        low, high = curves.crossings[0].low, curves.crossings[0].high
        covered += (low is None or low <= k_true) and (high is None or high >= k_true)
    assert replicates > 250
    assert covered / replicates >= 0.95 - 3 * 0.0126


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(2)
    files = [
        _write(
            tmp_path / f"{name}.jsonl", [{"prompt": f"q{i}", "n": 8, "c": int(rng.integers(0, 9))} for i in range(40)]
        )
        for name in ("base", "trained")
    ]
    figure = tmp_path / "curves.svg"
    assert main([*map(str, files), "--figure", str(figure)]) == 0
    shown = capsys.readouterr().out
    assert "Pass@k, mean over 40 prompts" in shown
    assert "trained.jsonl − base.jsonl" in " ".join(shown.split())
    assert figure.read_bytes().startswith(b"<?xml")
    assert main([str(files[0]), "--json", "--k", "1,8"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [row["k"] for row in said["pass_at_k"]] == [1, 8]
    assert main([str(files[0]), "--k", "one"]) == 2
    assert main([str(files[0]), "--figure", "x.pdf"]) == 2
    assert ".png or .svg" in capsys.readouterr().err
