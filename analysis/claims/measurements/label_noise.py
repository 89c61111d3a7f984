"""What noise of the verifier does to the expected gradients of PSR and NSR: both are scaled by 1 − FP − FN, exactly.

A response is correct with reward r = 1. The verifier rewards a wrong one with probability FP and does not reward a
correct one with probability FN. The advantage A that a correct response then has on average is
(1 − FN)·A(1) + FN·A(0), and a wrong one has (1 − FP)·A(0) + FP·A(1). Their difference is (1 − FP − FN)·(A(1) − A(0)),
which is 1 − FP − FN for PSR (A = 1, 0) and for NSR (A = 0, −1), and a score has mean zero, so

    E[A·∇log π(y)] = (1 − FP − FN)·∇p    for both.
"""

from __future__ import annotations

import torch

from toy_models.exact import Bandit

from ...objectives import get

__all__ = ["TOLERANCE", "check_scaling", "scaling_errors"]

TOLERANCE = 1e-12  # of numbers of order 0.1 in float64
_RATES = ((0.0, 0.0), (0.0, 0.2), (0.0, 0.4), (0.1, 0.3), (0.5, 0.5))  # (FP, FN)
_ARMS, _TABLES = 12, 8


def scaling_errors(seed: int = 0) -> dict[tuple[str, float, float], float]:
    """(objective, FP, FN) -> largest difference of E[A·∇log π] from (1 − FP − FN)·∇p over random tables of logits.

    The advantages are those of the toolkit's objectives; the expectation is a sum over all arms.
    """
    generator = torch.Generator().manual_seed(seed)
    tables = Bandit(torch.randn(_TABLES, _ARMS, dtype=torch.float64, generator=generator))
    correct = torch.rand(_TABLES, _ARMS, dtype=torch.float64, generator=generator) < 0.4
    gradient = tables.expected_score(correct.double())
    found = {}
    for name in ("psr", "nsr"):
        rewarded, unrewarded = get(name, form="log").advantages(torch.tensor([1.0, 0.0], dtype=torch.float64), 1)
        for false_positive, false_negative in _RATES:
            of_correct = (1 - false_negative) * rewarded + false_negative * unrewarded
            of_wrong = (1 - false_positive) * unrewarded + false_positive * rewarded
            expected = tables.expected_score(torch.where(correct, of_correct, of_wrong))
            scale = 1 - false_positive - false_negative
            found[name, false_positive, false_negative] = float((expected - scale * gradient).abs().max())
    return found


def check_scaling() -> float:
    """The largest error of `scaling_errors`.

    Raises:
        ArithmeticError: it exceeds the tolerance: an advantage of the toolkit is wrong.
    """
    errors = scaling_errors()
    worst = max(errors, key=errors.__getitem__)
    if errors[worst] > TOLERANCE:
        raise ArithmeticError(
            f"label noise: expected gradients scaled by 1 − FP − FN within {TOLERANCE:g}, got an error of "
            f"{errors[worst]:.3g} for {worst[0]} with FP = {worst[1]:g} and FN = {worst[2]:g}; the advantages are wrong"
        )
    return errors[worst]
