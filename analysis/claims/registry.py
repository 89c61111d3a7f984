"""All entries of the ledger, in its order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from toy_models.messages import nearest

from ..errors import UsageError
from .claim import Claim

__all__ = ["ORDER", "all_claims", "chosen"]

# The paper's claims, then those of later papers.
ORDER = (
    *(f"G{number}" for number in range(1, 12)),
    "S1",
    "S2",
    *("D1", "D2", "D3"),
    *("P1", "P2", "P3", "P4"),
    *("W1", "L1", "N1", "R1"),
    *(f"F{number}" for number in range(1, 13)),
)


def all_claims() -> dict[str, Claim]:
    """id -> entry, in the order of the ledger."""
    from .entries import ENTRIES

    found = {claim.id: claim for claim in ENTRIES}
    if len(found) < len(ENTRIES):
        raise ValueError("two entries have the same id")
    return {name: found[name] for name in ORDER if name in found}


def chosen(ids: Iterable[str]) -> Sequence[Claim]:
    """The entries of these ids, in the order of the ledger; case does not matter.

    Raises:
        UsageError: an unknown id.
    """
    known = all_claims()
    wanted = {name.strip().upper() for name in ids if name.strip()}
    if unknown := sorted(wanted - known.keys()):
        raise UsageError(
            f"--run: expected ids of claims, got {', '.join(unknown)} ({nearest(unknown[0], known)}); "
            "python -m analysis.claims --list shows all"
        )
    return [claim for name, claim in known.items() if name in wanted]
