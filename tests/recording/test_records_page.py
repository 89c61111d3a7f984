"""docs/records.md is what the schema says."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.recording.__main__ import main
from analysis.recording.document import records_page
from analysis.recording.schema import TABLES, arrow_schema

PAGE = Path(__file__).parents[2] / "docs" / "records.md"


def test_page_is_fresh() -> None:
    assert main(["--check", "--path", str(PAGE)]) == 0


def test_stale_page_fails_and_is_rewritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "docs" / "records.md"
    assert main(["--check", "--path", str(path)]) == 1
    assert "is stale; run python -m analysis.recording" in capsys.readouterr().err
    assert main(["--path", str(path)]) == 0
    assert main(["--check", "--path", str(path)]) == 0
    path.write_text(path.read_text() + "\n")
    assert main(["--check", "--path", str(path)]) == 1


def test_every_column_is_described() -> None:
    page = records_page()
    for table in TABLES.values():
        section = page.split(f"\n## {table.name}\n")[1].split("\n## ")[0]
        for column in table.columns:
            assert column.doc
            assert f"| {column.name} |" in section
        assert set(table.key) <= set(table.names)
        assert arrow_schema(table.name).names == list(table.names)
        assert len(set(table.names)) == len(table.names)
