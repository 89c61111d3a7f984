"""Annotations beside a file of rollouts: numbers against the dense distribution in float64, keys against the file."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from analysis import UsageError, trace
from analysis.offline import read_rollouts, trace_rollouts, write_annotations
from analysis.offline.annotations import ANNOTATION_COLUMNS, annotations_path
from tests.offline.small import dense_logits, make_model, make_tokenizer, rows_of, save, write_jsonl

ROWS = rows_of(6)


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def annotated(tmp_path: Path, rows: list[Any], **options: Any) -> tuple[Path, list[dict[str, Any]]]:
    file = read_rollouts(write_jsonl(tmp_path / "rollouts.jsonl", rows), **options)
    run = trace_rollouts(make_model(), make_tokenizer(), file, out=tmp_path / "run", **options)
    path = write_annotations(run, file)
    return path, lines_of(path)


def test_numbers_are_those_of_the_dense_distribution(tmp_path: Path) -> None:
    path, lines = annotated(tmp_path, ROWS)
    assert path == tmp_path / "rollouts.jsonl.annotations.jsonl"
    for row, line in zip(ROWS, lines, strict=True):
        logits, tokens = dense_logits(make_model(), make_tokenizer(), row["prompt"], row["response"])
        log_probs = logits.log_softmax(-1)
        probs = log_probs.exp()
        own = log_probs[range(len(tokens)), tokens]
        entropy, collision = -(probs * log_probs).sum(-1), (probs**2).sum(-1)
        eye = torch.eye(logits.shape[-1], dtype=torch.float64)[tokens]
        step = eye - probs  # of the logits, for a weight of 1
        dentropy = (-probs * (log_probs + entropy[:, None]) * step).sum(-1)
        expected = {
            "log_prob": own,
            "entropy": entropy,
            "squeeze_boundary": collision - own.exp(),
            "dlog_prob": (step**2).sum(-1),
            "dentropy": dentropy,
        }
        for name, values in expected.items():  # float32 statistics: 2e-5 absolute, of numbers of order one
            torch.testing.assert_close(torch.tensor(line[name], dtype=torch.float64), values, atol=2e-5, rtol=2e-5)
        assert line["token"] == tokens.tolist()
        assert line["position"] == list(range(len(tokens)))
        assert line["below_boundary"] == (collision > own.exp()).tolist()
        assert math.isclose(line["log_prob_sum"], float(own.sum()), abs_tol=1e-3)
        assert math.isclose(line["entropy_mean"], float(entropy.mean()), abs_tol=1e-4)
        assert line["below_boundary_fraction"] == pytest.approx(sum(line["below_boundary"]) / len(tokens))
        assert line["entropy_raised_fraction"] == pytest.approx(float((dentropy > 0).double().mean()))
        assert (line["reward"], line["tokens"]) == (row["reward"], len(tokens))


def test_keys_are_lines_of_the_file(tmp_path: Path) -> None:
    rows = ['{"prompt": ', *ROWS[:2], {"prompt": ROWS[0]["prompt"], "response": "nonsense", "reward": 0.0}, ROWS[2]]
    rows[2] = rows[2] | {"id": "a7"}
    _, lines = annotated(tmp_path, rows, skip_bad=True)
    assert [(line["file"], line["row"], line["response"], line["id"]) for line in lines] == [
        ("rollouts.jsonl", row, None, name) for row, name in ((2, None), (3, "a7"), (5, None))
    ]
    source = (tmp_path / "rollouts.jsonl").read_text().splitlines()
    tokenizer = make_tokenizer()
    for line in lines:
        response = json.loads(source[line["row"] - 1])["response"]
        assert tokenizer.encode(response, add_special_tokens=False) == line["token"]


def test_several_responses_and_the_order_of_steps(tmp_path: Path) -> None:
    rows = [
        {"prompt": "1 :", "response": ["2", "3 4"], "reward": [1.0, 0.0], "step": 5},
        {"prompt": "1 :", "response": ["5", "6"], "reward": [1.0, 0.0], "step": 2},
    ]
    _, lines = annotated(tmp_path, rows)
    assert [(line["row"], line["response"], line["step"]) for line in lines] == [
        (1, 1, 5),
        (1, 2, 5),
        (2, 1, 2),
        (2, 2, 2),
    ]
    assert [line["token"] for line in lines] == [[8], [9, 10], [11], [12]]


def test_tokens_of_others_have_no_entry(tmp_path: Path) -> None:
    row = {"prompt_ids": [7, 2], "response_ids": [8, 9, 10], "response_mask": [1, 0, 1], "reward": 1.0}
    _, lines = annotated(tmp_path, [row, row | {"response_mask": [0, 0, 0]}])
    assert (lines[0]["position"], lines[0]["token"], lines[0]["tokens"]) == ([0, 2], [8, 10], 2)
    assert (lines[1]["position"], lines[1]["log_prob_mean"], lines[1]["tokens"]) == ([], None, 0)


def test_parquet_holds_the_same(tmp_path: Path) -> None:
    file = read_rollouts(write_jsonl(tmp_path / "rollouts.jsonl", ROWS))
    run = trace_rollouts(make_model(), make_tokenizer(), file, out=tmp_path / "run")
    table = pq.read_table(write_annotations(run, file, kind="parquet"))
    assert table.column_names == list(ANNOTATION_COLUMNS)
    assert table.to_pylist() == lines_of(write_annotations(run, file))


def test_shares_have_files_of_their_own(tmp_path: Path) -> None:
    file = read_rollouts(write_jsonl(tmp_path / "rollouts.jsonl", ROWS))
    rows = []
    for number in (0, 1):
        share = f"{number}/2"
        run = trace_rollouts(make_model(), make_tokenizer(), file, out=tmp_path / f"run{number}", share=share)
        path = write_annotations(run, file)
        assert path.name == f"rollouts.jsonl.annotations-{number}-of-2.jsonl"
        rows += [line["row"] for line in lines_of(path)]
    assert sorted(rows) == [1, 2, 3, 4, 5, 6]


def test_what_is_refused(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rollouts.jsonl", ROWS)
    file = read_rollouts(path)
    run = trace_rollouts(make_model(), make_tokenizer(), file, out=tmp_path / "run")
    first = write_annotations(run, file)
    with pytest.raises(
        UsageError, match=r"annotate: .*annotations\.jsonl exists already; write it again with --resume"
    ):
        write_annotations(run, file)
    assert write_annotations(run, file, overwrite=True) == first
    write_jsonl(path, ROWS[:5])
    with pytest.raises(
        UsageError, match=r"rollouts: expected those that were traced \(SHA-256 .*\), got rollouts\.jsonl"
    ):
        write_annotations(run, read_rollouts(path), overwrite=True)
    with pytest.raises(UsageError, match=r"path: expected where to write annotations, since the rollouts came from"):
        write_annotations(run, read_rollouts(ROWS))
    with pytest.raises(UsageError, match=r"annotate: expected one of jsonl, parquet, got 'csv'"):
        write_annotations(run, file, kind="csv", overwrite=True)
    assert [item.name for item in tmp_path.glob("*.tmp")] == []


def test_nothing_is_left_of_a_write_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = read_rollouts(write_jsonl(tmp_path / "rollouts.jsonl", ROWS))
    run = trace_rollouts(make_model(), make_tokenizer(), file, out=tmp_path / "run")
    path = write_annotations(run, file)
    before = path.read_bytes()

    def stop(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("analysis.offline.annotations._summary", stop)
    with pytest.raises(KeyboardInterrupt):
        write_annotations(run, file, overwrite=True)
    assert path.read_bytes() == before
    assert list(tmp_path.glob("*.tmp")) == []


def test_the_command(tmp_path: Path, capsys: Any) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    write_jsonl(folder / "b.jsonl", ROWS[2:])
    write_jsonl(folder / "a.jsonl", ROWS[:2])
    model = save(tmp_path / "model")
    command = [
        "--model",
        str(model),
        "--rollouts",
        str(folder),
        "--out",
        str(tmp_path / "run"),
        "--annotate",
        "--quiet",
    ]
    assert trace.main([*command, "--no-figures"]) == 0
    path = tmp_path / "data.annotations.jsonl"
    assert [(line["file"], line["row"]) for line in lines_of(path)] == [
        *(("a.jsonl", row) for row in (1, 2)),
        *(("b.jsonl", row) for row in (1, 2, 3, 4)),
    ]
    assert trace.main([*command, "--no-figures"]) == 2
    assert "data.annotations.jsonl exists already" in capsys.readouterr().err
    path.write_text("")
    assert trace.main([*command, "--no-figures", "--resume"]) == 0
    assert len(lines_of(path)) == 6


def test_the_query_of_the_manual_joins_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    duckdb = pytest.importorskip("duckdb")
    text = (Path(__file__).parents[2] / "docs" / "how_to" / "trace_rollouts.md").read_text()
    query = text.partition("```sql\n")[2].partition("```")[0]
    _, lines = annotated(tmp_path, ROWS)
    monkeypatch.chdir(tmp_path)
    joined = duckdb.connect().execute(query).df().sort_values("row")
    assert joined["response"].tolist() == [row["response"] for row in ROWS]
    assert joined["log_prob_sum"].tolist() == [line["log_prob_sum"] for line in lines]


def test_the_manual_lists_every_column() -> None:
    text = (Path(__file__).parents[2] / "docs" / "how_to" / "trace_rollouts.md").read_text()
    for name, (kind, many, meaning) in ANNOTATION_COLUMNS.items():
        assert f"| `{name}` | {kind}{' list' if many else ''} | {meaning} |" in text
    assert annotations_path(Path("/a/b"), "parquet") == Path("/a/b.annotations.parquet")


def test_rollouts_whose_tokens_were_not_recorded_keep_their_number_of_tokens(tmp_path: Path) -> None:
    rows = rows_of(24)
    file = read_rollouts(write_jsonl(tmp_path / "rollouts.jsonl", rows))
    options = {"record_tokens": 0.4, "record_columns": "core"}
    run = trace_rollouts(make_model(), make_tokenizer(), file, out=tmp_path / "run", **options)
    lines = lines_of(write_annotations(run, file))
    assert [line["tokens"] for line in lines] == [len(row["response"].split()) for row in rows]
    recorded = [bool(line["log_prob"]) for line in lines]
    assert 0 < sum(recorded) < len(rows)
    assert recorded == [line["log_prob_mean"] is not None for line in lines]
    assert all(rank is None for line in lines for rank in line["token_rank"])
