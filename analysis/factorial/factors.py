"""The factors of the PSR–NSR gap, and the cells of their factorial.

With all factors off (expected gradients of the log form, one SGD update of the whole batch, rows kept) PSR and NSR make
the same run: their gap is zero by the identity E g_PSR = E g_NSR = ∇p. A cell is the set of factors that are on.

Reuse has two steps: `reuse` passes four times over all rows of a batch, each time at a quarter of the learning rate, so
that only the rows are older; `rate` then makes every pass at the full rate, so that the batch moves the policy four
times as far as well. `clip` comes after these: without a second pass no ratio leaves 1, and at a quarter of the rate
hardly any leaves [0.8, 1.2]. Cells with `rate` and without `reuse`, or with `clip` and without `rate`, do not exist.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations

__all__ = [
    "FACTORS",
    "OPTIMIZERS",
    "POLICIES",
    "Cell",
    "Factor",
    "cell_name",
    "factor_labels",
    "factors_of",
    "full_factorial",
    "needed_by",
    "one_factor_cells",
    "orders",
]

# The kinds of exact policies that a problem can be made of.
POLICIES = ("bandit", "tree", "loglinear")
OPTIMIZERS = ("momentum", "adam", "lion")  # what the factor `optimizer` may switch on, instead of SGD
Cell = frozenset[str]


@dataclass(frozen=True)
class Factor:
    """One switch.

    Attributes:
        name: Short name, of which cells and files are named.
        label: What tables and figures call it.
        off: What it means that it is off.
        on: What it means that it is on.
        needs: The factor that must be on, too, and with it what that one needs; None for most.
        sequences: Whether it exists only where responses have lengths.
    """

    name: str
    label: str
    off: str
    on: str
    needs: str | None = None
    sequences: bool = False


# What may separate NSR from PSR, each with what it is when it is off and when it is on.
FACTORS: tuple[Factor, ...] = (
    Factor("noise", "sampling noise", "the expected gradient", "a group of sampled responses to each prompt"),
    Factor("form", "probability form (Eq. 6)", "ratio: w = A·π/π_old", "probability (Eq. 6): w = A·π"),
    Factor("length", "length mean", "a response's tokens are summed", "their mean is taken", sequences=True),
    Factor(
        "reuse",
        "4 passes at ¼ rate",
        "one pass over each batch",
        "four passes over all its rows, each at a quarter of the learning rate",
    ),
    Factor(
        "rate",
        "4 passes at full rate",
        "each pass at a quarter of the learning rate",
        "each pass at the full learning rate, four times as much in total",
        needs="reuse",
    ),
    Factor("clip", "clip 0.2", "no clip", "the ratio clipped to [0.8, 1.2]", needs="rate"),
    Factor("optimizer", "Adam", "SGD", "Adam, or the optimiser of the settings"),
    Factor(
        "drop",
        "rows dropped",
        "the mean gradient is over all rows of the batch",
        "it is over those that have a weight alone",
    ),
)


def factors_of(policy: str) -> tuple[Factor, ...]:
    """The factors that exist for a policy: the length mean is nothing where every response is one token."""
    return tuple(factor for factor in FACTORS if policy == "tree" or not factor.sequences)


def cell_name(cell: Cell) -> str:
    """Factors in their order.

    >>> cell_name(frozenset({"optimizer", "noise"}))
    'noise+optimizer'
    """
    return "+".join(factor.name for factor in FACTORS if factor.name in cell) or "none"


def factor_labels(factors: Sequence[Factor], optimizer: str) -> dict[str, str]:
    """What tables and figures call each factor, by its name; that of the optimiser is the optimiser's own.

    >>> factor_labels(FACTORS, "lion")["optimizer"]
    'Lion'
    """
    return {factor.name: factor.label for factor in factors} | {"optimizer": optimizer.capitalize()}


def _exists(cell: Cell) -> bool:
    return all(factor.needs is None or factor.needs in cell for factor in FACTORS if factor.name in cell)


def full_factorial(factors: Sequence[Factor]) -> list[Cell]:
    """Every cell that exists, small ones first.

    >>> len(full_factorial(factors_of("bandit"))), len(full_factorial(factors_of("tree")))
    (64, 128)
    """
    names = [factor.name for factor in factors]
    every = (frozenset(chosen) for n in range(len(names) + 1) for chosen in combinations(names, n))
    return [cell for cell in every if _exists(cell)]


def one_factor_cells(factors: Sequence[Factor]) -> list[Cell]:
    """The cells from which every first-in and last-out effect follows.

    First in: a factor alone (together with what it needs) against that alone or nothing. Last out: everything against
    everything without it (and without what needs it).
    """
    names = frozenset(factor.name for factor in factors)
    cells: dict[Cell, None] = {frozenset(): None, names: None}
    for first, second in (pair for f in factors for pair in (first_in(f), last_out(f, names))):
        cells |= {first: None, second: None}
    return sorted(cells, key=lambda cell: (len(cell), cell_name(cell)))


def needed_by(name: str) -> Cell:
    """All that must be on for a factor, itself left out.

    >>> sorted(needed_by("clip"))
    ['rate', 'reuse']
    """
    (need,) = (factor.needs for factor in FACTORS if factor.name == name)
    return frozenset() if need is None else needed_by(need) | {need}


def first_in(factor: Factor) -> tuple[Cell, Cell]:
    """The cells with and without the factor, as little else on as may be."""
    below = needed_by(factor.name)
    return below | {factor.name}, below


def last_out(factor: Factor, everything: Cell) -> tuple[Cell, Cell]:
    """The cells with and without the factor, as much else on as may be; what needs it goes first."""
    above = everything - {other.name for other in FACTORS if factor.name in needed_by(other.name)}
    return above, above - {factor.name}


def orders(factors: Sequence[Factor]) -> Iterator[tuple[str, ...]]:
    """Every order in which the factors can be switched on one by one, each after what it needs."""
    needs = {factor.name: factor.needs for factor in factors}
    for order in permutations(needs):
        place = {name: i for i, name in enumerate(order)}
        if all(need is None or place[need] < place[name] for name, need in needs.items()):
            yield order
