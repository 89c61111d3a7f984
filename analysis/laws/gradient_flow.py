"""The expected gradient flow of one softmax context, dz/dt = E_{a~π}[w_a (e_a − π)], solved as an ODE.

    form           correct arm u                 wrong arm v
    log            dz_u = (1 − p)·π_u            dz_v = −p·π_v             PSR and NSR alike: ∇p
    probability    PSR: dz_u = π_u(π_u − c₊)     dz_v = −c₊·π_v            Zhu et al. Eq. 6, c₊ = Σ_correct π²
                   NSR: dz_u = c₋·π_u            dz_v = −π_v(π_v − c₋)     c₋ = Σ_wrong π²

Arms whose logits move by a common multiple of their probability conserve e^{−z_u} − e^{−z_v} (d e^{−z_u} =
−a·e^{−z_u}·π_u = −a/Z, the same for all): correct arms among themselves and wrong arms among themselves under the log
form, wrong arms under PSR and correct arms under NSR in the probability form. So the log flow collapses onto the best
prior correct arm (derived here).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..errors import UsageError

__all__ = ["ExpectedFlow", "conserved_differences", "expected_direction", "expected_flow"]

Sign = Literal["psr", "nsr"]
Form = Literal["log", "probability"]


@dataclass(frozen=True)
class ExpectedFlow:
    """The solution at `times` (n,): logits (n, …, arms); and the tolerance it was asked for."""

    times: np.ndarray
    logits: np.ndarray
    rtol: float


def expected_direction(logits: np.ndarray, correct: np.ndarray, sign: Sign, form: Form) -> np.ndarray:
    """dz/dt (…, arms) of PSR (w = 1 on correct arms) or NSR (w = −1 on wrong ones); sums to zero over arms.

    Both p and 1 − p are sums of their own arms, so that neither cancels. Raises UsageError for an unknown sign or form
    and shapes that do not fit.

    >>> z, r = np.zeros(4), np.array([True, False, False, False])
    >>> expected_direction(z, r, "psr", "log").tolist() == expected_direction(z, r, "nsr", "log").tolist()
    True
    """
    if sign not in ("psr", "nsr") or form not in ("log", "probability"):
        raise UsageError(f"sign, form: expected psr or nsr and log or probability, got {sign!r} and {form!r}")
    z = np.asarray(logits, dtype=np.float64)
    right = np.asarray(correct, dtype=bool)
    if z.ndim < 1 or right.shape not in (z.shape, z.shape[-1:]):
        raise UsageError(f"correct: expected the shape of logits {z.shape} or its last axis, got {right.shape}")
    if not np.isfinite(z).all():
        raise UsageError(f"logits: expected finite numbers, got {int((~np.isfinite(z)).sum())} that are not")
    unnormalised = np.exp(z - z.max(-1, keepdims=True))
    pi = unnormalised / unnormalised.sum(-1, keepdims=True)
    right = np.broadcast_to(right, z.shape)
    if form == "log":
        p, q = (np.where(mask, pi, 0).sum(-1, keepdims=True) for mask in (right, ~right))
        return np.where(right, q * pi, -p * pi)
    pushed = np.where(right, pi**2, 0) if sign == "psr" else -np.where(right, 0, pi**2)
    return pushed - pi * pushed.sum(-1, keepdims=True)


def expected_flow(
    logits: np.ndarray,
    correct: np.ndarray,
    times: np.ndarray,
    *,
    sign: Sign = "psr",
    form: Form = "log",
    rtol: float = 1e-10,
    atol: float = 1e-12,
) -> ExpectedFlow:
    """z(t) at `times`, increasing from 0: `scipy.integrate.solve_ivp` with DOP853; logits (…, arms) all in one system.

    Raises UsageError for times that do not increase from 0, and RuntimeError where the solver gives up.
    """
    from scipy.integrate import solve_ivp

    t = np.asarray(times, dtype=np.float64)
    if t.ndim != 1 or len(t) == 0 or t[0] < 0 or (np.diff(t) <= 0).any():
        raise UsageError("times: expected numbers from 0 up, each greater than the one before")
    z = np.asarray(logits, dtype=np.float64)
    expected_direction(z, correct, sign, form)  # checks the arguments

    def rate(_: float, flat: np.ndarray) -> np.ndarray:
        return expected_direction(flat.reshape(z.shape), correct, sign, form).ravel()

    solution = solve_ivp(rate, (0.0, float(t[-1])), z.ravel(), method="DOP853", t_eval=t, rtol=rtol, atol=atol)
    if not solution.success:
        raise RuntimeError(f"the flow could not be solved to t = {t[-1]:g}: {solution.message}")
    return ExpectedFlow(t, solution.y.T.reshape(len(t), *z.shape), rtol)


def conserved_differences(logits: np.ndarray, arms: np.ndarray) -> np.ndarray:
    """e^{−z_u} − e^{−z_v} of each arm u of the set `arms` (bool (arms,)) to the first one v: (…, n − 1).

    Conserved along the flow; logits are taken as they are (a common shift would scale it).
    """
    inverse = np.exp(-np.asarray(logits, dtype=np.float64)[..., np.asarray(arms, dtype=bool)])
    return inverse[..., 1:] - inverse[..., :1]
