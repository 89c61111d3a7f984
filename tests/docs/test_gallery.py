"""The gallery holds every plot, its pictures exist and are small, and its commands are those of the toolkit."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

from analysis import plots, report
from docs.generators.gallery_page import ENTRIES, Entry, gallery_page
from docs.generators.gallery_pictures import experiment_pictures, main

DOCS = Path(__file__).parents[2] / "docs"
MOST_BYTES = 150_000
LEDGER = "ledger"  # its forests are as long as there are claims; `make ledger` draws them


def test_every_plot_is_in_a_picture() -> None:
    drawing = {
        name
        for name in plots.__all__
        if inspect.isfunction(getattr(plots, name))
        and next(iter(inspect.signature(getattr(plots, name)).parameters), "") == "ax"
    }
    shown = {name for entry in ENTRIES for name in entry.plots}
    assert drawing - {"heading", "reference_line"} == shown


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.picture)
def test_its_picture_is_there_and_small(entry: Entry) -> None:
    path = (DOCS / entry.picture).resolve()
    assert path.is_file()
    if LEDGER not in path.name:
        assert path.stat().st_size < MOST_BYTES
    assert entry.shows.endswith(".")
    if entry.python:
        call = ast.parse(entry.command, mode="eval").body
        assert isinstance(call, ast.Call)
        assert hasattr(report, ast.unparse(call.func).removeprefix("report."))


def test_every_picture_of_the_gallery_is_drawn_by_the_generator() -> None:
    own = {Path(entry.picture).stem for entry in ENTRIES if entry.picture.startswith("images/")}
    assert {path.stem for path in (DOCS / "images" / "gallery").iterdir()} == own
    source = inspect.getsource(experiment_pictures)
    assert all(f'"{name}"' in source for name in own - {"laws"})


def test_the_page_has_every_picture_and_command() -> None:
    page = gallery_page()
    for entry in ENTRIES:
        assert f"]({entry.picture})" in page
        assert f"\n{entry.command}\n```" in page


def test_the_laws_are_drawn_without_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--laws", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "laws.png").stat().st_size > 10_000
    assert "laws.png" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected the folder of an experiment, or --laws, got neither"),
        (["missing"], "got missing, which does not exist"),
    ],
)
def test_without_records_it_says_what_to_run(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err
