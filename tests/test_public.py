"""The public face: every name resolves and is documented, and importing it changes nothing."""

from __future__ import annotations

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
    "analysis.factorial",
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
