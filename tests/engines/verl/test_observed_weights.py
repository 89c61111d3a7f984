"""Weights, log-probs and training of the observing engine, in float64 and beside verl's own engine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import analysis

from .observed_comparison import compare, left_by
from .observed_program import CASES, STEPS

pytestmark = pytest.mark.slow  # processes that import verl
ROOT = Path(__file__).parents[3]
FUSED = [name for name, case in CASES.items() if case.fused]
PLAIN = [name for name, case in CASES.items() if not case.fused]


def program(*arguments: str, processes: int = 1) -> dict[str, Any]:
    """Command, environment and folder of the program, for `subprocess`."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else []), "-m", "tests.engines.verl.observed_program"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return {"args": [*command, *arguments], "env": environment, "cwd": ROOT}


def run_program(*arguments: str, processes: int = 1) -> subprocess.CompletedProcess[str]:
    """The program in processes of their own."""
    return subprocess.run(**program(*arguments, processes=processes), capture_output=True, text=True, check=False)


def run_cases(folder: Path, names: list[str]) -> Path:
    finished = run_program("cases", str(folder), *names)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_cases(tmp_path_factory.mktemp("plain"), PLAIN)


@pytest.fixture(scope="module")
def fused(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In a process of its own: with fused kernels verl replaces the forward method of the model's class."""
    return run_cases(tmp_path_factory.mktemp("fused"), FUSED)


@pytest.mark.parametrize("name", CASES)
def test_records_are_those_of_float64(name: str, plain: Path, fused: Path) -> None:
    compare(fused if CASES[name].fused else plain, name)


@pytest.mark.parametrize("name", CASES)
def test_training_is_that_of_verl_bit_by_bit(name: str, plain: Path, fused: Path) -> None:
    left = left_by(fused if CASES[name].fused else plain, name)
    stock, observed = left["stock"], left["observed"]
    for before, after in zip([*stock["before"], stock["after"]], [*observed["before"], observed["after"]], strict=True):
        assert before.keys() == after.keys()
        assert all(torch.equal(before[key], after[key]) for key in before)
    for ours, theirs in zip(observed["logs"], stock["logs"], strict=True):
        same = [key for key in theirs if not key.startswith(("perf/", "mfu"))]
        assert {key: ours[key] for key in same} == {key: theirs[key] for key in same}
        assert not [key for key in theirs if key.startswith("dynamics/")]
    assert any((stock["after"][key] != stock["before"][0][key]).any() for key in stock["after"])


def test_packed_padded_and_padded_to_a_length_give_the_same_rows(plain: Path) -> None:
    keys = ["update", "rollout", "position"]
    tables = []
    for name in ("packed-warm", "padded-warm", "to-length", "dynamic"):
        table = analysis.load_trace(plain / name / "run").table("tokens").sort_values(keys).reset_index(drop=True)
        tables.append(table)
    for table in tables[1:]:
        assert table[[*keys, "token", "clip"]].equals(tables[0][[*keys, "token", "clip"]])
        for column, tolerance in (("weight", 2e-7), ("log_prob", 5e-6), ("entropy", 5e-6)):
            assert (table[column] - tables[0][column]).abs().max() < tolerance


def test_whole_prompts_are_drawn(plain: Path) -> None:
    run = analysis.load_trace(plain / "sampled" / "run")
    rollouts = run.table("rollouts").set_index(["step", "rollout"])
    tokens = run.table("tokens").join(rollouts[["prompt_id", "dropped"]], on=["step", "rollout"])
    assert set(tokens["update"]) == set(run.table("updates")["update"])
    for _, of_step in tokens.groupby("step"):
        drawn = set(of_step["prompt_id"])
        assert 0 < len(drawn) < 3
        of_prompts = rollouts[rollouts["prompt_id"].isin(drawn)]
        assert set(of_step["rollout"]) <= set(of_prompts.index.get_level_values("rollout"))


def test_a_second_pass_is_a_second_epoch(plain: Path) -> None:
    updates = analysis.load_trace(plain / "epochs" / "run").table("updates")
    assert updates["epoch"].tolist() == [0, 0, 1, 1] * STEPS
    assert updates["minibatch"].tolist() == [0, 1, 0, 1] * STEPS
    assert updates["step"].tolist() == [step for step in range(STEPS) for _ in range(4)]
