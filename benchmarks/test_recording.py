"""What recording adds to a whole run of the default recipe: ratios of CPU time to the same run with nothing recorded.

    core      log π, 1 − π, H, Σπ², Σπ² log π (and the norm) of every token        bar: 1.05
    default   what the default recipe records                                      bar: 1.15

The three kinds of run are interleaved in one process with one thread; each ratio is the median over the repeats of
ratios within a repeat. `STEPS` and `REPEATS` in the environment change the size (40 and 3).
"""

from __future__ import annotations

import os
import time

import pytest
import torch

from analysis.recipes import Recipe
from analysis.training.loop import Loop
from benchmarks.ratios import note_ratios
from toy_models import ensure_base

STEPS, REPEATS = int(os.environ.get("STEPS", "40")), int(os.environ.get("REPEATS", "3"))
KINDS = {
    "nothing": {"record.tokens": 0.0, "record.rollouts": 0.0, "record.contexts": 0},
    "core": {"record.tokens": 1.0, "record.rollouts": 0.0, "record.contexts": 0, "record.columns": "core"},
    "default": {},
}


@pytest.mark.parametrize("label", ["PSR", "GRPO"])
def test_overhead_of_recording(benchmark, tmp_path, label):
    torch.set_num_threads(1)
    ensure_base("path", 0)
    seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}

    def once(kind, number):
        recipe = Recipe.load("default").set(steps=STEPS, **KINDS[kind])
        config = next(run.config for run in recipe.expand() if run.label == label)
        loop = Loop(config, tmp_path / f"{kind}-{number}", run_id=kind, label=label)
        start = time.process_time()
        assert loop.run() == "complete"
        seconds[kind].append(time.process_time() - start)

    def interleaved():
        for number in range(REPEATS):
            for kind in KINDS:
                once(kind, number)

    once("nothing", "warm-up")
    seconds["nothing"].clear()
    benchmark.pedantic(interleaved, rounds=1, iterations=1)
    note_ratios(benchmark, seconds, "nothing", "seconds", steps=STEPS)
