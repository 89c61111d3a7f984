"""On a GPU a run takes the same path as on the CPU; without one these are skipped, and the path is tested small there
(`test_precision_and_memory`)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from analysis.recipes import Recipe
from analysis.records import load_trace
from analysis.training.loop import train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; torch sees none here"),
]

SMALL = {"steps": 2, "rollout.prompts": 8, "eval.prompts": 4, "eval.final_prompts": 4, "record.tokens": 1.0}


def run_on(device, folder, **changes):
    recipe = Recipe.load("tiny").set(device=device, **SMALL, **changes)
    config = next(run.config for run in recipe.expand() if run.label == "PSR")
    assert train(config, folder, run_id="r", label="L") == "complete"
    return load_trace(folder)


def test_the_first_step_is_that_of_the_cpu(tmp_path):
    cpu, gpu = run_on("cpu", tmp_path / "cpu"), run_on("cuda", tmp_path / "gpu")
    base = [run.table("evals").query("step == 0")["p"].to_numpy() for run in (cpu, gpu)]
    np.testing.assert_allclose(*base, rtol=1e-4)  # sums of float32 products in another order
    first = [run.table("rollouts").query("step == 0")["response_ids"].tolist() for run in (cpu, gpu)]
    same = np.mean([list(a) == list(b) for a, b in zip(*first, strict=True)])
    assert same > 0.95  # a uniform within rounding of an edge may choose another token


def test_low_precision_and_micro_batches(tmp_path):
    changes = {"rollout.dtype": "bfloat16", "update.autocast": "bfloat16", "update.micro_batch": 16}
    run = run_on("cuda", tmp_path / "run", **changes)
    tokens = run.table("tokens").query("update == 0")
    assert (tokens["sampling_log_prob"] - tokens["log_prob"]).abs().median() < 0.05
    assert run.table("timings")["peak_cuda_bytes"].max() > 0
