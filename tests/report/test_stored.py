"""A report that was made is used again until the records or the code change."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from analysis.records import Experiment
from analysis.report import StoredReport, figure_files, run_summary, stored
from tests.report.by_hand import make_experiment


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is computed rather than read; a figure is a small file."""
    made: list[str] = []
    summarize = run_summary.summarize

    def counted(source: Experiment) -> object:
        made.append("summary")
        return summarize(source)

    def drawn(source: Experiment, *, each_run: bool, tell: object) -> list[Path]:
        made.append("figures")
        folders = [source.folder, *([run.folder for run in source.runs.values()] if each_run else [])]
        for folder in folders:
            (folder / "figures").mkdir(exist_ok=True)
            (folder / "figures" / "a.png").touch()
        return [folder / "figures" / "a.png" for folder in folders]

    monkeypatch.setattr(run_summary, "summarize", counted)
    monkeypatch.setattr(figure_files, "write_figures", drawn)
    return made


@pytest.mark.slow
def test_nothing_is_computed_twice(tmp_path: Path, calls: list[str]) -> None:
    experiment = make_experiment(tmp_path)
    first = StoredReport(experiment)
    summary, figures, page = first.summary(), first.figures(), first.write_page()
    text = page.read_text()
    assert "(figures/a.png)" in text
    again = StoredReport(experiment)
    assert (again.summary(), again.figures(), again.write_page().read_text()) == (summary, figures, text)
    assert calls == ["summary", "figures"]
    assert len(again.figures(each_run=True)) == 1 + len(experiment.runs)
    assert len(StoredReport(experiment).figures()) == 1
    assert calls == ["summary", "figures", "figures"]


@pytest.mark.slow
def test_a_change_is_noticed(tmp_path: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = make_experiment(tmp_path)
    StoredReport(experiment).summary()
    StoredReport(experiment).figures()

    run = next(iter(experiment.runs.values()))
    (commit, *_) = sorted((run.folder / "commits").glob("*.json"))
    commit.write_text(commit.read_text() + "\n")
    StoredReport(experiment).summary()
    assert calls == ["summary", "figures", "summary"]

    monkeypatch.setattr(stored, "code_digest", lambda: "other code")
    StoredReport(experiment).summary()
    assert calls[3:] == ["summary"]

    StoredReport(experiment).figures()
    (experiment.folder / "figures" / "a.png").unlink()
    StoredReport(experiment).figures()
    assert calls[4:] == ["figures", "figures"]

    (experiment.folder / "summary.json").write_text("damaged")
    assert StoredReport(experiment).summary().name == experiment.name
    assert json.loads((experiment.folder / "summary.json").read_text())["summary"]["name"] == experiment.name
