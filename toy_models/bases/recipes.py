"""The recipes of the built-in base policies: plain data, from which `bases.making` makes the weights.

There are three ways to make a base, in the order of the accuracy that they reach: pretraining on drawn text, the same
with rounds of expert iteration after it (`Refinement`), and pretraining on exact targets (`ExactTargets`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

__all__ = ["BASES", "BaseRecipe", "ExactTargets", "NearFirst", "Refinement", "WideNumbers"]


@dataclass(frozen=True)
class Refinement:
    """Expert iteration after pretraining (`refinement.py`). The number of rounds sets the accuracy of the base.

    Attributes:
        rounds: Number of rounds.
        prompts: Prompts per round, drawn afresh.
        samples: Responses per prompt; the first correct one is learnt from.
        temperature: Sampling temperature; below 1 it sharpens the distribution.
        batch: Rows per gradient step.
        lr: Learning rate of AdamW.
    """

    rounds: int
    prompts: int
    samples: int
    temperature: float
    batch: int
    lr: float


@dataclass(frozen=True)
class NearFirst:
    """Training starts on the prompts whose numbers lie closest together and widens to all prompts.

    Attributes:
        prompts: Number of prompts, drawn once as those of the splits are, each with all its solutions.
        first_share: Fraction of them that training starts with.
        all_from: Fractions of the steps between which this fraction grows linearly to 1.
    """

    prompts: int
    first_share: float
    all_from: tuple[float, float]


@dataclass(frozen=True)
class WideNumbers:
    """Every puzzle of `countdown` with numbers up to `largest`, except those of the splits.

    Attributes:
        largest: Largest of the three numbers.
        power: A puzzle is drawn in proportion to its number of solutions to this power.
        shuffled: Fraction of the prompts whose numbers are not in ascending order.
        opening: Response tokens in a short batch: those that need the search.
        short: Fraction of the batches that are short.
    """

    largest: int
    power: float
    shuffled: float
    opening: int
    short: float


@dataclass(frozen=True)
class ExactTargets:
    """Pretraining on the exact distribution over correct responses, numbers embedded by value (`exact_targets.py`).

    The number of steps sets the accuracy of the base. Scales are relative to the random entries of an embedding.

    Attributes:
        lessons: Which prompts are learnt from, and in which order.
        periods: Periods of the Fourier features of numbers, which make sums and differences rotations.
        characters: Multiplicative characters modulo 101, which make products rotations.
        feature_scale: Scale of each feature.
        noise: What is left of the random entries of a number.
        mark_scale: Scale of the coordinate that marks the kind of a word.
        embedding_rate: Learning rate of the embedding, relative to `lr`.
        muon_lr: Learning rate of Muon, for the matrices of the layers; None trains them with AdamW, too.
    """

    lessons: NearFirst | WideNumbers
    periods: tuple[int, ...]
    characters: tuple[int, ...]
    feature_scale: float
    noise: float
    mark_scale: float
    embedding_rate: float
    muon_lr: float | None = None

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> ExactTargets:
        """The settings from what JSON makes of `asdict`."""
        values = _tuples(fields)
        kind = NearFirst if "prompts" in values["lessons"] else WideNumbers
        return cls(**{**values, "lessons": kind(**_tuples(values["lessons"]))})


@dataclass(frozen=True)
class BaseRecipe:
    """A small Qwen3 model and how it is pretrained: AdamW, warm-up, then a cosine to zero.

    Raises ValueError for exact targets beside a corpus or a refinement.

    Attributes:
        task: Name of the task (see `get_task`).
        corpus: Settings of the text that is learnt from (`PuzzleTask.corpus`). How often the text errs sets the
            accuracy of the base. Empty where the base learns from exact targets.
        layers: Number of layers.
        hidden: Width of the hidden states.
        heads: Attention heads, each with its own keys and values.
        head_dim: Width of a head.
        intermediate: Width of the MLP.
        init_std: Standard deviation of the initial weights.
        steps: Gradient steps.
        batch: Rows per step.
        lr: Peak learning rate.
        warmup_steps: Steps in which the learning rate rises linearly.
        weight_decay: Decoupled weight decay.
        threads: Threads of the process that makes the base; the weights depend on it, within rounding.
        refinement: Second stage, if any.
        exact: Exact targets in place of the corpus, if any.
    """

    task: str
    corpus: dict[str, float]
    layers: int
    hidden: int
    heads: int
    head_dim: int
    intermediate: int
    init_std: float
    steps: int
    batch: int
    lr: float
    warmup_steps: int
    weight_decay: float
    threads: int
    refinement: Refinement | None = None
    exact: ExactTargets | None = None

    def __post_init__(self) -> None:
        if self.exact and (self.corpus or self.refinement):
            extra = "a corpus" if self.corpus else "a refinement"
            raise ValueError(
                f"exact: expected no corpus and no refinement beside it, got {extra}; leave one of them out"
            )

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> BaseRecipe:
        """The recipe that `to_json` has written."""
        values = dict(fields)
        if "refinement" in fields:
            values["refinement"] = Refinement(**fields["refinement"])
        if "exact" in fields:
            values["exact"] = ExactTargets.from_json(fields["exact"])
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        """The recipe as a JSON object, without the stages that it does not have."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @property
    def reports_until(self) -> int:
        """Where the progress of making the base ends: steps of pretraining plus rounds of refinement."""
        return self.steps + (self.refinement.rounds if self.refinement else 0)


