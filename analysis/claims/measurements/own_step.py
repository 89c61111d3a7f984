"""A sampled token's own step on random tables, exactly: the theorems behind G1, G3, G4 and G6, in float64.

The table is the case in which a context has logits of its own: Δz = ηw·(e_y − π). Each check raises where the toolkit
does not reproduce its theorem.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...common.randomness import seed_of
from ...laws import dense_statistics, entropy_change_parts, logit_gradient, mass_flow, squeeze_boundary

__all__ = ["check_boundary", "check_order", "rest_entropy_falls"]

_ROWS, _VOCAB = 256, 24
_SMALL, _LARGE = 1e-6, 20.0  # steps in units of the logits
_NEAR = 1e-4  # distance from the boundary within which a finite step may have either sign


def check_boundary(seed: int = 0) -> dict[str, float]:
    """A small step moves an alternative against y exactly if π_v > c − π_y, whichever the sign of the weight.

    Returns:
        Over random tables and tokens: "below", the fraction of alternatives below the boundary, which a step of NSR
        drains and a step of PSR feeds; "tables", the fraction of tables with at least one.

    Raises:
        RuntimeError: an alternative has another sign.
    """
    logits, tokens, other = _tables(seed)
    probs = logits.softmax(-1)
    distance = probs - squeeze_boundary(dense_statistics(logits, tokens))[:, None]
    clear = other & (distance.abs() > _NEAR)
    for weight in (1.0, -1.0):
        flow = mass_flow(logits, tokens, weight, _SMALL, exact=True)
        wrong = clear & (torch.sign(flow) != -weight * torch.sign(distance))
        if wrong.any():
            raise RuntimeError(f"{int(wrong.sum())} alternatives move against the boundary π_v = c − π_y on tables")
    below = other & (distance < 0)
    return {"below": float(below.sum() / other.sum()), "tables": float(below.any(-1).double().mean())}


def rest_entropy_falls(seed: int = 0) -> float:
    """The greatest first-order change of the entropy of the alternatives under a step of NSR, per unit of step.

    Raises:
        RuntimeError: it rises somewhere.
    """
    logits, tokens, _ = _tables(seed)
    change = entropy_change_parts(dense_statistics(logits, tokens), -1.0, 1.0).rest
    if float(change.max()) > 1e-12:
        raise RuntimeError(f"NSR raises the entropy of the alternatives by {float(change.max()):.3g} on a table")
    return float(change.max())


def check_order(seed: int = 0) -> float:
    """NSR's own step never reorders alternatives, whatever its size; that of PSR does when it is large.

    Returns:
        The fraction of pairs that a step of 20 of PSR reorders.

    Raises:
        RuntimeError: NSR reorders a pair, or PSR none.
    """
    logits, tokens, other = _tables(seed)
    log_probs = logits.log_softmax(-1)
    pairs = other[:, :, None] & other[:, None, :] & (log_probs[:, :, None] > log_probs[:, None, :])
    found = {}
    for weight in (1.0, -1.0):
        stepped = log_probs + _LARGE * logit_gradient(logits, tokens, weight)
        found[weight] = float((pairs & (stepped[:, :, None] < stepped[:, None, :])).sum() / pairs.sum())
    if found[-1.0] > 0 or found[1.0] == 0:
        raise RuntimeError(
            f"reordered pairs of alternatives on tables: {found[-1.0]:.3g} by NSR, {found[1.0]:.3g} by PSR"
        )
    return found[1.0]


def _tables(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (rows, vocab), a token of each row, and the mask of the others."""
    generator = torch.Generator().manual_seed(seed_of(seed, "gradient_noise"))
    logits = 2 * torch.randn(_ROWS, _VOCAB, generator=generator, dtype=torch.float64)
    tokens = torch.randint(_VOCAB, (_ROWS,), generator=generator)
    return logits, tokens, torch.arange(_VOCAB) != tokens[:, None]
