"""Both routes by which verl loads the package, in processes of their own, and what each says where it cannot."""

from __future__ import annotations

import doctest
import importlib
import os
import pkgutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import analysis.engines.verl as package
from analysis.engines.verl.versions import check_verl, verl_version
from analysis.errors import UsageError

ROOT = Path(__file__).resolve().parents[3]
NAME = "analysis.engines.verl"
LOADED = f"""
import sys, verl
from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY, POLICY_LOSS_REGISTRY
print("{NAME}" in sys.modules, "psr" in ADV_ESTIMATOR_REGISTRY, "psr_ratio" in POLICY_LOSS_REGISTRY)
import ray, torch
print(ray.is_initialized(), torch.cuda.is_initialized())
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A folder for PYTHONPATH with the package's metadata, as an installation makes them from pyproject.toml."""
    points = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]
    lines = [f"{name} = {target}" for name, target in points["verl.plugins"].items()]
    write_metadata(tmp_path, "rlvr-dynamics", "0.1.0", "\n".join(["[verl.plugins]", *lines]))
    return tmp_path


def write_metadata(folder: Path, name: str, version: str, points: str = "") -> None:
    place = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    place.mkdir()
    (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (place / "entry_points.txt").write_text(points)


def python(code: str, path: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": f"{path}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"} | variables
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, env=environment, check=False
    )


def said(ended: subprocess.CompletedProcess[str]) -> list[str]:
    assert ended.returncode == 0, ended.stderr
    return [line for line in ended.stdout.splitlines() if line.startswith(("True", "False"))]


@pytest.mark.slow
def test_the_entry_point_loads_it_without_ray_and_accelerator(path: Path) -> None:
    assert said(python(LOADED, path)) == ["True True True", "False False"]


@pytest.mark.slow
def test_the_entry_point_can_be_switched_off(path: Path) -> None:
    assert said(python(LOADED, path, VERL_USE_EXTERNAL_PLUGINS="none"))[0] == "False False False"


@pytest.mark.slow
def test_it_can_be_imported_before_verl(path: Path) -> None:
    assert said(python(f"import {NAME}\n{LOADED}", path))[0] == "True True True"


@pytest.mark.slow
def test_an_import_that_fails_is_silent_by_one_route_and_loud_by_the_other(path: Path) -> None:
    write_metadata(path, "verl", "0.8.0")
    assert said(python(LOADED, path))[0] == "False False False"
    library = f"from verl.utils.import_utils import import_external_libs\nimport_external_libs('{NAME}')"
    for ended in (python(library, path), python("import verl", path, VERL_USE_EXTERNAL_MODULES=NAME)):
        assert ended.returncode == 1
        assert "expected verl 0.9.1, the tested range, got verl 0.8.0; install verl 0.9.1" in ended.stderr


def test_versions_outside_the_tested_range() -> None:
    check_verl(verl_version())
    with pytest.raises(ImportError, match=r"expected verl 0\.9\.1, got none; install the extra `verl`"):
        check_verl(None)
    for version in ("0.9.0", "0.9.2", "0.10.0"):
        with pytest.raises(UsageError, match=rf"expected verl 0\.9\.1, the tested range, got verl {version}"):
            check_verl(version)


def test_public_names_are_described() -> None:
    assert package.__doc__
    for name in package.__all__:
        thing = getattr(package, name)
        assert not callable(thing) or thing.__doc__, name


MODULES = [info.name for info in pkgutil.walk_packages(package.__path__, f"{NAME}.") if "__main__" not in info.name]


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_docstrings(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__
    results = doctest.testmod(module)
    assert results.failed == 0
