"""The recipes of the built-in base policies."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

__all__ = ["BASES", "BaseRecipe", "ExactLaw", "NearFirst", "Refinement", "WideNumbers"]


@dataclass(frozen=True)
class Refinement:
    """Expert iteration after pretraining (`refinement.py`): how many rounds, and what each of them does.

    How many there are is what places a base at its accuracy.
    """

    rounds: int
    prompts: int  # a round, drawn afresh
    samples: int  # responses to each; the first correct one is learnt from
    temperature: float  # that they are drawn at; below 1 sharpens the law
    batch: int
    lr: float


@dataclass(frozen=True)
class NearFirst:
    """Prompts drawn as those of the splits are; training starts on those whose numbers lie closest together."""

    prompts: int  # with all their solutions, drawn once
    first_share: float  # of them, where training starts
    all_from: tuple[float, float]  # shares of the steps between which it goes on from there to all, linearly

    def share(self, done: float) -> float:
        """Share of the prompts that are drawn from when `done` of the steps are (0 to 1).

        >>> lessons = NearFirst(1000, first_share=0.2, all_from=(0.4, 0.6))
        >>> [round(lessons.share(done), 3) for done in (0.0, 0.4, 0.5, 0.6, 1.0)]
        [0.2, 0.2, 0.6, 1.0, 1.0]
        """
        start, end = self.all_from
        return self.first_share + (1.0 - self.first_share) * min(1.0, max(0.0, (done - start) / (end - start)))


@dataclass(frozen=True)
class WideNumbers:
    """Every puzzle of «countdown» with numbers up to `largest`, those of the splits left out."""

    largest: int
    power: float  # a puzzle is drawn in proportion to its number of solutions to this power
    shuffled: float  # share of the prompts whose numbers do not ascend
    opening: int  # response tokens in a short batch: those that take the search
    short: float  # share of the batches that are


@dataclass(frozen=True)
class ExactLaw:
    """Pretraining on the exact law over correct responses, numbers embedded by value (`exact_law.py`).

    Scales are relative to the random entries of an embedding. The number of steps places a base at its accuracy.
    """

    lessons: NearFirst | WideNumbers
    periods: tuple[int, ...]  # of the Fourier features of numbers, which make sums and differences rotations
    characters: tuple[int, ...]  # multiplicative ones modulo 101, which make products rotations
    feature_scale: float  # of each feature
    noise: float  # what is left of the random entries of a number
    mark_scale: float  # of the coordinate that says what kind of word it is
    embedding_rate: float  # learning rate of the embedding, relative to `lr`
    muon_lr: float | None = None  # of Muon, for the matrices of the layers; AdamW has them too where left out

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> ExactLaw:
        """From what JSON made of `asdict`."""
        values = _tuples(fields)
        kind = NearFirst if "prompts" in values["lessons"] else WideNumbers
        return cls(**{**values, "lessons": kind(**_tuples(values["lessons"]))})


def _tuples(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}


@dataclass(frozen=True)
class BaseRecipe:
    """A Qwen3 and how it is pretrained: AdamW, warm-up and cosine to zero, on the responses of the task's corpus.

    `corpus` are the settings of that text, among them how often it errs: the accuracy of a base follows from them. It
    is empty for a base that learns the exact law over correct responses instead. Raises ValueError for one that would
    be refined besides: there is no program for that.
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
    refinement: Refinement | None = None  # the second stage, where there is one
    exact: ExactLaw | None = None  # in place of the corpus, where given

    def __post_init__(self) -> None:
        if self.exact and (self.corpus or self.refinement):
            raise ValueError("exact: expected neither a corpus nor a refinement beside it, got one; leave it out")

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> BaseRecipe:
        """The recipe that `to_json` has written."""
        values = dict(fields)
        if "refinement" in fields:
            values["refinement"] = Refinement(**fields["refinement"])
        if "exact" in fields:
            values["exact"] = ExactLaw.from_json(fields["exact"])
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        """The recipe as JSON takes it, stages that it does not have left out."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @property
    def reports_until(self) -> int:
        """What the progress of making the base counts to: steps of pretraining, then rounds of refinement."""
        return self.steps + (self.refinement.rounds if self.refinement else 0)


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
# Sampling below T = 1 got further: with what it learns from at T = 1, «path» stopped at 0.73 after 30 rounds.
_REFINE = Refinement(rounds=4, prompts=1024, samples=4, temperature=0.8, batch=64, lr=1e-3)
# Learning rate: at 1e-2 the features are overwritten before anything reads them, and no constraint is learnt.
_NEAR_FIRST = ExactLaw(
    NearFirst(prompts=10_000, first_share=0.25, all_from=(0.4, 0.6)),
    periods=(2, 3, 5, 7, 10, 20, 40, 100),
    characters=(),
    feature_scale=3.0,
    noise=0.2,
    mark_scale=5.0,
    embedding_rate=0.1,
)
_EXACT = replace(_SMALL, corpus={}, layers=3, steps=6000, lr=3e-3, exact=_NEAR_FIRST)
# Weight decay: 8000 steps at 0.01 (batches of 128) came to 0.86, and 0.96 on the prompts of training: learnt by heart.
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

# A name such as path-p20 says how often the base is right, in per cent, on validation prompts (docs/bases.md).
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
