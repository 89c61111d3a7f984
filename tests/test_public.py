"""The public face: every name resolves and is documented, and importing it changes nothing."""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOMS = (
    "analysis",
    "analysis.laws",
    "analysis.objectives",
    "analysis.token_stats",
    "analysis.records",
    "analysis.probes",
    "analysis.evaluation",
    "analysis.gradient_noise",
    "analysis.recipes",
    "analysis.training",
    "analysis.experiments",
    "analysis.offline",
    "analysis.engines",
    "analysis.factorial",
    "analysis.diagnosis",
    "analysis.passk",
    "analysis.plots",
    "analysis.report",
    "toy_models",
)


@pytest.mark.parametrize("room", ROOMS)
def test_public_names_resolve_and_are_documented(room):
    module = importlib.import_module(room)
    assert module.__doc__
    for name in module.__all__:
        thing = getattr(module, name)
        if callable(thing):
            assert thing.__doc__, f"{room}.{name} has no docstring"
    assert set(module.__all__) <= set(dir(module))
    with pytest.raises(AttributeError, match=f"{room}.*nothing"):
        _ = module.nothing


def test_imports_change_no_thread_counts_and_the_face_loads_no_torch():
    code = """
import sys, analysis, toy_models, analysis.trace
assert "torch" not in sys.modules and "numpy" not in sys.modules
import torch
threads, state = torch.get_num_threads(), torch.random.get_rng_state()
for name in analysis.__all__: getattr(analysis, name)
for name in toy_models.__all__: getattr(toy_models, name)
assert torch.get_num_threads() == threads and torch.equal(torch.random.get_rng_state(), state)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("command", ["analysis.trace", "analysis", "rlvr_dynamics.trace", "toy_models.verifiers"])
def test_a_python_without_the_dependencies_is_told_what_to_use(command):
    bare = [sys.executable, "-S", "-m", command, "--help"]  # -S: no packages but those of the current folder
    ended = subprocess.run(bare, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1])
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: rlvr-dynamics: the dependencies are missing from this Python; activate the")
    assert f"(this is {sys.executable}, Python 3." in ended.stderr
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize("package", ["analysis", "rlvr_dynamics", "toy_models"])
def test_a_python_that_is_too_old_is_named(package):
    code = f"""
import sys
sys.version_info = (3, 10, 12)
try: import {package}
except ImportError as error: print(error)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out == f"rlvr-dynamics: expected Python 3.11 or newer (this is {sys.executable}, Python 3.10)\n"


def test_the_message_for_an_old_python_needs_no_new_one():
    """What is read before the check has the syntax of Python 3.7."""
    import toy_models
    import toy_models.interpreter

    for path in (toy_models.__file__, toy_models.interpreter.__file__):
        ast.parse(Path(path).read_text(encoding="utf-8"), feature_version=(3, 7))


@pytest.mark.slow
def test_the_name_of_the_project_serves_beside_a_folder_called_analysis(tmp_path):
    """The public names, a command and a whole experiment with its worker processes, from the package's own files."""
    (tmp_path / "analysis").mkdir()
    (tmp_path / "analysis" / "__init__.py").write_text("")
    code = """
import rlvr_dynamics as analysis
import rlvr_dynamics.laws
assert analysis.token_statistics.__module__ == "rlvr_dynamics.token_stats.dispatch"
assert issubclass(analysis.UsageError, ValueError)
recipe = analysis.Recipe.load("tiny").set(steps=1, **{"eval.prompts": 1, "eval.final_prompts": 1})
experiment = analysis.run(recipe, out="runs/x", quiet=True)
assert experiment.status == "complete"
assert len(experiment["PSR"].laws()) > 0
"""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    for command in (["-c", code], ["-m", "rlvr_dynamics.trace", "--list"], ["-m", "rlvr_dynamics", "trace", "--list"]):
        subprocess.run([sys.executable, *command], check=True, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)
