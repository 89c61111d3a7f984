"""What the pages and settings of the repository say about the code is true of it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

import analysis

ROOT = Path(__file__).parents[1]
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def layers() -> list[set[str]]:
    """The packages of each layer that the import contract names, from the top."""
    contracts = PYPROJECT["tool"]["importlinter"]["contracts"]
    (names,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    return [set(re.split(r" [|:] ", layer)) for layer in names]


def test_the_table_of_packages_is_that_of_the_contracts() -> None:
    rows = re.findall(r"^\| (\d+) \| `([\w.]+)` \|", CONTRIBUTING, re.MULTILINE)
    table = [{package for number, package in rows if number == layer} for layer in dict.fromkeys(n for n, _ in rows)]
    assert table == layers()
    assert [number for number, _ in rows] == sorted((number for number, _ in rows), key=int, reverse=True)


def test_every_package_has_a_layer() -> None:
    public = {f"analysis.{path.stem}" for path in (ROOT / "analysis").glob("[!_]*") if path.suffix in ("", ".py")}
    assert public - {"analysis.py"} <= set().union(*layers())


def test_the_picture_shows_only_imports_that_the_layers_allow() -> None:
    (picture,) = re.findall(r"```mermaid\n(.*?)```", CONTRIBUTING, re.DOTALL)
    height = {package: -number for number, layer in enumerate(layers()) for package in layer}
    labels = dict(re.findall(r'(\w+)\["([\w., ]+)', picture))
    packages = {node: re.findall(r"[\w.]+", label)[0] for node, label in labels.items()}
    arrows = re.findall(r'(\w+)(?:\["[^"]*"\])? --> (\w+)', picture)
    assert len(arrows) > 10
    for above, below in arrows:
        assert height[packages[above]] > height[packages[below]], f"{above} --> {below}"


def test_paths_that_the_page_names_exist() -> None:
    planned = ("engines", "claims")
    paths = re.findall(r"`((?:analysis|tests|toy_models|docs|notebooks)/[\w./]*)`", CONTRIBUTING)
    assert len(paths) > 10
    assert not [path for path in paths if not (ROOT / path).exists() and not path.rstrip("/").endswith(planned)]


def test_targets_of_make_are_in_the_page_and_in_its_help() -> None:
    (phony,) = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    targets = set(phony.split()) - {"help", "ladder"}
    assert targets == set(re.findall(r"^\| `make ([\w-]+)`", CONTRIBUTING, re.MULTILINE))
    assert targets == set(re.findall(r'echo "make ([\w-]+) ', MAKEFILE))


def test_the_version_stands_in_one_place() -> None:
    assert PYPROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "analysis.version.__version__"}
    assert "version" not in PYPROJECT["project"]
    release = (ROOT / ".github/workflows/release.yml").read_text(encoding="utf-8")
    (checked,) = re.findall(r"grep .*__version__.* (\S+\.py)$", release, re.MULTILINE)
    assert f'__version__ = "{analysis.__version__}"' in (ROOT / checked).read_text(encoding="utf-8").splitlines()
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {analysis.__version__}\n" in citation
    assert f"\n## {analysis.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_modules_that_the_changelog_says_moved_are_where_it_says() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    moves = re.findall(r"^\| `([\w.]+)` \| `([\w.]+)` \|$", changelog, re.MULTILINE)
    assert len(moves) > 50
    for old, new in moves:
        assert not (ROOT / old.replace(".", "/")).is_dir(), old
        path = ROOT / new.replace(".", "/")
        assert path.is_dir() or path.with_suffix(".py").exists(), new


def test_every_dependency_is_pinned() -> None:
    def name(requirement: str) -> str:
        return re.split(r"[^\w.-]", requirement)[0].lower().replace("_", "-")

    extras = dict(PYPROJECT["project"]["optional-dependencies"])
    with_verl = [extras.pop("verl"), extras.pop("test-verl"), extras["math"], extras["duckdb"]]
    for file, groups in (("constraints.txt", extras.values()), ("constraints-verl.txt", with_verl)):
        pins = (ROOT / file).read_text(encoding="utf-8").split()
        needed = {name(line) for group in (PYPROJECT["project"]["dependencies"], *groups) for line in group}
        assert needed - {name(pin) for pin in pins} - {"rlvr-dynamics"} == set(), file


def test_the_extra_of_verl_has_the_tested_versions() -> None:
    (requirement,) = (line for line in PYPROJECT["project"]["optional-dependencies"]["verl"] if line.startswith("verl"))
    source = (ROOT / "analysis/engines/verl/versions.py").read_text(encoding="utf-8")
    oldest, newest = re.findall(r'^TESTED_VERL = \("([\d.]+)", "([\d.]+)"\)', source, re.MULTILINE)[0]
    major, minor, patch = newest.split(".")
    assert requirement == f"verl>={oldest},<{major}.{minor}.{int(patch) + 1}"
    for file in ("constraints.txt", "constraints-verl.txt"):
        assert f"verl=={newest}" in (ROOT / file).read_text(encoding="utf-8").split()


@pytest.mark.slow
def test_the_wheel_holds_every_file_that_the_packages_need(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    command += ["--disable-pip-version-check", "--wheel-dir", str(tmp_path / "wheel")]
    source = tmp_path / "source"
    for package in ("analysis", "toy_models", "rlvr_dynamics"):
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    needed = {str(path.relative_to(source)) for path in source.glob("*/**/*") if path.is_file()}
    subprocess.run([*command, str(source)], check=True, cwd=tmp_path)
    (wheel,) = (tmp_path / "wheel").glob("rlvr_dynamics-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert packed == needed
    assert {"analysis/recipes/built_in/tiny.toml", "analysis/py.typed", "toy_models/__init__.pyi"} <= packed
