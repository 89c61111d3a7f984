"""Experiments whose runs were drawn from or evaluated under different truncations."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from analysis.common.tables import Column, Table
from analysis.report import summarize
from analysis.report.curves import pass_at_k_curves
from tests.report.by_hand import make_experiment


def keys(table: Table) -> list[str]:
    return [column.key for column in table.columns if isinstance(column, Column)]


@pytest.mark.slow
def test_truncations_are_kept_apart_and_the_bias_is_shown_where_there_is_one(tmp_path) -> None:
    experiment = make_experiment(tmp_path / "e", contexts=False)
    assert all("rollout_kl_nats" not in keys(table) for table in summarize(experiment).tables)
    runs = dict(experiment.runs)
    truncated = runs["nsr-seed0"]
    read = truncated.table

    def table(name: str, *arguments: Any, **options: Any) -> Any:
        rows = read(name, *arguments, **options)
        if name == "steps" and "rollout_kl" in rows:
            return rows.assign(rollout_kl=0.04)
        return rows.assign(top_p=0.9) if name == "evals" else rows

    truncated.table = table  # type: ignore[method-assign]
    changed: Any = SimpleNamespace(runs=runs, name="e", folder=experiment.folder)
    tables = {one.title: one for one in summarize(changed).tables}
    whole, part = tables["at equal steps (step 2)"], tables["at equal steps (step 2), evaluated at top-p 0.9"]
    assert [row[0] for row in whole.rows][1:] == ["PSR"]
    assert [row[0] for row in part.rows][1:] == ["NSR"]
    assert "rollout_kl_nats" not in keys(whole)
    assert keys(part)[-1] == "rollout_kl_nats"
    assert part.rows[-1][-1].value == pytest.approx(0.04)
    assert "log(rollout distribution / policy)" in part.note
    found = pass_at_k_curves(list(runs.values())).groupby("sampling")["label"].unique().map(set)
    assert {name: labels - {"base"} for name, labels in found.items() if "T = 1" in name} == {
        "T = 1": {"PSR"},
        "T = 1, top-p 0.9": {"NSR"},
    }
