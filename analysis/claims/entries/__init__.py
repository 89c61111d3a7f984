"""The entries of the ledger, one module for each kind of evidence."""

from __future__ import annotations

from ..claim import Claim
from . import groups, identity, pass_at_k

__all__ = ["ENTRIES"]

ENTRIES: tuple[Claim, ...] = (*identity.CLAIMS, *pass_at_k.CLAIMS, *groups.CLAIMS)
