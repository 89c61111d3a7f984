"""The verifier "math" beside math-verify alone, on some hundred pairs: where they differ, and that they mean to."""

from __future__ import annotations

import logging

import pytest
import sympy

from tests.toy_models.verifiers.math_pairs import PAIRS, TINY
from toy_models.verifiers import Case, MathVerify
from toy_models.verifiers.small_numbers import same_value

# (reference, response) -> our verdict, where math-verify alone has the other; small numbers apart
ON_PURPOSE = {
    # the last box counts
    ("5", r"it is \boxed{4}, no: \boxed{5}"): True,
    ("1,2", r"$x=1$ or $x=2$, so \boxed{1}, \boxed{2}"): False,
    # a row separator of the reference that lost a backslash
    (r"\begin{pmatrix}1\2\end{pmatrix}", r"\boxed{\begin{pmatrix}1\\2\end{pmatrix}}"): True,
    (r"\begin{pmatrix}1\-2\end{pmatrix}", r"\boxed{\begin{pmatrix}1\\-2\end{pmatrix}}"): True,
}
VALUES = {  # of the small numbers, exactly
    "10^{-20}": sympy.Rational(1, 10**20),
    r"2\cdot 10^{-20}": sympy.Rational(2, 10**20),
    r"\frac{1}{10^{20}}": sympy.Rational(1, 10**20),
    "0.0000001": sympy.Rational(1, 10**7),
    "0.0000002": sympy.Rational(2, 10**7),
    r"\frac{1}{2^{99}}": sympy.Rational(1, 2**99),
    r"\frac{1}{2^{98}}": sympy.Rational(1, 2**98),
    "0": sympy.Integer(0),
    r"\frac{1}{2004!}": 1 / sympy.factorial(2004),
    r"\frac{1}{2006!}": 1 / sympy.factorial(2006),
    "0.000033": sympy.Rational(33, 10**6),
    r"\frac{1}{30000}": sympy.Rational(1, 30000),
    "0.0000333333": sympy.Rational(333333, 10**10),
}


def judged(pairs: list[tuple[str, str]]) -> list[bool]:
    verifier = MathVerify(seconds=20)
    try:
        return [
            verdict.correct for verdict in verifier.judge([Case("", response, answer) for answer, response in pairs])
        ]
    finally:
        verifier.close()


@pytest.mark.slow
def test_beside_math_verify_alone(caplog: pytest.LogCaptureFixture) -> None:
    math_verify = pytest.importorskip("math_verify", reason="math-verify is not installed")
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)

    def alone(answer: str, response: str) -> bool:
        gold, given = (math_verify.parse(text, parsing_timeout=None) for text in (f"${answer}$", response))
        return bool(math_verify.verify(gold, given, timeout_seconds=None))

    assert len(PAIRS) > 300
    small = {(a, rf"\boxed{{{b}}}"): (a, b) for a in TINY for b in TINY}
    differences = {
        pair: ours
        for pair, ours in zip(PAIRS, judged(PAIRS), strict=True)
        if ours != alone(*pair) and pair not in small
    }
    assert differences == ON_PURPOSE


@pytest.mark.slow
def test_small_numbers_are_equal_where_rational_arithmetic_says_so() -> None:
    """Of decimals six significant digits count: 0.0000333333 is 1/30000."""
    pairs = [(a, b) for a in TINY for b in TINY]
    got = judged([(a, rf"\boxed{{{b}}}") for a, b in pairs])
    for (a, b), ours in zip(pairs, got, strict=True):
        rounded = {a, b} == {r"\frac{1}{30000}", "0.0000333333"}
        assert ours == (VALUES[a] == VALUES[b] or rounded), (a, b)


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("1e-20", "2e-20", False),
        ("1/3", "0.333333", True),
        ("1/30", "0.033333", True),
        ("sqrt(2)/10**200", "2*sqrt(2)/10**200", False),
        ("sqrt(2)*sqrt(2) - 2", "0", True),
        ("x/10**20", "2*x/10**20", False),
        ("(x + 1)**2", "x**2 + 2*x + 1", True),
        ("I/10**20", "2*I/10**20", False),
        ("oo", "oo", True),
        ("0.0", "1e-20", False),
    ],
)
def test_same_value(a: str, b: str, same: bool) -> None:
    assert same_value(sympy.sympify(a), sympy.sympify(b)) is same


def test_inside_of_tuples_sets_and_matrices() -> None:
    kinds = (r"(10^{{-20}}, 1, {})", r"\{{ {}, 3 \}}", r"\begin{{pmatrix}} {} \\ 4 \end{{pmatrix}}", "[{}, 7]")
    pairs = [
        (kind.format("10^{-20}"), rf"\boxed{{{kind.format(other)}}}")
        for kind in kinds
        for other in (r"2\cdot 10^{-20}", r"\frac{1}{10^{20}}")
    ]
    assert judged(pairs) == [False, True] * len(kinds)


def test_white_space_between_digits_makes_two_numbers() -> None:
    assert judged([("12", r"\boxed{1 2}"), ("a 5", r"\boxed{a5}"), ("1 2", r"\boxed{1   2}")]) == [False, True, True]
