"""The entries of the ledger, one module for each kind of evidence."""

from __future__ import annotations

from ..claim import Claim
from . import dynamics, groups, identity, noise_robustness, pass_at_k, regularisers, trade_off

__all__ = ["ENTRIES"]

ENTRIES: tuple[Claim, ...] = (
    *regularisers.CLAIMS,
    *identity.CLAIMS,
    *dynamics.CLAIMS,
    *pass_at_k.CLAIMS,
    *trade_off.CLAIMS,
    *noise_robustness.CLAIMS,
    *groups.CLAIMS,
)
