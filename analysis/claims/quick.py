"""What `--quick` decides: as many claims as fit into five minutes on two cores.

A claim without training runs comes before one with runs, and a cheaper one before a dearer one. Decisions are made one
after the other on one core, and training runs are shared by two. A claim that was decided before with the same code and
runs costs nothing, and so does a run that was trained before.
"""

from __future__ import annotations

from collections.abc import Sequence

from .claim import Claim
from .ledger import Ledger
from .study import planned_runs
from .tables import claim_seconds

__all__ = ["QUICK_SECONDS", "quick_claims"]

QUICK_SECONDS = 300.0
_CORES = 2


def quick_claims(
    claims: Sequence[Claim], ledger: Ledger, seconds: float = QUICK_SECONDS
) -> tuple[list[Claim], dict[str, float]]:
    """The claims that fit, in their order, and id -> estimated seconds of those that do not.

    A claim that reads the decisions of others, or chooses further runs from them, is not quick.

    Args:
        claims: All claims.
        ledger: Where decisions and runs of before are looked up.
        seconds: The time on two quiet cores.
    """
    known = ledger.known(claims)
    trained = ledger.trained(claims)
    costs: dict[str, float] = {}
    for claim in claims:
        runs = claim_seconds(claim, trained) - claim.seconds
        costs[claim.id] = 0.0 if claim.id in known else claim.seconds + runs / _CORES
    taken: set[str] = set()
    for claim in sorted(claims, key=lambda claim: (bool(claim.studies), costs[claim.id])):
        if claim.after or claim.later:
            continue
        new = trained | planned_runs(claim.studies).keys()
        cost = costs[claim.id]
        if cost <= seconds:
            taken.add(claim.id)
            seconds -= cost
            trained = new
    return (
        [claim for claim in claims if claim.id in taken],
        {claim.id: costs[claim.id] for claim in claims if claim.id not in taken},
    )
