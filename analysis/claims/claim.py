"""What a claim is: plain data, without torch.

A claim of a paper becomes an entry: the statement, the statistic that decides it, its margin and its rule, all fixed
before the runs that decide it. Its decision is in `decision`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .decision import VERDICTS, Decision, Effect, Verdict

if TYPE_CHECKING:
    from .evidence import Evidence, Methods
    from .study import Study

__all__ = ["FAMILIES", "VERDICTS", "Claim", "Decision", "Effect", "Verdict"]

# family -> what its page and its figure are called
FAMILIES = {
    "gradients": "What one gradient does",
    "identity": "What makes PSR and NSR differ",
    "dynamics": "Entropy and accuracy over training",
    "pass-at-k": "Pass@k after training",
    "field": "Claims of later papers",
}


@dataclass(frozen=True)
class Claim:
    """An entry of the ledger. All texts are full sentences that a student can read.

    Attributes:
        id: Short name, such as G3.
        family: A key of `FAMILIES`.
        title: The claim in at most eight words.
        statement: What is claimed.
        source: Paper and place in it.
        hypothesis: What would be seen if the claim were true.
        statistic: What is measured.
        margin: The margin of the rule, with its unit, as text.
        rule: Which measurements give which verdict.
        conditions: Where it is measured: tasks, regimes, matchings, number of seeds.
        practice: What to do in practice if it holds.
        decide: Measures and decides.
        theorem: Whether it is proven on the table («T»): there it is a test, and the verdict is about transformers.
        studies: The training runs that it needs; entries share them.
        seconds: Core seconds of its own computation, without training runs.
        judge: Decides about a user's runs, method label -> seed -> run; None where records do not tell.
        tables: The tables of records that `judge` reads.
        after: Ids of the entries that are decided before, and whose decisions this one reads.
        later: Stages of further training, each chosen by a rule from what was found before it: called with the
            evidence once everything before is trained, a stage names the studies to train next. The same evidence must
            give the same studies, which is how an interrupted ledger finds its runs again.
        later_seconds: About how many core seconds the runs of all stages take.
    """

    id: str
    family: str
    title: str
    statement: str
    source: str
    hypothesis: str
    statistic: str
    margin: str
    rule: str
    conditions: str
    practice: str
    decide: Callable[[Evidence], Decision]
    theorem: bool = False
    studies: tuple[Study, ...] = ()
    seconds: float = 1.0
    judge: Callable[[Methods], Decision] | None = None
    tables: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    later: tuple[Callable[[Evidence], tuple[Study, ...]], ...] = ()
    later_seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ValueError(f"family: expected one of {', '.join(FAMILIES)}, got {self.family!r}")
