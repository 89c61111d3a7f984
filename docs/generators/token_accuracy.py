"""Hard rows, and how far each way of computing their statistics is from float64.

The error of a number is |x − x₆₄|/max(|x₆₄|, 2^-126): relative, down to the smallest normal float32. A cell is the
greatest error over the rows and tokens of a kind (the argmax, the runner-up, an unlikely token), rounded up to 1, 2 or
5 times a power of ten so that another machine's rounding gives the same cell; nothing is said below 1e-6.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from analysis.token_stats.backends import available_backends
from analysis.token_stats.dispatch import token_statistics

from .other_libraries import Peer

__all__ = [
    "KINDS",
    "STATISTICS",
    "VOCABULARIES",
    "cpu_backends",
    "hard_rows",
    "measure_ours",
    "measure_peer",
    "round_up",
]

VOCABULARIES = (63, 32_000, 151_936)
STATISTICS = ("log_prob", "one_minus_prob", "entropy", "collision", "collision_log_prob", "direction_norm")
_ROWS = 2
_SMALLEST = 2.0**-126
_FLOOR = 1e-6


def _noise(vocab: int, spread: float, g: torch.Generator) -> Tensor:
    return spread * torch.randn(_ROWS, vocab, generator=g)


def _peaked(gap: float) -> Callable[[int, torch.Generator], Tensor]:
    """One token in the middle, `gap` above the largest of the others."""

    def rows(vocab: int, g: torch.Generator) -> Tensor:
        z = _noise(vocab, 0.5, g)
        z[:, vocab // 2] = z.amax(-1) + gap
        return z

    return rows


def _tops(*heights: float, floor: float = 0.0) -> Callable[[int, torch.Generator], Tensor]:
    """Tokens of these heights, spread over the vocabulary; the others are noise around `floor`."""

    def rows(vocab: int, g: torch.Generator) -> Tensor:
        z = _noise(vocab, 1.0, g) + floor
        for i, height in enumerate(heights):
            z[:, (i + 1) * vocab // (len(heights) + 1)] = height
        return z

    return rows


def _masked(vocab: int, g: torch.Generator) -> Tensor:
    z = _noise(vocab, 3.0, g)
    z[:, ::3] = float("-inf")
    return z


# kind -> (vocab, generator) -> logits (rows, vocab)
KINDS: dict[str, Callable[[int, torch.Generator], Tensor]] = {
    "spread of 3 nats": lambda vocab, g: _noise(vocab, 3.0, g),
    "peaked, gap 20": _peaked(20),
    "peaked, gap 40": _peaked(40),
    "peaked, gap 80": _peaked(80),
    "huge gaps: 0, −300, −5000, others −10⁴": _tops(0.0, -300.0, -5000.0, floor=-1e4),
    "bimodal: 40 and 39.7, others 0": _tops(40.0, 39.7),
    "three tied at the top: 30, others 0": _tops(30.0, 30.0, 30.0),
    "uniform": lambda vocab, g: torch.zeros(_ROWS, vocab),
    "every third column −∞": _masked,
    "all far below zero: −1000": lambda vocab, g: _noise(vocab, 3.0, g) - 1000,
    "offset 10⁴": lambda vocab, g: _noise(vocab, 3.0, g) + 1e4,
    "bf16 logits": lambda vocab, g: _noise(vocab, 3.0, g).bfloat16(),
}


def hard_rows(kind: str, vocab: int) -> tuple[Tensor, Tensor]:
    """Logits (rows·3, vocab) of a kind, and tokens: of each row its argmax, its runner-up and an unlikely token."""
    z = KINDS[kind](vocab, torch.Generator().manual_seed(0))
    order = z.float().argsort(dim=-1, descending=True, stable=True)
    reachable = torch.isfinite(z).sum(-1)
    unlikely = order.gather(-1, (reachable * 9 // 10)[:, None])
    return z.repeat_interleave(3, 0), torch.cat([order[:, :2], unlikely], 1).reshape(-1)


def measure_ours(kind: str, vocab: int, backends: Iterable[str]) -> dict[str, float]:
    """The greatest error of each statistic over back ends, from logits and from hidden states with a head."""
    z, y = hard_rows(kind, vocab)
    hidden, head, bias = _as_product(z)
    ways = (
        way
        for backend in backends
        for way in (
            token_statistics(z, y, backend=backend),
            token_statistics(hidden=hidden, head=head, bias=bias, tokens=y, backend=backend),
        )
    )
    found = [{name: getattr(stats, name) for name in STATISTICS} for stats in ways]
    return _errors(z, y, found)


def measure_peer(peer: Peer, kind: str, vocab: int) -> dict[str, float]:
    """The error of each statistic that a peer gives, NaN where it gives that; {} where it cannot take the rows."""
    z, y = hard_rows(kind, vocab)
    if peer.from_logits is not None:
        return _errors(z, y, [peer.from_logits(z, y)])
    assert peer.from_hidden is not None
    hidden, head, bias = _as_product(z)
    if bias is not None and not peer.takes_bias:
        return {}
    with torch.no_grad():
        return _errors(z, y, [peer.from_hidden(hidden, head, bias, y)])


def _as_product(z: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """hidden, head and bias whose logits are z to the last bit: rows of the identity pick columns of the head."""
    masked = torch.isinf(z[0])
    bias = torch.zeros(z.shape[1]).masked_fill(masked, float("-inf")) if masked.any() else None
    return torch.eye(len(z), dtype=z.dtype), z.masked_fill(masked, 0).t().contiguous(), bias


def _errors(z: Tensor, y: Tensor, found: list[dict[str, Tensor]]) -> dict[str, float]:
    exact = token_statistics(z, y, backend="reference")
    errors: dict[str, float] = {}
    for name in found[0]:
        right = getattr(exact, name)
        off = [((one[name].double() - right).abs() / right.abs().clamp(min=_SMALLEST)).amax() for one in found]
        errors[name] = float(torch.stack(off).amax())  # NaN where there is one
    return errors


def round_up(error: float) -> float:
    """The next of 1, 2, 5 times a power of ten, at least 1e-6; NaN for what is not a number.

    >>> [round_up(x) for x in (0.0, 1.2e-5, 5e-4, 0.3)]
    [1e-06, 2e-05, 0.0005, 0.5]
    """
    if not math.isfinite(error):
        return math.nan
    error = max(error, _FLOOR)
    decade = math.floor(math.log10(error))
    return next(
        value
        for exponent in (decade - 1, decade, decade + 1)
        for digit in (1, 2, 5)
        if (value := float(f"{digit}e{exponent}")) >= error
    )


def cpu_backends() -> list[str]:
    """The back ends that are held against the reference on this machine's CPU."""
    return [name for name, reason in available_backends().items() if reason is None and name != "reference"]
