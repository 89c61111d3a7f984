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
from jaxtyping import Bool, Float

from ..common.arguments import check_flags, check_numbers
from ..common.short_repr import short_repr
from ..errors import UsageError, at_index, first_index

__all__ = ["ExpectedFlow", "conserved_differences", "expected_direction", "expected_flow"]

Sign = Literal["psr", "nsr"]
Form = Literal["log", "probability"]


@short_repr
@dataclass(frozen=True)
class ExpectedFlow:
    """The solution of the flow.

    Attributes:
        times: t, in units of learning rate times updates.
        logits: z(t) of every arm.
        rtol: the relative tolerance of the solver.
    """

    times: Float[np.ndarray, " n"]
    logits: Float[np.ndarray, "n *batch arms"]
    rtol: float


def expected_direction(
    logits: Float[np.ndarray, "*batch arms"], correct: Bool[np.ndarray, "*#batch arms"], sign: Sign, form: Form
) -> Float[np.ndarray, "*batch arms"]:
    """dz/dt of PSR (w = 1 on correct arms) or NSR (w = −1 on wrong arms).

    Both p and 1 − p are sums of their own arms, so that neither cancels.

    Args:
        logits: z of every arm.
        correct: which arms are correct; of the shape of the logits, or one mask (arms,) for all rows.
        sign: "psr" or "nsr".
        form: "log" (w does not depend on π) or "probability" (w has a factor π_a, Eq. 6).

    Returns:
        The rate of change of the logits, whose sum over arms is zero.

    Raises:
        UsageError: an unknown sign or form, logits that are not finite, shapes that do not fit.

    Source: the expectation of Eqs. 7 and 8 of Zhu et al., arXiv 2506.01347 (†).

    >>> z, r = np.zeros(4), np.array([True, False, False, False])
    >>> expected_direction(z, r, "psr", "log").tolist() == expected_direction(z, r, "nsr", "log").tolist()
    True
    """
    if sign not in ("psr", "nsr") or form not in ("log", "probability"):
        raise UsageError(f"sign, form: expected psr or nsr and log or probability, got {sign!r} and {form!r}")
    z, is_correct = check_numbers("logits", logits), check_flags("correct", correct)
    if z.ndim < 1 or is_correct.shape not in (z.shape, z.shape[-1:]):
        raise UsageError(f"correct: expected the shape of logits {z.shape} or its last axis, got {is_correct.shape}")
    if not np.isfinite(z).all():
        index = first_index(~np.isfinite(z))
        raise UsageError(f"logits: expected finite numbers, got {z[index]}{at_index(index)}")
    unnormalised = np.exp(z - z.max(-1, keepdims=True))
    pi = unnormalised / unnormalised.sum(-1, keepdims=True)
    is_correct = np.broadcast_to(is_correct, z.shape)
    if form == "log":
        p, q = (np.where(mask, pi, 0).sum(-1, keepdims=True) for mask in (is_correct, ~is_correct))
        return np.where(is_correct, q * pi, -p * pi)
    pushed = np.where(is_correct, pi**2, 0) if sign == "psr" else -np.where(is_correct, 0, pi**2)
    return pushed - pi * pushed.sum(-1, keepdims=True)


def expected_flow(
    logits: Float[np.ndarray, "*batch arms"],
    correct: Bool[np.ndarray, "*#batch arms"],
    times: Float[np.ndarray, " n"],
    *,
    sign: Sign = "psr",
    form: Form = "log",
    rtol: float = 1e-10,
    atol: float = 1e-12,
) -> ExpectedFlow:
    """The flow z(t) from `logits` at time 0, solved by `scipy.integrate.solve_ivp` (DOP853) as one system.

    Args:
        logits: z(0) of every arm.
        correct: which arms are correct; of the shape of the logits, or one mask (arms,) for all rows.
        times: increasing times from 0 on, in units of learning rate times updates.
        sign: "psr" or "nsr".
        form: "log" or "probability", as in `expected_direction`.
        rtol: relative tolerance of the solver.
        atol: absolute tolerance of the solver, in units of the logits.

    Returns:
        The logits at `times`.

    Raises:
        UsageError: times that do not increase from 0 on, and as `expected_direction`.
        RuntimeError: the solver gave up.

    Source: derived here (†).
    """
    from scipy.integrate import solve_ivp

    t = check_numbers("times", times)
    if t.ndim != 1 or len(t) == 0 or t[0] < 0 or (np.diff(t) <= 0).any():
        raise UsageError("times: expected numbers from 0 up, each greater than the one before")
    z = check_numbers("logits", logits)
    expected_direction(z, correct, sign, form)  # checks the arguments

    def rate(_: float, flat: np.ndarray) -> np.ndarray:
        return expected_direction(flat.reshape(z.shape), correct, sign, form).ravel()

    solution = solve_ivp(rate, (0.0, float(t[-1])), z.ravel(), method="DOP853", t_eval=t, rtol=rtol, atol=atol)
    if not solution.success:
        raise RuntimeError(f"the flow could not be solved to t = {t[-1]:g}: {solution.message}")
    return ExpectedFlow(t, solution.y.T.reshape(len(t), *z.shape), rtol)


def conserved_differences(
    logits: Float[np.ndarray, "*batch arms"], arms: Bool[np.ndarray, " arms"]
) -> Float[np.ndarray, "*batch others"]:
    """e^{−z_u} − e^{−z_v} of each arm u of a set to the first arm v of the set, conserved along the flow.

    Args:
        logits: z of every arm, taken as they are (a common shift would scale the result).
        arms: which arms belong to the set.

    Returns:
        One number for each arm of the set except the first.

    Raises:
        UsageError: arms that are not a mask over the last axis of the logits.

    Source: derived here (†).

    >>> conserved_differences(np.array([0.0, -np.log(3.0), 5.0]), np.array([True, True, False])).round(6).tolist()
    [2.0]
    """
    z, chosen = check_numbers("logits", logits), check_flags("arms", arms)
    if z.ndim < 1 or chosen.shape != z.shape[-1:]:
        raise UsageError(f"arms: expected one mask over the last axis of logits {z.shape}, got {chosen.shape}")
    inverse = np.exp(-z[..., chosen])
    return inverse[..., 1:] - inverse[..., :1]
