"""The documentation site builds offline without a warning, and what its pages tell readers to type exists."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from docs.generators import reference_pages

ROOT = Path(__file__).parents[2]
MADE_AT_BUILD_TIME = ("_build", "reference", "notebooks")
PAGES = sorted(
    path for path in (ROOT / "docs").rglob("*.md") if path.relative_to(ROOT / "docs").parts[0] not in MADE_AT_BUILD_TIME
)
_FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def _blocks(language: str) -> list[object]:
    return [
        pytest.param(text, id=f"{path.relative_to(ROOT / 'docs')}-{i}")
        for path in PAGES
        for i, (kind, text) in enumerate(_FENCE.findall(path.read_text(encoding="utf-8")))
        if kind == language
    ]


@pytest.mark.slow
def test_the_site_builds_without_warnings(tmp_path: Path) -> None:
    command = ["-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "-d", str(tmp_path / "trees"), "docs"]
    run = subprocess.run([sys.executable, *command, str(tmp_path / "html")], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    for page in ("index", "reference/analysis.laws", "notebooks/01_first_trace"):
        assert (tmp_path / f"html/{page}.html").exists()


def _exists_elsewhere(name: str) -> bool:
    """Whether the source of a package that needs another environment has the module or the name at its top level."""
    parts = name.split(".")
    for depth in range(len(parts), 0, -1):
        place = ROOT.joinpath(*parts[:depth])
        source = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
        if source.exists():
            break
    names = re.compile(
        rf"^(?:def|class) {parts[-1]}\b|^{parts[-1]}\b.*=|^from .* import .*\b{parts[-1]}\b", re.MULTILINE
    )
    return depth == len(parts) or (depth == len(parts) - 1 and bool(names.search(source.read_text(encoding="utf-8"))))


@pytest.mark.parametrize("code", _blocks("python"))
def test_python_on_the_pages_names_what_exists(code: str) -> None:
    tree = ast.parse(code)
    bound: dict[str, object] = {name: importlib.import_module(name) for name in ("analysis", "toy_models")}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("analysis", "toy_models"):
            full = [f"{node.module}.{alias.name}" for alias in node.names]
            if any(name.startswith(reference_pages.ELSEWHERE) for name in full):
                assert all(map(_exists_elsewhere, full)), full
                continue
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                bound[alias.asname or alias.name] = getattr(module, alias.name)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in bound:
            getattr(bound[node.value.id], node.attr)


@pytest.mark.parametrize("page", ["tutorials/student.md", "how_to/add_an_objective.md"])
def test_python_on_pages_that_need_no_data_runs(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    for kind, code in _FENCE.findall((ROOT / "docs" / page).read_text(encoding="utf-8")):
        if kind == "python":
            exec(code, names)
    assert "0.2150" in capsys.readouterr().out or page != "tutorials/student.md"


@pytest.mark.parametrize("text", _blocks("toml"))
def test_toml_on_the_pages_is_valid(text: str) -> None:
    assert tomllib.loads(text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT / "docs")))
def test_commands_files_and_functions_on_the_pages_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for module in re.findall(r"python -m ((?:analysis|toy_models|docs)[\w.]*)", text):
        assert importlib.util.find_spec(module.rstrip(".")), module
    for path in re.findall(r"`((?:analysis|toy_models|docs|tests|notebooks|figures)/[\w./-]+)`", text):
        assert (ROOT / path).exists(), path
    for name in re.findall(r"`((?:analysis|toy_models)\.[\w.]+)(?:\(.*?\))?`", text):
        if name.startswith(reference_pages.ELSEWHERE):
            assert _exists_elsewhere(name.rstrip(".")), name
            continue
        parts = name.rstrip(".").split(".")
        depth = next(n for n in range(len(parts), 0, -1) if importlib.util.find_spec(".".join(parts[:n])))
        value: object = importlib.import_module(".".join(parts[:depth]))
        for part in parts[depth:]:
            value = getattr(value, part)
