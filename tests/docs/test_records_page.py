"""docs/records.md is what the schema says."""

from __future__ import annotations

from analysis.records.schema import TABLES, arrow_schema
from docs.generators.records_page import records_page


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
