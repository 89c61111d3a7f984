"""Whole numbers out of products of floats: 0.28·25 is 7.000000000000001 in floats, and its ceiling is 7, not 8."""

from __future__ import annotations

import math
import sys

__all__ = ["ceiling", "floor"]

# A product of two correctly rounded factors is off by at most 1.5 eps relatively; the float next to a whole number lies
# within that of it.
_ROUNDING = 2 * sys.float_info.epsilon


def floor(value: float) -> int:
    """⌊value⌋, where a value within rounding of a whole number is that number.

    Args:
        value: a product or quotient of two floats.

    Returns:
        The greatest whole number that is not above the value.

    >>> floor(0.29 * 100), int(0.29 * 100)
    (29, 28)
    """
    nearest = round(value)
    return nearest if abs(value - nearest) <= _ROUNDING * abs(value) else math.floor(value)


def ceiling(value: float) -> int:
    """⌈value⌉, where a value within rounding of a whole number is that number.

    Args:
        value: a product or quotient of two floats.

    Returns:
        The least whole number that is not below the value.

    >>> ceiling(0.28 * 25), math.ceil(0.28 * 25)
    (7, 8)
    """
    return -floor(-value)
