"""The pages of docs/ that are made from code are those of today's code, and a stale one is noticed and rewritten."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs.generators.__main__ import PAGES, main
from docs.generators.layers_picture import layers, layers_picture

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_page_is_fresh(name: str) -> None:
    assert main(["--check", name]) == 0


def test_stale_page_fails_and_is_rewritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["records", "--root", str(tmp_path)]
    assert main(["--check", *arguments]) == 1
    assert "is stale; run python -m docs.generators --write records" in capsys.readouterr().err
    assert main(["--write", *arguments]) == 0
    assert main(["--check", *arguments]) == 0
    page = tmp_path / PAGES["records"].path
    page.write_text(page.read_text() + "\n")
    assert main(["--check", *arguments]) == 1


def test_nothing_is_written_unless_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--root", str(tmp_path)]) == 0
    assert "usage: python -m docs.generators" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_unknown_page_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--check", "recordz"])
    assert exit_.value.code == 2
    assert "got recordz" in capsys.readouterr().err


def test_the_picture_shows_every_package_once() -> None:
    names = [name for row in layers() for name in row]
    assert len(names) == len(set(names))
    packages = {path.parent.name for path in (ROOT / "analysis").glob("*/__init__.py")}
    assert packages <= {name.removeprefix("analysis.") for name in names}
    assert all(f">{name.removeprefix('analysis.')}</text>" in layers_picture() for name in names)
