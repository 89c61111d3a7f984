"""A study: the training runs that entries of the ledger ask for, the same methods from the same start over seeds.

A study is a set of recipe fields and of methods. Seed s trains from the base of seed s, so that a seed is an
independent unit with a model of its own, and all methods of a seed share base, prompts and uniforms. Runs that two
studies share have the same configuration, and with it the same folder: they are trained once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from ..recipes import Recipe
from ..recipes.cost import estimated_seconds
from ..recipes.inputs import identified
from ..recipes.recipe import PlannedRun

__all__ = ["GRPO", "LIGHT", "METHODS", "NSR", "PPO", "PSR", "W_REINFORCE", "Study", "StudyRun", "planned_runs"]

PSR, NSR, W_REINFORCE, GRPO, PPO = "PSR", "NSR", "W-REINFORCE", "GRPO", "PPO"
# method -> the fields that make it, as the built-in recipes have them
METHODS: dict[str, dict[str, Any]] = {
    PSR: {"objective.name": "psr", "update.rows": "drop"},
    NSR: {"objective.name": "nsr", "update.rows": "drop"},
    W_REINFORCE: {"objective.name": "w-reinforce", "objective.lambda": 0.1},
    GRPO: {"objective.name": "grpo"},
    PPO: {
        "objective.name": "reinforce",
        "critic.enabled": True,
        "critic.whiten": True,
        "update.old_log_probs": "policy",  # the critic reads the hidden states of that pass
    },
}
# The fastest way to train a run of which only evaluations are read: few records, and one pass for rows of both signs.
LIGHT: dict[str, Any] = {
    "record.tokens": 0.0,
    "record.contexts": 0,
    "record.rollouts": 0.0,
    "record.checkpoint": False,
    "record.signs_every": 0,
    "update.shared_prompts": True,
    "update.old_log_probs": "rollouts",
}
_HASH = 12


@dataclass(frozen=True)
class StudyRun:
    """One run of a study: its method, its seed, and the run as it is planned; `run_id` names its folder."""

    method: str
    seed: int
    planned: PlannedRun


@dataclass(frozen=True)
class Study:
    """Methods trained alike over seeds.

    Attributes:
        name: What tables call the condition, such as "path, regime B".
        recipe: Name of the built-in recipe that the fields start from; its grid is left out.
        methods: method -> the fields that make it.
        values: Fields for all methods, by dotted path.
        seeds: Number of seeds, each with a base of its own.
        first_seed: Seed of the first run. The bases are those of seeds `first_base`, … all the same, so that runs with
            fresh draws need no other bases; those of two studies are then not independent.
        first_base: Seed of the base of the first run; the bases of the next seeds follow.
    """

    name: str
    recipe: str
    methods: Mapping[str, Mapping[str, Any]]
    values: Mapping[str, Any] = field(default_factory=dict)
    seeds: int = 8
    first_seed: int = 0
    first_base: int = 0

    @cached_property
    def runs(self) -> tuple[StudyRun, ...]:
        """Every run, seed by seed.

        Raises:
            UsageError: the fields are not a valid recipe.
        """
        shared = Recipe.load(self.recipe).set(grid="unset", **LIGHT).set(**self.values)
        found = []
        for place in range(self.seeds):
            seed, base_seed = self.first_seed + place, self.first_base + place
            for method, fields in self.methods.items():
                (run,) = shared.set(**{"seed": seed, "policy.seed": base_seed, **fields}).expand()
                canonical = json.dumps(identified(run.config), sort_keys=True, allow_nan=False)
                run_id = hashlib.sha256(canonical.encode()).hexdigest()[:_HASH]
                found.append(StudyRun(method, seed, replace(run, run_id=run_id, label=method)))
        return tuple(found)

    @property
    def seconds(self) -> float:
        """About how many core seconds its runs take."""
        return estimated_seconds([run.planned.config for run in self.runs], at_a_time=1) or 0.0

    def with_(self, name: str, **changes: Any) -> Study:
        """A copy with another name, further `values` (merged into the present ones) and other attributes."""
        values = {**self.values, **changes.pop("values", {})}
        return replace(self, name=name, values=values, **changes)


def planned_runs(studies: Iterable[Study]) -> dict[str, PlannedRun]:
    """run_id -> run over all studies, each once."""
    return {run.planned.run_id: run.planned for study in studies for run in study.runs}
