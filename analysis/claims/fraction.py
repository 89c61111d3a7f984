"""The training runs of the decomposition: what makes PSR and NSR differ on the transformer, cell by cell.

Five factors are switched. Under the ratio form the four others make a full factorial of sixteen cells, so that every
share and interaction follows without a model. Eight cells with the probability form (Eq. 6) complete the half fraction
I = ABCDE of all five (`analysis.factorial.half_fraction`).

With everything off PSR and NSR have the same expected gradient, the same number of updates and the same rate. Equal in
all cells of a place are bases, prompts, seeds of the rollouts, steps, and the rate of each optimiser: no method and no
cell has one of its own. The rates come from a pilot (draws of seed 100, base of seed 0) that looked at the Pass@1 of
NSR with few responses to a prompt. It rose with the rates below; it fell with the next larger one tried, SGD at 0.03
from the base at 0.35 and at 0.04 from that at 0.6, AdamW at 1.5e-4 from that at 0.6; at 0.85 and on countdown no larger
one was tried. The same pilot showed that under the probability form NSR loses Pass@1 in a few steps with either
optimiser. Gaps at equal Pass@1 then do not exist, which is why the cells with that form are few, short, and read at
equal steps.

Low and high accuracy first had four seeds. With these S2 was undecided there. They were extended once, to the eight of
the middle, whatever would come of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..factorial.factors import Cell, Factor, cell_name, full_factorial
from ..factorial.half_fraction import half_fraction
from .study import METHODS, NSR, PSR, Study

__all__ = [
    "COUNTDOWN",
    "EQ6_STEPS",
    "FACTORS",
    "FIRST_SEEDS",
    "HIGH",
    "LABELS",
    "LOW",
    "MIDDLE",
    "PLACES",
    "RATIO_FACTORS",
    "STUDIES",
    "Place",
    "cell_study",
    "cells_of",
]

# A to E of the design, by the names that the exact factorial has for them
FACTORS: tuple[Factor, ...] = (
    Factor("noise", "4 responses a prompt, not 16", "16 responses to each prompt", "4 responses to each prompt"),
    Factor("form", "probability form (Eq. 6)", "ratio: w = A·π/π_old", "probability (Eq. 6): w = A·π"),
    Factor(
        "drop",
        "rows dropped, token mean",
        "all rows in four minibatches with a constant divisor",
        "the other sign's rows are dropped before the batch is cut into minibatches of the same number of rows, and a "
        "minibatch is divided by its own tokens",
    ),
    Factor(
        "reuse",
        "4 passes, clip 0.2",
        "one pass over each batch, no clip",
        "four passes, each at a quarter of the rate, the ratio clipped to [0.8, 1.2]",
    ),
    Factor("optimizer", "AdamW", "SGD", "AdamW"),
)
RATIO_FACTORS = tuple(factor for factor in FACTORS if factor.name != "form")
LABELS = {factor.name: factor.label for factor in FACTORS}
EQ6_STEPS = 4  # of the cells with the probability form, at which all cells of the half fraction are read
_EQ6_SEEDS = 4
_PROMPTS, _GROUP, _NOISY_GROUP = 64, 16, 4
_MINIBATCHES, _PASSES, _CLIP = 4, 4, 0.2
_ADAMW_RATE = 1e-4


@dataclass(frozen=True)
class Place:
    """A base that the cells start from.

    Attributes:
        name: What tables call it.
        recipe: Built-in recipe of its task.
        base: The base.
        seeds: Number of seeds.
        gain: Rise of validation Pass@1 above the base over which methods are compared, in quarters.
        steps: Steps of a run.
        sgd_rate: Learning rate of SGD, under either form: in the pilot PSR gained the same under both.
        tokens: The constant divisor, per row: about the mean length of a response, so that a step is as long as one
            with the token mean over all rows.
    """

    name: str
    recipe: str
    base: str
    seeds: int
    gain: float
    steps: int
    sgd_rate: float
    tokens: float

    @property
    def task(self) -> str:
        """What the place is on."""
        return "countdown" if self.recipe == "countdown" else "path"


LOW = Place("path, low accuracy", "default", "path", 8, 0.01, 12, 0.012, 7.0)
MIDDLE = Place("path, middle accuracy", "default", "path-p60", 8, 0.03, 8, 0.03, 7.0)
HIGH = Place("path, high accuracy", "default", "path-p85", 8, 0.015, 8, 0.03, 7.0)
COUNTDOWN = Place("countdown", "countdown", "countdown-p40", 4, 0.015, 8, 0.05, 11.0)
PLACES = (LOW, MIDDLE, HIGH)
# Seeds that each place had when X1 chose its recipe.
FIRST_SEEDS = {LOW.name: 4, MIDDLE.name: 8, HIGH.name: 4}


def cells_of(place: Place) -> list[Cell]:
    """The cells of a place: on path the full ratio factorial and eight of Eq. 6, on countdown a half of the former."""
    ratio = [factor.name for factor in RATIO_FACTORS]
    if place == COUNTDOWN:
        return half_fraction(ratio)
    fraction = half_fraction([factor.name for factor in FACTORS])
    return full_factorial(RATIO_FACTORS) + [cell for cell in fraction if "form" in cell]


def cell_study(place: Place, cell: Cell) -> Study:
    """PSR and NSR in one cell: its runs."""
    group = _NOISY_GROUP if "noise" in cell else _GROUP
    rows = _PROMPTS * group // _MINIBATCHES
    form = "probability" if "form" in cell else "ratio"
    values: dict[str, Any] = {
        "policy.base": place.base,
        "steps": EQ6_STEPS if "form" in cell else place.steps,
        "eval.every": EQ6_STEPS,
        "eval.prompts": 32,
        "eval.final_prompts": 32,
        "eval.temperatures": [1.0],
        "eval.samples": 0,
        "rollout.prompts": _PROMPTS,
        "rollout.group_size": group,
        "optimizer.max_grad_norm": "unset",
        **_optimizer(place, cell),
    }
    if "reuse" in cell:
        values |= {"update.epochs": _PASSES, "objective.clip_low": _CLIP, "objective.clip_high": _CLIP}
    else:
        values |= {"objective.clip_low": "unset", "objective.clip_high": "unset"}
    if "drop" in cell:
        values |= {"update.minibatches": "unset", "update.minibatch_size": rows}
    else:
        values |= {"update.minibatches": _MINIBATCHES, "update.normalizer": "constant"}
        values |= {"update.constant": place.tokens * rows}
    seeds = min(place.seeds, _EQ6_SEEDS) if "form" in cell else place.seeds
    kept = "drop" if "drop" in cell else "keep"
    methods = {name: {**METHODS[name], "objective.form": form, "update.rows": kept} for name in (PSR, NSR)}
    return Study(f"{place.name}: {cell_name(cell)}", place.recipe, methods, values, seeds)


def _optimizer(place: Place, cell: Cell) -> Mapping[str, Any]:
    passes = _PASSES if "reuse" in cell else 1
    if "optimizer" in cell:
        return {"optimizer.name": "adamw", "optimizer.lr": _ADAMW_RATE / passes}
    return {"optimizer.name": "sgd", "optimizer.lr": place.sgd_rate / passes}


STUDIES: tuple[Study, ...] = tuple(
    cell_study(place, cell) for place in (*PLACES, COUNTDOWN) for cell in cells_of(place)
)
