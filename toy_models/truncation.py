"""Top-k and top-p: which tokens a truncated law keeps.

The order is that of `generate` in transformers: the logits are divided by the temperature; the `top_k` most probable
tokens stay; of what is left, renormalised, the fewest most probable tokens whose mass reaches `top_p` stay. The law
that is sampled from is the rest, renormalised again: q_v = π_v / K for kept v, K = Σ_kept π, so that
log q_v − log π_v = −log K whichever kept token was drawn, and KL(q ‖ π) = −log K.

Ties go to the lower id, so that exactly `top_k` tokens stay (transformers keeps every token that ties with the last
one, and breaks the ties of top-p arbitrarily).
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["check_truncation", "kept_tokens", "truncates"]

# Logits looked at in one go: bounds the sorted float64 copies where the vocabulary is large (32 MB each).
_CHUNK = 1 << 22


def truncates(top_k: int, top_p: float) -> bool:
    """Whether these leave anything out, vocabularies shorter than `top_k` apart."""
    return top_k > 0 or top_p < 1.0


def kept_tokens(logits: Tensor, *, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """Bool (N, V): the tokens of each row of `logits` (N, V) that the truncated law keeps, at least one a row.

    top_k = 0 and top_p = 1 leave every token; a `top_k` of at least V does too. Ranks and masses are worked out in
    float64 and without gradient: where a law is differentiated through, its kept set is held constant, which is right
    almost everywhere. Cost: a stable sort of each row.

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
    """Raises ValueError for values out of range."""
    if isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 0:
        raise ValueError(f"top_k: expected a whole number of tokens, or 0 for all of them, got {top_k!r}")
    if not 0.0 < top_p <= 1.0:
        raise ValueError(f"top_p: expected a number in (0, 1], got {top_p}; 1 samples from the whole law")
