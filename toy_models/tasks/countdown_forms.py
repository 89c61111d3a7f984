"""The normal form of the expressions of reasoning-gym's countdown, and every one that reaches a target.

`score_answer` of countdown accepts an expression in each of infinitely many spellings. In the normal form it has one:
numbers and operators with single spaces between them, and parentheses exactly where the order of evaluation would be
another without them. Equal computations in another order, such as a + b and b + a, are different expressions, and
correct ones all.

An expression is correct where it uses each number once and its value v is close to the target t in the sense of
`numpy.isclose(v, t, atol=1e-6)`, |v − t| ≤ 1e-6 + 1e-5·|t|, as in reasoning-gym 0.1.25: a quotient may miss the target
by a hair.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Sequence
from fractions import Fraction

__all__ = ["in_normal_form", "normal_forms"]

_RANK = {"+": 1, "-": 1, "*": 2, "/": 2}
_NUMBER = 3  # rank of a number, which needs no parentheses
_LONGEST = 200  # characters, which no normal form of five numbers has
_TOKEN = re.compile(r"\d+|[-+*/()]")


def normal_forms(numbers: Sequence[int], target: int) -> list[str]:
    """Every expression in normal form that uses each of the numbers once and reaches the target.

    All four operators count, whatever the configuration of the data set says: its score accepts them all.

    Args:
        numbers: With n of them there are n!·4ⁿ⁻¹·Catalan(n − 1) expressions: 7,680 of four, 430,080 of five.
        target: What the expression must be.

    >>> normal_forms([2, 3, 4], 20)
    ['(2 + 3) * 4', '(3 + 2) * 4', '4 * (2 + 3)', '4 * (3 + 2)']
    """
    exact = Fraction(target)
    slack = Fraction(1, 10**6) + abs(exact) / 10**5
    return sorted(text for value, _, text in _expressions(tuple(sorted(numbers))) if abs(value - exact) <= slack)


def in_normal_form(text: str) -> bool:
    """Whether a text is an expression of numbers, + - * / and parentheses in normal form.

    >>> [in_normal_form(text) for text in ("(2 + 3) * 4", "(2+3)*4", "(2 * 3) + 4", "2 - (3 - 4)", "02 + 3", "-2 + 3")]
    [True, False, False, True, False, False]
    """
    if len(text) > _LONGEST:  # which also bounds how deep parentheses are nested
        return False
    tokens = _TOKEN.findall(text)
    parsed = _sum(tokens, 0)
    return parsed is not None and parsed[2] == len(tokens) and parsed[1] == text


@functools.lru_cache(256)
def _expressions(values: tuple[int, ...]) -> tuple[tuple[Fraction, int, str], ...]:
    """(value, rank, text) of every expression of these numbers."""
    if len(values) == 1:
        return ((Fraction(values[0]), _NUMBER, str(values[0])),)
    made: dict[str, tuple[Fraction, int, str]] = {}
    for size in range(1, len(values)):
        for chosen in itertools.combinations(range(len(values)), size):
            left = tuple(values[i] for i in chosen)
            right = tuple(values[i] for i in range(len(values)) if i not in chosen)
            for a in _expressions(left):
                for b in _expressions(right):
                    for operator in _RANK:
                        if operator != "/" or b[0] != 0:
                            expression = _joined(operator, a, b)
                            made[expression[2]] = expression
    return tuple(made.values())


def _joined(operator: str, a: tuple[Fraction, int, str], b: tuple[Fraction, int, str]) -> tuple[Fraction, int, str]:
    rank = _RANK[operator]
    value = {"+": a[0].__add__, "-": a[0].__sub__, "*": a[0].__mul__, "/": a[0].__truediv__}[operator](b[0])
    return value, rank, _text(operator, a[1], a[2], b[1], b[2])


def _text(operator: str, left_rank: int, left: str, right_rank: int, right: str) -> str:
    rank = _RANK[operator]
    first = left if left_rank >= rank else f"({left})"
    second = right if right_rank > rank else f"({right})"  # operators of a rank are evaluated from the left
    return f"{first} {operator} {second}"


Parsed = tuple[int, str, int] | None  # rank and normal form of what was read, and the place after it


def _sum(tokens: list[str], place: int, rank: int = 1) -> Parsed:
    parsed = _factor(tokens, place) if rank > 2 else _sum(tokens, place, rank + 1)
    if rank > 2:
        return parsed
    while parsed is not None and parsed[2] < len(tokens) and _RANK.get(tokens[parsed[2]]) == rank:
        right = _sum(tokens, parsed[2] + 1, rank + 1)
        if right is None:
            return None
        parsed = rank, _text(tokens[parsed[2]], parsed[0], parsed[1], right[0], right[1]), right[2]
    return parsed


def _factor(tokens: list[str], place: int) -> Parsed:
    if place >= len(tokens):
        return None
    if tokens[place].isdigit():
        return _NUMBER, str(int(tokens[place])), place + 1
    if tokens[place] != "(":
        return None
    inside = _sum(tokens, place + 1)
    closed = inside is not None and inside[2] < len(tokens) and tokens[inside[2]] == ")"
    return (inside[0], inside[1], inside[2] + 1) if inside is not None and closed else None
