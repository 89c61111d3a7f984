"""Top-k and top-p: which tokens a truncated distribution keeps.

The order is that of `generate` in transformers. The logits are divided by the temperature. The `top_k` most probable
tokens stay. Of these, renormalised, the fewest most probable tokens whose mass reaches `top_p` stay. The tokens that
remain, renormalised again, are the distribution that is sampled from: q_v = π_v / K for kept v, with K = Σ_kept π.
Hence log q_v − log π_v = −log K for every kept token, and KL(q ‖ π) = −log K.

Ties go to the lower id, so that exactly `top_k` tokens stay. (transformers keeps every token that ties with the last
one, and breaks ties in top-p arbitrarily.)
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["check_truncation", "kept_tokens", "truncates"]

# Logits that are processed together: bounds the sorted float64 copies of a large vocabulary (32 MB each).
_CHUNK = 1 << 22


def truncates(top_k: int, top_p: float) -> bool:
    """Whether these settings can leave out a token (a vocabulary of at most `top_k` tokens stays whole)."""
    return top_k > 0 or top_p < 1.0


def kept_tokens(logits: Tensor, *, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """The tokens that the truncated distribution of each row keeps, at least one per row.

    Ranks and masses are computed in float64 and without gradient: where a truncated distribution is differentiated, its
    set of kept tokens is held constant, which is right almost everywhere. Cost: a stable sort of each row.

    Args:
        logits: Logits (N, V).
        temperature: Positive.
        top_k: Number of tokens that stay, 0 for all.
        top_p: Mass that stays, in (0, 1]; 1 for all.

    Returns:
        A bool mask (N, V), true at the tokens that stay.

    >>> kept_tokens(torch.tensor([[0.0, 2.0, 1.0, 1.0]]), top_k=2).tolist()
    [[False, True, True, False]]
    >>> kept_tokens(torch.tensor([[0.4, 0.1, 0.3, 0.2]]).log(), top_p=0.65).tolist()
    [[True, False, True, False]]
    """
    rows = logits.detach()
    if not truncates(top_k, top_p):
        return torch.ones_like(rows, dtype=torch.bool)
    size = max(1, _CHUNK // logits.shape[1])
    return torch.cat(
        [_kept(rows[i : i + size].double() / temperature, top_k, top_p) for i in range(0, len(rows), size)]
    )


def _kept(z: Tensor, top_k: int, top_p: float) -> Tensor:
    ordered, order = z.sort(dim=1, descending=True, stable=True)
    if top_k:
        ordered, order = ordered[:, :top_k], order[:, :top_k]
    kept = torch.ones_like(order, dtype=torch.bool)
    if top_p < 1.0:
        mass = (ordered - ordered[:, :1]).exp()
        kept = mass.cumsum(dim=1) - mass < top_p * mass.sum(dim=1, keepdim=True)
    return torch.zeros_like(z, dtype=torch.bool).scatter_(1, order, kept)


def check_truncation(top_k: int, top_p: float) -> None:
    """Raises ValueError where `top_k` is not an integer ≥ 0, or `top_p` not in (0, 1]."""
    if isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 0:
        raise ValueError(f"top_k: expected an integer ≥ 0, got {top_k!r}; 0 keeps all tokens")
    if not 0.0 < top_p <= 1.0:
        raise ValueError(f"top_p: expected a number in (0, 1], got {top_p}; 1 keeps all tokens")
