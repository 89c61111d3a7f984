"""Records of an observed training beside float64: every recorded token, and every number that has its own column."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

import analysis

from .observed_oracle import OracleUpdate, update
from .observed_program import CASES, MINI, STEPS, rows_of

# float32 forward passes round log π (about −4) by 1e-6; w (at most about 0.1) follows ρ, so by 1e-6 of itself
TOLERANCES = {"weight": 1e-7, "kl_weight": 1e-7, "entropy_weight": 1e-8, "log_prob": 5e-6, "entropy": 5e-6}
GRADIENT_NORM = 1e-5  # relative
# in bfloat16 log π rounds by about 0.01 and a weight by as much of itself; a clip can fall on the other side
BF16 = {"weight": 0.003, "entropy_weight": 1e-5, "log_prob": 0.05, "entropy": 0.02}


def minibatches(name: str) -> list[list[dict[str, Any]]]:
    """The rows of each update, with their numbers in the step, −1 for padding."""
    found = []
    for step in range(1, STEPS + 1):
        rows = rows_of(step)
        for number, row in enumerate(rows):
            row["number"] = -1 if row["uid"].startswith("pad") else number
        for _ in range(CASES[name].epochs):
            found += [rows[first : first + MINI] for first in range(0, len(rows), MINI)]
    return found


@cache
def left_by(folder: Path, name: str) -> dict[str, Any]:
    """What the program left of a case."""
    left: dict[str, Any] = torch.load(folder / name / "left.pt", weights_only=False)
    return left


@cache
def oracle(folder: Path, name: str) -> list[OracleUpdate]:
    """Every update of a case in float64, at the parameters that the observed training had."""
    before = left_by(folder, name)["observed"]["before"]
    batches = minibatches(name)
    assert len(before) == len(batches)
    return [update(CASES[name], folder / name / "model", p, rows) for p, rows in zip(before, batches, strict=True)]


def compare(folder: Path, name: str) -> None:
    """AssertionError where records and float64 differ."""
    case = CASES[name]
    run = analysis.load_trace(folder / name / "run", verify=True)
    tokens, updates = run.table("tokens"), run.table("updates").set_index("update")
    expected = oracle(folder, name)
    assert sorted(updates.index) == list(range(len(expected)))
    largest = max(abs(values["weight"]) for found in expected for values in found.tokens.values())
    assert 0.02 < largest < 0.5, largest
    for number, found in enumerate(expected):
        rows = tokens[tokens["update"] == number].set_index(["rollout", "position"])
        assert rows.index.is_unique
        assert set(rows.index) <= set(found.tokens)
        if case.tokens == 1:
            assert set(rows.index) == set(found.tokens)
        exact = name != "bf16"
        if not exact:  # tokens that are clipped in one of the two alone
            rows = rows[rows["clip"] == [found.tokens[key]["clip"] for key in rows.index]]
        for column, tolerance in (TOLERANCES if exact else BF16).items():
            wanted = np.array([found.tokens[key][column] for key in rows.index])
            if rows[column].isna().all():
                assert not wanted.any(), column
                continue
            off = np.abs(rows[column].to_numpy(float) - wanted).max()
            allowed = max(tolerance, 1e-6 * largest) if column == "weight" else tolerance
            assert off <= allowed, f"{name}, update {number}: {column} is off by {off:.3g}"
        for column in ("clip", "token"):
            assert rows[column].astype(int).tolist() == [found.tokens[key][column] for key in rows.index], column
        ratios = np.array([found.tokens[key]["ratio"] for key in rows.index])
        if not exact:
            continue
        assert np.allclose(rows["ratio"].to_numpy(float), ratios, rtol=1e-5)
        assert abs(updates["loss"][number] - found.loss) < 1e-6
        if not case.hf:  # the gradient of adapters is not that of the matrices they are merged into
            assert abs(updates["grad_norm_total"][number] / found.gradient_norm - 1) < GRADIENT_NORM
