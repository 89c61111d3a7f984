"""The half fraction: planted effects come back exactly, and what the design cannot tell apart goes where it says."""

from __future__ import annotations

from itertools import combinations, permutations

import numpy as np
import pytest

from analysis.factorial.half_fraction import SecondOrder, half_fraction, main_effects

NAMES = tuple("ABCDE")
CELLS = half_fraction(NAMES)
EVERYTHING = frozenset(NAMES)


def _signs(cell: frozenset[str]) -> dict[str, int]:
    return {name: 1 if name in cell else -1 for name in NAMES}


def _world(cell: frozenset[str], coefficients: dict[str, np.ndarray]) -> np.ndarray:
    """v of one cell: the sum over terms such as "AB" of the coefficient times the product of the signs."""
    signs = _signs(cell)
    return np.sum([beta * np.prod([signs[name] for name in term]) for term, beta in coefficients.items()], axis=0)


def _second_order(seed: int = 0, seeds: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    terms = ["", *NAMES, *("".join(pair) for pair in combinations(NAMES, 2))]
    return {term: rng.normal(size=seeds) for term in terms}


def test_the_fraction_is_sixteen_cells_of_product_one() -> None:
    assert len(CELLS) == len(set(CELLS)) == 16
    assert all(np.prod(list(_signs(cell).values())) == 1 for cell in CELLS)
    assert EVERYTHING in CELLS
    assert frozenset() not in CELLS
    # every two columns of signs are orthogonal, and so are every two products of two
    columns = {name: np.array([_signs(cell)[name] for cell in CELLS]) for name in NAMES}
    terms = [*columns.values(), *(columns[a] * columns[b] for a, b in combinations(NAMES, 2))]
    gram = np.array(terms) @ np.array(terms).T
    assert (gram == 16 * np.eye(15)).all()


def test_planted_effects_come_back_exactly() -> None:
    planted = _second_order()
    model = SecondOrder.of({cell: _world(cell, planted) for cell in CELLS}, NAMES)
    for term, beta in planted.items():
        np.testing.assert_allclose(model.coefficients[frozenset(term)], beta, atol=1e-14)
    for size in range(6):  # the cells that were not run, too
        for cell in map(frozenset, combinations(NAMES, size)):
            np.testing.assert_allclose(model.at(cell), _world(cell, planted), atol=1e-13)


def test_shares_are_those_of_all_orders_of_switching_on() -> None:
    planted = _second_order(1, seeds=1)
    model = SecondOrder.of({cell: _world(cell, planted) for cell in CELLS}, NAMES)
    orders = list(permutations(NAMES))
    shares = dict.fromkeys(NAMES, 0.0)
    for order in orders:
        cell: frozenset[str] = frozenset()
        for name in order:
            shares[name] += float((_world(cell | {name}, planted) - _world(cell, planted))[0]) / len(orders)
            cell |= {name}
    for name, share in model.shapley().items():
        assert share[0] == pytest.approx(shares[name], abs=1e-12)
    whole = _world(EVERYTHING, planted) - _world(frozenset(), planted)
    np.testing.assert_allclose(sum(model.shapley().values()), whole, atol=1e-12)
    for name in NAMES:
        alone = _world(frozenset({name}), planted) - _world(frozenset(), planted)
        last = _world(EVERYTHING, planted) - _world(EVERYTHING - {name}, planted)
        np.testing.assert_allclose(model.first_in()[name], alone, atol=1e-12)
        np.testing.assert_allclose(model.last_out()[name], last, atol=1e-12)
    squares = [frozenset(rest) for size in range(4) for rest in combinations("CDE", size)]
    both = np.mean(
        [
            _world(rest | {"A", "B"}, planted)
            - _world(rest | {"A"}, planted)
            - _world(rest | {"B"}, planted)
            + _world(rest, planted)
            for rest in squares
        ],
        axis=0,
    )
    np.testing.assert_allclose(model.interactions()["A", "B"], both, atol=1e-12)


def test_higher_interactions_go_where_the_defining_relation_says() -> None:
    def planted(term: str) -> SecondOrder:
        return SecondOrder.of({cell: _world(cell, {term: np.array([1.0])}) for cell in CELLS}, NAMES)

    for term, alias in (("ABC", "DE"), ("CDE", "AB"), ("BCDE", "A"), ("ABCDE", "")):
        found = planted(term).coefficients
        assert found[frozenset(alias)][0] == pytest.approx(1.0)
        assert all(abs(beta[0]) < 1e-15 for name, beta in found.items() if name != frozenset(alias))


def test_half_of_four_factors_gives_main_effects_free_of_pairs() -> None:
    names = tuple("ACDE")
    cells = half_fraction(names)
    assert len(cells) == 8
    planted = {term: beta for term, beta in _second_order(2).items() if "B" not in term}
    found = main_effects({cell: _world(cell, planted) for cell in cells}, names)
    for name in names:
        np.testing.assert_allclose(found[name], 2 * planted[name], atol=1e-13)
    three = main_effects({cell: _world(cell, {"ACD": np.array([1.0])}) for cell in cells}, names)
    assert [round(float(effect[0]), 12) + 0.0 for effect in three.values()] == [0.0, 0.0, 0.0, 2.0]


def test_cells_that_are_missing_are_named() -> None:
    values = {cell: np.zeros(1) for cell in CELLS if cell != EVERYTHING}
    with pytest.raises(ValueError, match="missing or too many: ABCDE"):
        SecondOrder.of(values, NAMES)
    with pytest.raises(ValueError, match="expected five factors, got 4"):
        SecondOrder.of(values, NAMES[:4])
