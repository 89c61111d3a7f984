"""Softmax quantities by their definitions, term by term in 400-digit arithmetic: slow, obvious, right at any gap."""

from __future__ import annotations

from collections.abc import Sequence

from mpmath import MPContext

ctx = MPContext()  # its own context: the precision of mpmath.mp stays what it is
ctx.dps = 400  # 1 − π at a gap of 300 starts at the 131st digit, and its square is summed


def softmax(logits: Sequence[float], temperature: float = 1.0) -> list:
    exps = [ctx.exp(ctx.mpf(z) / ctx.mpf(temperature)) for z in logits]
    total = ctx.fsum(exps)
    return [e / total for e in exps]


def entropy_of(probs: list) -> object:
    return -ctx.fsum(p * ctx.log(p) for p in probs if p > 0)


def statistics(logits: Sequence[float], token: int, temperature: float = 1.0) -> dict[str, object]:
    probs = softmax(logits, temperature)
    direction = [(1 if v == token else 0) - p for v, p in enumerate(probs)]
    mean_d = ctx.fsum(p * d for p, d in zip(probs, direction, strict=True))
    mean_log = ctx.fsum(p * ctx.log(p) for p in probs)
    return {
        "log_prob": ctx.log(probs[token]),
        "one_minus_prob": 1 - probs[token],
        "entropy": entropy_of(probs),
        "collision": ctx.fsum(p * p for p in probs),
        "collision_log_prob": ctx.fsum(p * p * ctx.log(p) for p in probs),
        "direction_norm": ctx.sqrt(ctx.fsum(d * d for d in direction)),
        "argmax_prob": max(probs),
        "covariance": ctx.fsum(
            p * (ctx.log(p) - mean_log) * (d - mean_d) for p, d in zip(probs, direction, strict=True)
        ),
    }


def stepped(logits: Sequence[float], token: int, weight: float, step: float) -> list:
    """The distribution after z + step·weight·(e_y − π)."""
    probs = softmax(logits)
    moved = [
        ctx.mpf(z) + ctx.mpf(step) * ctx.mpf(weight) * ((1 if v == token else 0) - p)
        for v, (z, p) in enumerate(zip(logits, probs, strict=True))
    ]
    exps = [ctx.exp(z) for z in moved]
    total = ctx.fsum(exps)
    return [e / total for e in exps]


def derivative(function: object, logits: Sequence[float], token: int) -> list:
    """d function(π(t)) / dt at 0 along z + t(e_y − π), for a function of the distribution that returns a list.

    A central difference with a step of 1e-130 is exact to about 260 digits here.
    """
    h = ctx.mpf(10) ** -130
    probs = softmax(logits)

    def at(t: object) -> list:
        moved = [
            ctx.mpf(z) + t * ((1 if v == token else 0) - p) for v, (z, p) in enumerate(zip(logits, probs, strict=True))
        ]
        exps = [ctx.exp(z) for z in moved]
        total = ctx.fsum(exps)
        return function([e / total for e in exps])  # type: ignore[operator]

    return [(up - down) / (2 * h) for up, down in zip(at(h), at(-h), strict=True)]


def entropy_split(probs: list, token: int) -> list:
    """[h(π_y), (1 − π_y)·H(rest), H(rest)] of a distribution."""
    p, q = probs[token], 1 - probs[token]
    rest = entropy_of([other / q for v, other in enumerate(probs) if v != token])
    return [entropy_of([p, q]), q * rest, rest]
