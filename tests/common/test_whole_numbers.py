"""Floors and ceilings of products against exact arithmetic on the decimal that was written."""

from __future__ import annotations

from fractions import Fraction
from math import ceil
from math import floor as exact_floor

import pytest

from analysis.common.whole_numbers import ceiling, floor

SHARES = ("0.28", "0.29", "0.2", "0.0002", "0.07", "0.55", "0.57", "0.999", "0.001", "0.3", "1", "0.142857")


@pytest.mark.parametrize("share", SHARES)
def test_every_count_up_to_ten_thousand(share: str) -> None:
    exact, number = Fraction(share), float(share)
    counts = range(1, 10_001)
    assert [ceiling(number * n) for n in counts] == [ceil(exact * n) for n in counts]
    assert [floor(number * n) for n in counts] == [exact_floor(exact * n) for n in counts]


@pytest.mark.parametrize("parts", [3, 7, 49, 97])
def test_fractions_without_a_finite_decimal(parts: int) -> None:
    counts = range(1, 10_001)
    assert [ceiling(n * (1 / parts)) for n in counts] == [-(-n // parts) for n in counts]
    assert [floor(n * (1 / parts)) for n in counts] == [n // parts for n in counts]


def test_a_plain_ceiling_is_wrong_where_it_was() -> None:
    wrong = [n for n in range(1, 10_001) if ceil(0.28 * n) != ceil(Fraction("0.28") * n)]
    assert wrong[0] == 25
    assert 0.03 < len(wrong) / 10_000 < 0.04


def test_signs_and_zero() -> None:
    assert (floor(0.0), ceiling(0.0), floor(-0.29 * 100), ceiling(-0.28 * 25)) == (0, 0, -29, -7)
    assert (floor(-0.5), ceiling(-0.5), floor(2.5), ceiling(2.5)) == (-1, 0, 2, 3)
