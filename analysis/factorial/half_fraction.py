"""Sixteen cells of five factors: a half fraction of resolution V, and what follows from it.

Each factor is off (x = −1) or on (x = +1). The fraction holds the cells with x_A·x_B·x_C·x_D·x_E = +1, those with an
odd number of factors on: its defining relation is I = ABCDE (Box, Hunter and Hunter 2005, Statistics for
Experimenters, chapter 6). The model

    v(x) = β₀ + Σ_i β_i x_i + Σ_{i<j} β_ij x_i x_j

has sixteen coefficients, and the sixteen cells give each of them as a mean, β_S = mean over cells of v·Π_{i∈S} x_i.
Resolution V means: a main effect is confounded with one interaction of four factors, a pairwise interaction with one of
three (AB with CDE), the mean with that of all five. Interactions of three and more factors are taken as zero.

Under this model the Shapley share of a factor is its main effect, 2β_i: in a game of second order each pair shares its
interaction equally.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

__all__ = ["SecondOrder", "half_fraction", "main_effects"]

Cell = frozenset[str]


def half_fraction(names: Sequence[str]) -> list[Cell]:
    """The cells of the half fraction in which the product of all x is +1, small ones first.

    Args:
        names: The factors; with five of them the resolution is V, with four IV.

    Example:
        >>> [len(cell) for cell in half_fraction("ABCDE")].count(3)
        10
    """
    every = (frozenset(chosen) for size in range(len(names) + 1) for chosen in combinations(names, size))
    return [cell for cell in every if (len(names) - len(cell)) % 2 == 0]


@dataclass(frozen=True)
class SecondOrder:
    """The model with main effects and pairwise interactions, one for each seed.

    Attributes:
        names: The factors.
        coefficients: β of the empty set, of each factor and of each pair, (seeds,) each.
    """

    names: tuple[str, ...]
    coefficients: Mapping[Cell, np.ndarray]

    @classmethod
    def of(cls, values: Mapping[Cell, np.ndarray], names: Sequence[str]) -> SecondOrder:
        """The model from the sixteen cells of a half fraction of five factors.

        Args:
            values: cell -> value of each seed, (seeds,).
            names: The five factors.

        Raises:
            ValueError: other than five factors, or cells that are not those of the fraction.

        Example:
            >>> cells = half_fraction("ABCDE")
            >>> model = SecondOrder.of({cell: np.array([2.0 * ("A" in cell)]) for cell in cells}, "ABCDE")
            >>> [round(float(share[0]), 12) + 0.0 for share in model.shapley().values()]
            [2.0, 0.0, 0.0, 0.0, 0.0]
        """
        if len(names) != 5:
            raise ValueError(f"names: expected five factors, got {len(names)}")
        _check_cells(values, half_fraction(names))
        terms = [frozenset(chosen) for size in range(3) for chosen in combinations(names, size)]
        return cls(tuple(names), {term: _contrast(values, term) for term in terms})

    def at(self, cell: Iterable[str]) -> np.ndarray:
        """The value of any of the 32 cells by the model, (seeds,)."""
        on = frozenset(cell)
        return np.sum([_sign(on, term) * beta for term, beta in self.coefficients.items()], axis=0)

    def first_in(self) -> dict[str, np.ndarray]:
        """v(factor alone) − v(nothing) by the model: factor -> (seeds,)."""
        return {name: self.at({name}) - self.at(()) for name in self.names}

    def last_out(self) -> dict[str, np.ndarray]:
        """v(everything) − v(everything without the factor) by the model: factor -> (seeds,)."""
        everything = frozenset(self.names)
        return {name: self.at(everything) - self.at(everything - {name}) for name in self.names}

    def shapley(self) -> dict[str, np.ndarray]:
        """Shares that add up to v(everything) − v(nothing): factor -> (seeds,)."""
        return {name: 2 * self.coefficients[frozenset({name})] for name in self.names}

    def interactions(self) -> dict[tuple[str, str], np.ndarray]:
        """v(both) − v(one) − v(other) + v(neither), averaged over the other factors: pair -> (seeds,)."""
        return {
            (one, other): 4 * self.coefficients[frozenset({one, other})] for one, other in combinations(self.names, 2)
        }


def main_effects(values: Mapping[Cell, np.ndarray], names: Sequence[str]) -> dict[str, np.ndarray]:
    """Mean with a factor on less mean with it off, from any half fraction: factor -> (seeds,).

    With four factors (resolution IV) a main effect is confounded with one interaction of three.

    Raises:
        ValueError: cells that are not those of the half fraction.
    """
    _check_cells(values, half_fraction(names))
    return {name: 2 * _contrast(values, frozenset({name})) for name in names}


def _contrast(values: Mapping[Cell, np.ndarray], term: Cell) -> np.ndarray:
    return np.mean([_sign(cell, term) * np.asarray(value, dtype=float) for cell, value in values.items()], axis=0)


def _sign(cell: Cell, term: Cell) -> int:
    """Π x_i over the factors of the term: −1 for each of them that is off."""
    return -1 if len(term - cell) % 2 else 1


def _check_cells(values: Mapping[Cell, np.ndarray], expected: Sequence[Cell]) -> None:
    if set(values) != set(expected):
        shown = ", ".join(sorted("".join(sorted(cell)) or "none" for cell in set(values) ^ set(expected)))
        raise ValueError(
            f"values: expected the {len(expected)} cells of the half fraction; missing or too many: {shown}"
        )
