"""All entries of the ledger, in its order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from toy_models.messages import nearest

from ..errors import UsageError
from .claim import Claim

__all__ = ["ORDER", "all_claims", "chosen", "with_needed"]

# The paper's claims, those of later papers, then what this project concludes.
ORDER = (
    *(f"G{number}" for number in range(1, 12)),
    "S1",
    "S2",
    *("D1", "D2", "D3"),
    *("P1", "P2", "P3", "P4"),
    *("W1", "L1", "N1", "R1"),
    *(f"F{number}" for number in range(1, 13)),
    "X1",
)


def all_claims() -> dict[str, Claim]:
    """id -> entry, in the order of the ledger."""
    from .entries import ENTRIES

    found = {claim.id: claim for claim in ENTRIES}
    if len(found) < len(ENTRIES):
        raise ValueError("two entries have the same id")
    return {name: found[name] for name in ORDER if name in found}


def with_needed(claims: Iterable[Claim]) -> list[Claim]:
    """The claims and those whose decisions they read, in the order of the ledger."""
    known = all_claims()
    names = {claim.id for claim in claims}
    while missing := {name for claim in map(known.__getitem__, names) for name in claim.after} - names:
        names |= missing
    return [claim for name, claim in known.items() if name in names]


def chosen(ids: Iterable[str], *, option: str = "--run") -> Sequence[Claim]:
    """The entries of these ids, in the order of the ledger; case does not matter.

    Args:
        ids: The ids.
        option: What a message calls them.

    Raises:
        UsageError: an unknown id.
    """
    known = all_claims()
    wanted = {name.strip().upper() for name in ids if name.strip()}
    if unknown := sorted(wanted - known.keys()):
        raise UsageError(
            f"{option}: expected ids of claims, got {', '.join(unknown)} ({nearest(unknown[0], known)}); "
            "python -m analysis.claims --list shows all"
        )
    return [claim for name, claim in known.items() if name in wanted]
