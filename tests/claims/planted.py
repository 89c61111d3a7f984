"""Runs whose curves are planted: evaluations and rollout ratios in memory, without a folder or a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pandas as pd

from analysis.claims.evidence import Evidence, Methods
from analysis.claims.study import Study

STEPS = (0, 10, 20, 30, 40)
PROMPTS = 60
_NOISE = 0.002


@dataclass(frozen=True)
class World:
    """What a method does to its policy as a function of training time t from 0 to 1.

    Attributes:
        accuracy: t -> mean of p.
        spread: t -> how p differs between prompts.
        lost: t -> fraction of prompts that are never solved any more.
        entropy: t -> entropy on fixed prefixes and own responses.
        greedy: t -> greedy accuracy.
        mass: t -> mass of the mode.
        ratio: t -> ratio of correct rollouts; fully solved ones are half of it.
        updates: Updates for each step.
    """

    accuracy: Callable[[float], float] = lambda t: 0.4 + 0.2 * t
    spread: Callable[[float], float] = lambda t: 0.2
    lost: Callable[[float], float] = lambda t: 0.0
    entropy: Callable[[float], float] = lambda t: 1.0
    greedy: Callable[[float], float] = lambda t: 0.5
    mass: Callable[[float], float] = lambda t: 0.03
    ratio: Callable[[float], float] = lambda t: 0.4
    updates: int = 4


@dataclass(frozen=True, eq=False)  # known by identity, as `Run` is
class PlantedRun:
    """What entries read of a `Run`."""

    label: str
    seed: int
    world: World
    steps: tuple[int, ...] = STEPS
    temperatures: tuple[float, ...] = (1.0, 0.6)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)

    @property
    def run_id(self) -> str:
        return f"{self.label}-{self.seed}"

    def table(self, name: str) -> pd.DataFrame:
        if name not in self.tables:
            self.tables[name] = self._evals() if name == "evals" else self._steps()
        return self.tables[name]

    def _evals(self) -> pd.DataFrame:
        rng = np.random.default_rng([self.seed, sum(map(ord, self.label))])
        place = np.linspace(-1, 1, PROMPTS)
        # Which prompts greedy decoding solves first, and which are lost first.
        order, losing = np.random.default_rng(self.seed).permutation(PROMPTS), np.arange(PROMPTS) * 7 % PROMPTS
        world, blocks = self.world, []
        for step in self.steps:
            t = step / self.steps[-1]
            shift = rng.normal(scale=_NOISE) * (step > 0)
            p = np.clip(world.accuracy(t) + world.spread(t) * place + shift, 1e-4, 1 - 1e-4)
            p[losing < PROMPTS * world.lost(t)] = 1e-6
            solved = order < PROMPTS * world.greedy(t)
            entropy, mass = (np.full(PROMPTS, value(t) + shift) for value in (world.entropy, world.mass))
            measured = [p, solved, entropy, mass]
            settings = [(step, split, temperature) for split in range(2) for temperature in self.temperatures]
            blocks += [[*(np.full(PROMPTS, x) for x in setting), *measured] for setting in settings]
        names = ("step", "split", "temperature", "p", "greedy_correct", "entropy_fixed", "mode_mass")
        rows = pd.DataFrame({name: np.concatenate([block[i] for block in blocks]) for i, name in enumerate(names)})
        texts = np.array(["validation", "test"])[rows["split"]]
        prompts = np.tile([f"prompt{i:02}" for i in range(PROMPTS)], len(blocks))
        constants = {"top_p": 1.0, "top_k": 0, "n": 4, "effective_solutions": 5.0, "mode_p": 0.6, "tail_mass": 0.01}
        return rows.assign(
            split=texts,
            prompt_id=np.char.add(texts, prompts),
            update=world.updates * rows["step"],
            c=np.round(4 * rows["p"]),
            entropy_own=rows["entropy_fixed"],
            **constants,
        )

    def _steps(self) -> pd.DataFrame:
        count = self.steps[-1]
        noise = np.random.default_rng([self.seed, 7]).normal(scale=_NOISE, size=count)
        ratio = np.array([self.world.ratio(step / count) for step in range(count)]) + noise
        return pd.DataFrame(
            {
                "step": range(count),
                "n_updates": self.world.updates,
                "correct_ratio": ratio,
                "fully_solved_ratio": ratio / 2,
            }
        )


def planted(
    worlds: Mapping[str, World], seeds: int = 4, *, steps: tuple[int, ...] = STEPS, **more: Any
) -> dict[str, dict[int, PlantedRun]]:
    """method -> seed -> run."""
    return {
        method: {seed: PlantedRun(method, seed, world, steps, **more) for seed in range(seeds)}
        for method, world in worlds.items()
    }


def as_methods(runs: Mapping[str, Mapping[int, PlantedRun]]) -> Methods:
    """For functions that take runs from folders."""
    return cast("Methods", runs)


class PlantedEvidence(Evidence):
    """The same runs for every study, or runs by study name; and which diverged."""

    def __init__(self, runs: Mapping[str, Any], diverged: Mapping[str, list[int]] | None = None) -> None:
        self._planted, self._lost = runs, dict(diverged or {})
        self.progress = lambda what, done, total: None

    def methods(self, study: Study) -> Any:
        return self._planted.get(study.name, self._planted)

    def diverged(self, study: Study) -> dict[str, list[int]]:
        return self._lost