def _tuples(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}


_SMALL = BaseRecipe(
    task="path",
    corpus={"slip": 0.05, "ignore": 0.15, "longest": 29},
    layers=2,
    hidden=64,
    heads=4,
    head_dim=16,
    intermediate=192,
    init_std=0.1,
    steps=2800,
    batch=64,
    lr=1e-2,
    warmup_steps=40,
    weight_decay=0.01,
    threads=1,
)
_TINY = replace(
    _SMALL,
    task="path-small",
    corpus={"slip": 0.05, "ignore": 0.15, "longest": 15},
    layers=1,
    intermediate=128,
    steps=300,
    lr=8e-3,
    warmup_steps=20,
)
_WHOLE = replace(_SMALL, corpus={"slip": 0.0, "ignore": 0.0, "longest": 36})
_COUNTDOWN = replace(_SMALL, task="countdown", corpus={"slip": 0.0, "reuse": 0.0, "largest": 99}, steps=2000)
_TWO_MODES = {"slip": 0.0, "ignore": 0.0, "misstep": 0.3, "tagged": 0.5, "aloud_tagged": 0.95, "aloud_plain": 0.03}
# Sampling below T = 1 reaches a higher accuracy: on responses drawn at T = 1, `path` stopped at 0.73 after 30 rounds.
_REFINE = Refinement(rounds=4, prompts=1024, samples=4, temperature=0.8, batch=64, lr=1e-3)
# Learning rate: at 1e-2 the features are overwritten before the layers can read them, and no constraint is learnt.
_NEAR_FIRST = ExactTargets(
    NearFirst(prompts=10_000, first_share=0.25, all_from=(0.4, 0.6)),
    periods=(2, 3, 5, 7, 10, 20, 40, 100),
    characters=(),
    feature_scale=3.0,
    noise=0.2,
    mark_scale=5.0,
    embedding_rate=0.1,
)
_EXACT = replace(_SMALL, corpus={}, layers=3, steps=6000, lr=3e-3, exact=_NEAR_FIRST)
# Weight decay: at 0.01, 8000 steps (batches of 128) reach 0.86, and 0.96 on the training prompts: learnt by heart.
_SEARCH = replace(
    _EXACT,
    task="countdown",
    layers=4,
    intermediate=256,
    steps=3500,
    batch=192,
    warmup_steps=100,
    weight_decay=0.3,
    exact=replace(
        _NEAR_FIRST,
        lessons=WideNumbers(largest=25, power=0.5, shuffled=0.5, opening=3, short=0.75),
        characters=(1, 3, 10, 25, 50),
        muon_lr=1e-2,
    ),
)

#: The recipe of each built-in base. The number in a name such as path-p20 is the accuracy of the base on validation
#: prompts, in per cent (docs/bases.md).
BASES: dict[str, BaseRecipe] = {
    "path": _SMALL,
    "path-p20": replace(_SMALL, corpus={"slip": 0.11, "ignore": 0.15, "longest": 29}),
    "path-p55": replace(_SMALL, corpus={"slip": 0.0, "ignore": 0.0, "longest": 29}),
    "path-p60": _WHOLE,
    "path-p75": replace(_WHOLE, refinement=_REFINE),
    "path-p85": replace(_EXACT, steps=2800),
    "path-p95": _EXACT,
    "countdown-p20": replace(_COUNTDOWN, corpus={"slip": 0.15, "reuse": 0.1, "largest": 99}),
    "countdown-p40": _COUNTDOWN,
    "countdown-p55": replace(_COUNTDOWN, refinement=replace(_REFINE, rounds=8, prompts=512)),
    "countdown-p70": _SEARCH,
    "countdown-p80": replace(_SEARCH, steps=6000),
    "countdown-p90": replace(_SEARCH, hidden=96, head_dim=24, steps=8000),
    "two-modes": replace(_SMALL, task="two-modes", corpus={**_TWO_MODES, "longest": 20}, steps=2200),
    "tiny": _TINY,
    "tiny-countdown": replace(_TINY, task="countdown-small", corpus={"slip": 0.0, "reuse": 0.0, "largest": 24}),
    "tiny-two-modes": replace(_TINY, task="two-modes-small", corpus={**_TWO_MODES, "longest": 15}),
}
