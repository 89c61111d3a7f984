"""The public face: every name resolves and is documented, and importing it changes nothing."""

from __future__ import annotations

import importlib
import subprocess
import sys

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
