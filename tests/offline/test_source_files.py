"""Folders of rollout files: which files count, in which order, and what is refused."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from analysis import UsageError
from analysis.offline import read_rollouts
from tests.offline.small import write_jsonl

ROW: dict[str, Any] = {"prompt": "1 :", "response": "2", "reward": 1.0}


def rows(*responses: str) -> list[dict[str, Any]]:
    return [ROW | {"response": response} for response in responses]


def compressed(path: Path, codec: str, content: list[dict[str, Any]]) -> Path:
    with pa.CompressedOutputStream(str(path), codec) as stream:
        stream.write("".join(json.dumps(row) + "\n" for row in content).encode())
    return path


def test_files_of_a_folder_in_natural_order(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "part10.jsonl", rows("5"))
    compressed(tmp_path / "part2.jsonl.gz", "gzip", rows("3"))
    compressed(tmp_path / "part9.zst", "zstd", rows("4"))
    pd.DataFrame(rows("1", "2")).to_parquet(tmp_path / "part1.parquet")
    for name, content in ((".hidden", "x"), ("STABLE", ""), ("part1.jsonl.annotations.jsonl", '{"row": 1}')):
        (tmp_path / name).write_text(content)
    file = read_rollouts(tmp_path)
    assert [rollout.response for rollout in file.rollouts] == ["1", "2", "3", "4", "5"]
    assert [rollout.where for rollout in file.rollouts] == [
        *("part1.parquet row 1", "part1.parquet row 2", "part2.jsonl.gz line 1", "part9.zst line 1"),
        "part10.jsonl line 1",
    ]
    other = read_rollouts(tmp_path).sha256
    write_jsonl(tmp_path / "part11.jsonl", rows("6"))
    assert read_rollouts(tmp_path).sha256 != other == file.sha256


def test_a_folder_for_each_step(tmp_path: Path) -> None:
    for step in (2, 10):
        for rank in (0, 1):
            folder = tmp_path / f"step_{step}"
            folder.mkdir(exist_ok=True)
            write_jsonl(folder / f"rank_{rank}.jsonl", rows(f"{step} {rank}"))
        (folder / "STABLE").touch()
    file = read_rollouts(tmp_path)
    assert [rollout.response for rollout in file.rollouts] == ["2 0", "2 1", "10 0", "10 1"]
    assert file.rollouts[0].where == "step_2/rank_0.jsonl line 1"


def test_a_broken_row_is_named_with_its_file(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", rows("1"))
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as file:
        file.write(json.dumps(ROW) + '\n{"prompt": \n')
    with pytest.raises(UsageError, match=r"rollouts: b\.jsonl\.gz line 2: not valid JSON"):
        read_rollouts(tmp_path)
    assert len(read_rollouts(tmp_path, skip_bad=True).rollouts) == 2


def test_files_of_several_layouts_are_refused(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", rows("1"))
    write_jsonl(tmp_path / "b.jsonl", [{"input": "1 :", "output": "2", "gts": "2", "score": 1.0, "step": 3}])
    with pytest.raises(
        UsageError, match=r"one layout, got a\.jsonl \(a table with .* names\) and b\.jsonl \(rollout dump of verl\)"
    ):
        read_rollouts(tmp_path)


def test_a_folder_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot be read: Is a directory; expected a file, got an empty folder"):
        read_rollouts(tmp_path)
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(UsageError, match=r"got a folder of datasets\.save_to_disk"):
        read_rollouts(tmp_path)


class TestNamedFormats:
    def test_a_format_is_forced(self) -> None:
        row = {"input": "1 :", "output": "2", "gts": "2", "score": 1.0, "step": 3}
        assert read_rollouts([row]).layout == read_rollouts([row], format="verl").layout == "rollout dump of verl"
        file = read_rollouts([row], format="plain")
        assert (file.layout, file.rollouts[0].response, file.rollouts[0].reward) == (None, "2", 1.0)

    def test_plain_reads_what_a_layout_refuses(self) -> None:
        row = {"instruction": "add", "input": "1 :", "output": "2", "reward": 1.0}
        with pytest.raises(UsageError, match="Alpaca"):
            read_rollouts([row])
        assert read_rollouts([row], format="plain").rollouts[0].prompt == "1 :"

    def test_an_unknown_format(self) -> None:
        with pytest.raises(
            UsageError, match=r"format: expected one of plain, trl, .*, got 'vrl'; did you mean verl or trl\?"
        ):
            read_rollouts([ROW], format="vrl")
        with pytest.raises(UsageError, match=r"format: expected one of .*, got 'alpaca'"):
            read_rollouts([ROW], format="alpaca")

    def test_a_format_whose_columns_are_missing(self) -> None:
        with pytest.raises(
            UsageError,
            match=r"format: verl \(rollout dump of verl\) has the columns .*; rollouts has no input and no out",
        ):
            read_rollouts([ROW], format="verl")

    def test_columns_of_no_format_say_what_was_looked_for(self) -> None:
        with pytest.raises(
            UsageError,
            match=r"it has input, gts, score; map one .* none of the \d+ known layouts fits \(closest: rollout dump of "
            r"verl, verl, which lacks output\); format",
        ):
            read_rollouts([{"input": "1 :", "gts": "2", "score": 1.0}])
        with pytest.raises(UsageError, match=r"none of the \d+ known layouts fits; format"):
            read_rollouts([{"frage": "1 :"}])
