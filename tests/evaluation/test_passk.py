"""Pass@k against rational arithmetic, and the estimator's expectation against the exact value."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from analysis.errors import UsageError
from analysis.evaluation import K_GRID, pass_at_k, pass_at_k_exact


def rational_estimate(n: int, c: int, k: int) -> Fraction:
    return 1 - Fraction(math.comb(n - c, k), math.comb(n, k))


@pytest.mark.parametrize("n", [1, 2, 7, 30])
def test_estimate_equals_rational_arithmetic(n):
    c, k = np.meshgrid(np.arange(n + 1), np.arange(1, n + 1), indexing="ij")
    found = pass_at_k(n, c, k)
    for value, ci, ki in zip(found.ravel(), c.ravel(), k.ravel(), strict=True):
        assert math.isclose(value, rational_estimate(n, int(ci), int(ki)), rel_tol=1e-13, abs_tol=0)


@pytest.mark.parametrize(("n", "c", "k"), [(10**6, 1, 1), (10**6, 3, 2), (2000, 40, 512), (1024, 1023, 1)])
def test_estimate_keeps_relative_precision_at_large_n(n, c, k):
    assert math.isclose(pass_at_k(n, c, k), rational_estimate(n, c, k), rel_tol=1e-12)


def test_exact_equals_rational_arithmetic():
    for p in (0.0, 1e-12, 0.3, 0.5, 1 - 1e-9, 1.0):
        for k in (1, 2, 8, 64):
            expected = 1 - (1 - Fraction(p)) ** k
            assert math.isclose(pass_at_k_exact(p, k), expected, rel_tol=1e-13)


@pytest.mark.parametrize("p", [0.0, 0.03, 0.5, 0.97, 1.0])
def test_estimate_is_unbiased(p):
    n = 24
    c = np.arange(n + 1)
    binomial = np.array([math.comb(n, int(i)) * p ** int(i) * (1 - p) ** (n - int(i)) for i in c])
    for k in (1, 2, 5, 24):
        assert math.isclose(binomial @ pass_at_k(n, c, k), pass_at_k_exact(p, k), rel_tol=1e-12, abs_tol=1e-300)


def test_broadcasting_and_grid():
    p = np.linspace(0, 1, 5)
    table = pass_at_k_exact(p[:, None], K_GRID)
    assert K_GRID == (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
    assert table.shape == (5, 11)
    assert table[:, 0] == pytest.approx(p, rel=1e-15)
    assert (np.diff(table, axis=1) >= 0).all()
    assert pass_at_k([[4], [8]], [1, 2, 3], 2).shape == (2, 3)
    assert isinstance(pass_at_k(4, 1, 1), float)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pass_at_k(4, [1, 5], 2), r"c: expected 0 ≤ c ≤ n correct samples, got 5 at index 1"),
        (lambda: pass_at_k(4, -1, 2), "c: expected 0 ≤ c ≤ n correct samples, got -1"),
        (lambda: pass_at_k(4, 1, 5), "k: expected k ≤ n, got 5; draw more samples"),
        (lambda: pass_at_k(4, 1, 0), "k: expected k ≥ 1, got 0"),
        (lambda: pass_at_k(4.5, 1, 1), "n: expected whole numbers, got 4.5"),
        (lambda: pass_at_k(4, math.nan, 1), "c: expected whole numbers, got nan"),
        (lambda: pass_at_k_exact([0.5, 1.1], 2), r"p: expected probabilities in \[0, 1\], got 1.1 at index 1"),
        (lambda: pass_at_k_exact(math.nan, 2), r"p: expected probabilities in \[0, 1\], got nan"),
        (lambda: pass_at_k_exact(0.5, 0), "k: expected k ≥ 1, got 0"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(UsageError, match=message):
        call()
