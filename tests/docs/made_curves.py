"""Results of a comparison with our own loop, with curves made by hand."""

from __future__ import annotations

from typing import Any

import numpy as np

from docs.generators.compared_runs import LOOP, METHODS, QUANTITIES

PLACES = (0, 4, 8, 12)
APART = 0.2  # between the methods
SEEDS = 4


def made(trainer: str, shift: float = 0.0, apart: float = APART) -> dict[str, Any]:
    """Results with normal curves of standard deviation 0.01; the trainer's NSR differs by `shift` at the last step."""
    draw = np.random.default_rng(0)

    def curve(side: str, method: str) -> list[dict[str, float]]:
        moved = shift if (side, method) == (trainer, "NSR") else 0.0
        return [
            {"step": step}
            | {
                name: 0.5 + apart * (method == "NSR") + moved * (step == 12) + 0.01 * draw.standard_normal()
                for name in QUANTITIES
            }
            for step in PLACES
        ]

    curves = {
        side: {method: [curve(side, method) for _ in range(SEEDS)] for method in METHODS} for side in (LOOP, trainer)
    }
    size = {"rollout.prompts": 64, "rollout.group_size": 8, "update.minibatch_size": 128, "optimizer.lr": 3e-4}
    versions = {"torch": "2", "transformers": "5"}
    return {"seeds": SEEDS, "steps": 12, "size": size, "curves": curves, "command": "c", "date": "d"} | {
        "versions": versions,
        "verl": "0.9.1",
    }
