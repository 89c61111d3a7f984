"""Rows of large files, read one at a time: the rows, prompts and splits of small files, and nothing is read twice."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from toy_models import DataFiles, FileTask, file_digests
from toy_models.file_digests import file_digest
from toy_models.large_tables import LargeTable, open_table
from toy_models.table_files import read_table
from toy_models.tasks import prompt_tables
from toy_models.tasks.tokenizer import word_tokenizer
from toy_models.verifiers import get_verifier

DIGITS = [str(n) for n in range(100)]


@pytest.fixture(autouse=True)
def _large(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every file counts as large, and what is kept lies in a cache folder of the test's own."""
    monkeypatch.setattr(file_digests, "LARGE", 1)
    monkeypatch.setenv("RLVR_DYNAMICS_CACHE", str(tmp_path / "cache"))
    file_digests._digest.cache_clear()


def sums(n: int) -> list[dict[str, Any]]:
    return [{"prompt": f"{i % 50} + {i // 50} =", "answer": str(i), "more": {"a": [i]}} for i in range(n)]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=7)
    else:
        lines = [json.dumps(row) for row in rows]
        path.write_text("\ufeff" + "\n".join(["", *lines[:2], "   ", *lines[2:]]), encoding="utf-8")
    return path


def task(path: Path) -> FileTask:
    tokenizer = word_tokenizer(["<pad>", "$", "+", "=", *DIGITS], pad="<pad>", eos="$")
    return FileTask(tokenizer, DataFiles(path), get_verifier("exact"), 3)


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_the_same_rows(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, sums(40))
    for columns, optional in ((["prompt", "answer"], ()), (["more.a"], None), (["prompt"], ["more", "absent"])):
        rows, small = open_table(path, columns, optional), read_table(path, columns, optional)
        assert isinstance(rows, LargeTable)
        assert list(rows) == small
        assert rows[-1] == small[-1]
        assert rows[3:9] == small[3:9]
        with pytest.raises(IndexError):
            rows[40]


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_the_same_prompts_and_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    path = write(tmp_path / name, [*sums(40), *sums(5)])
    large = task(path)
    monkeypatch.setattr(file_digests, "LARGE", 1 << 40)
    small = task(path)
    for split in ("train", "validation", "test"):
        assert list(large.prompts(split)) == list(small.prompts(split))
        assert large.prompts(split)[:3] == small.prompts(split)[:3]
    prompt = large.prompts("train")[5]
    assert large.verify(prompt.ids, [*large.tokenizer.encode(prompt.answer), 1]).correct


def test_a_second_start_puts_no_prompt_into_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.jsonl", sums(40))
    before = {split: list(task(path).prompts(split)) for split in ("train", "test")}

    def never(self: Any, items: Any) -> Any:
        raise AssertionError("the names of the prompts are kept")

    monkeypatch.setattr(prompt_tables.PromptEncoder, "names", never)
    again = task(path)
    assert {split: list(again.prompts(split)) for split in before} == before
    write(tmp_path / "a.jsonl", sums(41))
    with pytest.raises(AssertionError, match="are kept"):
        task(path)


def test_another_tokenizer_has_names_of_its_own(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", sums(40))
    first = task(path)
    reversed_words = word_tokenizer(["<pad>", "$", "+", "=", *DIGITS[::-1]], pad="<pad>", eos="$")
    other = FileTask(reversed_words, DataFiles(path), get_verifier("exact"), 3)
    assert {p.prompt_id for p in first.prompts("test")} != {p.prompt_id for p in other.prompts("test")}
    assert other.prompts("test")[0].ids == tuple(reversed_words.encode(other.prompts("test")[0].text))


def test_faults_name_the_line(tmp_path: Path) -> None:
    lines = [json.dumps(row) for row in sums(4)]
    for bad, message in (
        ('{"prompt": "1"', r"a.jsonl line 3: not valid JSON"),
        ("[1]", r"a.jsonl line 3: expected an object \{…\} on each line, got \[1\]"),
        ('{"prompt": "1 + 1 ="}', "a.jsonl line 3: no column 'answer'; it has prompt"),
        ('{"prompt": " ", "answer": "1"}', "a.jsonl line 3: expected a prompt in 'prompt', got an empty one"),
    ):
        (tmp_path / "a.jsonl").write_text("\n".join([*lines[:2], bad, *lines[2:]]))
        with pytest.raises(ValueError, match=message):
            DataFiles(tmp_path / "a.jsonl").read()


def test_lines_that_end_otherwise_and_other_formats_are_read_as_before(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes("\r\n".join(json.dumps(row) for row in sums(4)).encode())
    (tmp_path / "b.json").write_text(json.dumps(sums(4)))
    (tmp_path / "c.jsonl").write_text(json.dumps({"prompt": ["a", "b"], "answer": ["1", "2"]}))
    for name, count in (("a.jsonl", 4), ("b.json", 4), ("c.jsonl", 2)):
        rows = open_table(tmp_path / name, ["prompt", "answer"])
        assert isinstance(rows, list)
        assert len(rows) == count


def test_a_broken_parquet_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", sums(9))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"a.parquet cannot be read"):
        open_table(path, ["prompt"])


class TestDigests:
    def test_of_the_content(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_bytes(b"abc")
        assert file_digest(tmp_path / "a").startswith("ba7816bf8f01cfea")
        stat = (tmp_path / "a").stat()
        (tmp_path / "a").write_bytes(b"abd")  # as long, and dated back
        os.utime(tmp_path / "a", ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert not file_digest(tmp_path / "a").startswith("ba7816bf8f01cfea")

    def test_is_computed_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "a").write_bytes(b"abc")
        digest = file_digest(tmp_path / "a")
        file_digests._digest.cache_clear()  # another process
        monkeypatch.setattr(file_digests.hashlib, "file_digest", None)
        assert file_digest(tmp_path / "a") == digest

    def test_without_a_cache_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RLVR_DYNAMICS_CACHE", "/dev/null")
        for name in ("a.jsonl", "a.parquet"):
            path = write(tmp_path / name, sums(20))
            assert len(task(path).prompts("train")) == 16
