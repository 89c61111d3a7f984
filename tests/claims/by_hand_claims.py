"""Claims and entries written by hand, for what readers see of the ledger."""

from __future__ import annotations

from typing import Any

from analysis.claims import Claim, Decision, Effect
from analysis.claims.ledger import Entry

__all__ = ["DECISION", "hand_claim", "hand_entry"]

DECISION = Decision(
    "depends",
    "It was measured.",
    (
        Effect("NSR − PSR", 0.1, 0.05, 0.15, "nats", 8, condition="path", margin=0.02, kind="t"),
        Effect("NSR − GRPO", -0.02, unit="nats", n=2, condition="path", reason="fewer than 4 seeds (2)"),
    ),
    depends_on="the task",
    tables={"curve": {"k": [1, 2], "value": [0.1, float("nan")]}},
)


def hand_claim(name: str = "P2", family: str = "pass-at-k", decision: Decision = DECISION, **changes: Any) -> Claim:
    """A claim whose decision is given."""
    texts = dict.fromkeys(
        ("statement", "source", "hypothesis", "statistic", "margin", "rule", "conditions", "practice"), "A sentence."
    )
    return Claim(
        **{"id": name, "family": family, "title": "A claim", "decide": lambda evidence: decision, **texts, **changes}
    )


def hand_entry(claim: Claim, decision: Decision = DECISION) -> Entry:
    """The entry of a claim, as the ledger makes it."""
    return Entry(claim.id, decision, {"commit of the rules": "0123456789abcdef"}, 1.0, {})
