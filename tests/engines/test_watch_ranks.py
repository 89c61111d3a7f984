"""Several processes under `watch`: they write one folder, and what is in it is what one process would have recorded."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import analysis

pytest.importorskip("trl", reason="trl is not installed")

ROOT = Path(__file__).parents[2]
KEYS = ["update", "step", "rollout", "position"]


def start(folder: Path, mode: str, processes: int) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true"}
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    program = ["-m", "tests.engines.ranks_program", str(folder), mode]
    command = [sys.executable, *(launcher if processes > 1 else []), *program]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    finished = start(folder, "ddp", 1)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return analysis.load_trace(folder / "run")


@pytest.mark.slow  # processes that import TRL
@pytest.mark.parametrize("mode", ["ddp", "checkpointing", "fsdp2"])
def test_two_processes_record_what_one_records(mode, alone, tmp_path):
    finished = start(tmp_path, mode, 2)
    assert finished.returncode == 0, finished.stderr[-3000:]
    run = analysis.load_trace(tmp_path / "run", verify=True)
    assert run.status == "complete"
    one, two = (r.table("tokens").sort_values(KEYS).reset_index(drop=True) for r in (alone, run))
    assert one[[*KEYS, "token"]].equals(two[[*KEYS, "token"]])
    # the order of float32 sums over 16 rows differs, and after each update so do the parameters
    assert np.abs(one["weight"] - two["weight"]).max() < 5e-6 * one["weight"].abs().max()
    for name in ("log_prob", "entropy"):
        assert np.abs(one[name] - two[name]).max() < 2e-5
    columns = ["step", "rollout", "prompt_id", "group", "reward", "correct", "length", "dropped"]
    rollouts = [r.table("rollouts").sort_values(["step", "rollout"]).reset_index(drop=True) for r in (alone, run)]
    assert rollouts[0][columns].equals(rollouts[1][columns])
    assert set(rollouts[1]["rank"]) == {0, 1}
    assert sorted(alone.table("prompts")["prompt_id"]) == sorted(run.table("prompts")["prompt_id"])
    for table in ("updates", "steps"):
        first, second = alone.table(table), run.table(table)
        for name in first:
            values, others = first[name].to_numpy(float), second[name].to_numpy(float)
            assert np.allclose(values, others, rtol=1e-4, atol=1e-6, equal_nan=True), name


@pytest.mark.slow  # processes that import TRL
def test_a_process_that_dies_leaves_whole_records(tmp_path):
    finished = start(tmp_path, "dies", 2)
    assert finished.returncode != 0
    run = analysis.load_trace(tmp_path / "run", verify=True)
    updates = run.table("updates")["update"].tolist()
    assert updates == [0, 1][: len(updates)]
    assert len(updates) >= 1
    assert sorted(run.table("tokens")["update"].unique()) == updates
    assert run.status in ("running", "interrupted")
