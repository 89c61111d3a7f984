"""Entries whose runs are chosen by a rule from what was decided before: order, resuming, and what makes them anew."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from analysis.claims import Claim, Decision, Evidence, Ledger, Study
from analysis.claims import ledger as ledger_module
from analysis.claims.ledger import in_order
from analysis.claims.study import METHODS
from analysis.errors import UsageError

FIRST = Study("first", "tiny", {"PSR": METHODS["PSR"]}, seeds=2)
TEXTS = dict.fromkeys(
    ("statement", "source", "hypothesis", "statistic", "margin", "rule", "conditions", "practice"), "A sentence."
)


class Killed(Exception):
    """Stands for a kill in the middle of a stage."""


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the studies that were asked for, in order; nothing is trained, and no run diverges."""
    names: list[str] = []

    def train(self: Ledger, studies: Sequence[Study], *rest: object) -> None:
        names.extend(study.name for study in studies)
        if "killed" in names:
            raise Killed

    monkeypatch.setattr(ledger_module.Ledger, "_train", train)
    monkeypatch.setattr(Evidence, "diverged", lambda self, study: {})
    return names


def _claims(answer: str = "holds", second: str = "second") -> list[Claim]:
    """X1 reads the decision of S2: it trains a study named by it, and then one more."""

    def stage(evidence: Evidence) -> tuple[Study, ...]:
        return (FIRST.with_(f"after {evidence.decisions['S2'].verdict}"),)

    def decide(evidence: Evidence) -> Decision:
        return Decision("holds", f"S2 {evidence.decisions['S2'].verdict}.")

    choice = Claim(
        id="X1",
        family="pass-at-k",
        title="A choice",
        decide=decide,
        studies=(FIRST,),
        after=("S2",),
        later=(stage, lambda evidence: (FIRST.with_(second),)),
        **TEXTS,
    )
    found = Decision(answer, "It was measured.")  # type: ignore[arg-type]
    return [choice, Claim(id="S2", family="identity", title="A finding", decide=lambda evidence: found, **TEXTS)]


def test_stages_follow_the_decisions_that_they_read(tmp_path: Path, trained: list[str]) -> None:
    entries = Ledger(tmp_path).make(_claims(), quiet=True)
    assert [entry.id for entry in entries] == ["X1", "S2"]  # as they were asked for
    assert trained == ["first", "after holds", "second"]
    assert entries[0].decision.reason == "S2 holds."
    assert Ledger(tmp_path).make(_claims(), quiet=True)[0].decision == entries[0].decision
    assert trained == ["first", "after holds", "second"]  # both decisions were kept


def test_another_decision_before_makes_the_entry_anew(tmp_path: Path, trained: list[str]) -> None:
    Ledger(tmp_path).make(_claims(), quiet=True)
    (tmp_path / "decisions" / "S2.json").unlink()
    trained.clear()
    Ledger(tmp_path).make(_claims(), quiet=True)  # S2 is decided again, as before: X1 stays
    assert trained == ["first"]
    (tmp_path / "decisions" / "S2.json").unlink()
    trained.clear()
    (choice, _) = Ledger(tmp_path).make(_claims("fails"), quiet=True)
    assert trained == ["first", "after fails", "second"]
    assert choice.decision.reason == "S2 fails."


def test_a_kill_in_a_stage_loses_neither_the_decision_before_nor_its_choice(tmp_path: Path, trained: list[str]) -> None:
    with pytest.raises(Killed):
        Ledger(tmp_path).make(_claims(second="killed"), quiet=True)
    assert (tmp_path / "decisions" / "S2.json").exists()
    assert not (tmp_path / "decisions" / "X1.json").exists()
    trained.clear()
    Ledger(tmp_path).make(_claims(), quiet=True)
    assert trained == ["first", "after holds", "second"]


def test_what_comes_before_must_be_there() -> None:
    choice, finding = _claims()
    assert [claim.id for claim in in_order([choice, finding])] == ["S2", "X1"]
    with pytest.raises(UsageError, match="expected S2 beside X1"):
        in_order([choice])


def test_fresh_seeds_train_from_the_same_bases() -> None:
    fresh = FIRST.with_("fresh", first_seed=200)
    configs = [run.planned.config for run in fresh.runs]
    assert [(config.seed, config.policy.seed) for config in configs] == [(200, 0), (201, 1)]
    assert {run.planned.run_id for run in fresh.runs}.isdisjoint(run.planned.run_id for run in FIRST.runs)
