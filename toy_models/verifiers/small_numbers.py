r"""Whether two values that math-verify takes for equal are so: small numbers are compared by their digits.

math-verify rounds decimals to six places, and drops what is below 10⁻¹⁵ of a difference of exact expressions. All small
numbers are equal then: 10^{-20} and 2\cdot 10^{-20}, 0.0000001 and 0.0000002. Here

- numbers written without a decimal point are equal where they agree to 40 digits, whatever their size;
- of two numbers below 10⁻⁴, one of them a decimal, six significant digits must agree instead of six places.

Everything else is left as math-verify has it: this can only refuse what it accepts. Unknowns are given two values each.
"""

from __future__ import annotations

from typing import Any

import sympy

__all__ = ["same_value"]

_SMALL = sympy.Rational(1, 10**4)  # from here on six places are at least two digits
_SIGNIFICANT = 6
_DIGITS = 50
_EXACT = sympy.Rational(1, 10**40)
_VANISHING = sympy.Rational(1, 10**100)  # sympy cannot tell a sum of roots below this from zero by its digits
_PERCENT = sympy.UnevaluatedExpr(sympy.Rational(1, 100))
_PLACES = (sympy.Rational(137, 89), sympy.Rational(61, 97))


def same_value(a: Any, b: Any) -> bool:
    """False where the expressions, which math-verify takes for equal numbers, are not.

    >>> same_value(sympy.Rational(1, 10**20), sympy.Rational(2, 10**20))
    False
    >>> same_value(sympy.Float("0.333333"), sympy.Rational(1, 3))
    True
    """
    if not isinstance(a, sympy.Expr) or not isinstance(b, sympy.Expr):  # entries of matrices come here one by one
        return True
    if _percent(a) != _percent(b) and all(x.is_Integer for x in _without_percent(a, b)):
        return True  # math-verify's rule: 9% is 9
    try:
        a, b = a.doit(), b.doit()
        unknowns = sorted(a.free_symbols | b.free_symbols, key=str)
        for place in _PLACES if unknowns else _PLACES[:1]:
            values = {unknown: place + number for number, unknown in enumerate(unknowns)}
            x, y = a.subs(values), b.subs(values)
            if x.is_number and y.is_number and not _same_number(x, y):
                return False
    except Exception:  # an expression that sympy cannot evaluate
        return True
    return True


def _percent(expression: Any) -> bool:
    return bool(expression.is_Mul and len(expression.args) == 2 and expression.args[1] == _PERCENT)


def _without_percent(*expressions: Any) -> list[Any]:
    return [x.args[0] if _percent(x) else x for x in expressions]


def _same_number(x: Any, y: Any) -> bool:
    if x.is_Rational and y.is_Rational:
        return bool(x == y)
    size = max(abs(x.evalf(_DIGITS)), abs(y.evalf(_DIGITS)))
    difference = abs((x - y).evalf(_DIGITS))
    if x.has(sympy.Float) or y.has(sympy.Float):
        if size >= _SMALL or size == 0:
            return True
        place = sympy.floor(sympy.log(size, 10).evalf()) - (_SIGNIFICANT - 1)
        return bool(2 * difference <= (1 + sympy.Float("1e-9")) * sympy.Integer(10) ** place)
    if size < _VANISHING:
        return sympy.simplify(x - y).is_zero is not False
    return bool(difference <= _EXACT * size)
