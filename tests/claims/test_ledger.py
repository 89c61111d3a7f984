"""Making a ledger: runs are shared and resumed, decisions are kept until something that they depend on changes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from analysis.claims import Claim, Decision, Effect, Evidence, Ledger, Study, combined
from analysis.claims import ledger as ledger_module
from analysis.claims.comparisons import compare, since_start
from analysis.claims.ledger import read_results, results
from analysis.claims.registry import ORDER, all_claims, chosen
from analysis.claims.rules import equivalent, exceeds
from analysis.claims.study import METHODS, planned_runs
from analysis.errors import UsageError

TINY = Study("tiny", "tiny", {name: METHODS[name] for name in ("PSR", "NSR")}, {"steps": 2, "eval.every": 1}, seeds=2)


def _claim(decide=lambda evidence: Decision("holds", "It was measured."), **changes) -> Claim:  # type: ignore[no-untyped-def]
    texts = dict.fromkeys(
        ("statement", "source", "hypothesis", "statistic", "margin", "rule", "conditions", "practice"), "A sentence."
    )
    return Claim(id="G1", family="gradients", title="A claim", decide=decide, **texts, **changes)


def test_seeds_have_bases_of_their_own_and_methods_share_them() -> None:
    assert [(run.method, run.seed) for run in TINY.runs] == [("PSR", 0), ("NSR", 0), ("PSR", 1), ("NSR", 1)]
    for run in TINY.runs:
        assert run.planned.config.policy.seed == run.planned.config.seed == run.seed
        assert run.planned.config.record.tokens == 0


def test_equal_runs_of_two_studies_are_trained_once() -> None:
    other = TINY.with_("other", methods={"PSR": METHODS["PSR"]})
    assert len(planned_runs([TINY, other])) == 4
    assert len(planned_runs([TINY, other.with_("longer", values={"steps": 3})])) == 6


@pytest.mark.slow  # trains four runs
def test_a_study_is_trained_and_compared(tmp_path: Path) -> None:
    seen = []

    def decide(evidence: Evidence) -> Decision:
        methods = evidence.methods(TINY)
        start = since_start(methods, "PSR", ["pass@1"])["pass@1"]
        gap = compare(methods, "NSR", "PSR", ["pass@8", "entropy_fixed"], "step")
        seen.append((start, gap))
        return Decision("holds", "It was measured.", (gap["pass@8"].effect(condition="tiny"),))

    claim = _claim(decide, studies=(TINY,))
    (entry,) = Ledger(tmp_path).make([claim], quiet=True)
    start, gap = seen[0]
    assert start.seeds == gap["pass@8"].seeds == (0, 1)
    assert gap["entropy_fixed"].values.shape[0] == 2
    assert entry.decision.effects[0].reason == "fewer than 4 seeds (2)"
    again = Ledger(tmp_path).make([claim], quiet=True)
    assert len(seen) == 1
    assert again[0].decision.to_json() == entry.decision.to_json()


def test_a_decision_is_made_again_when_its_runs_or_code_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = []

    def decide(evidence: Evidence) -> Decision:
        count.append(1)
        return Decision("fails", "It was measured.")

    claim = _claim(decide)
    for _ in range(2):
        Ledger(tmp_path).make([claim], quiet=True)
    assert len(count) == 1
    monkeypatch.setattr(ledger_module, "rules_commit", lambda: "another")
    Ledger(tmp_path).make([claim], quiet=True)
    assert len(count) == 2
    (tmp_path / "decisions" / "G1.json").write_text('{"schema"')  # cut short by a kill
    Ledger(tmp_path).make([claim], quiet=True)
    assert len(count) == 3


def test_results_are_read_back(tmp_path: Path) -> None:
    effect = Effect("gap", 0.1, 0.05, 0.15, n=8, null=0.0)
    claim = _claim(lambda evidence: Decision("holds", "It was measured.", (effect,), tables={"curve": {"k": [1, 2]}}))
    entries = Ledger(tmp_path).make([claim], quiet=True)
    file = tmp_path / "ledger.json"
    file.write_text(json.dumps(results(entries, "a command")))
    assert read_results(file)[0].to_json() == entries[0].to_json()
    file.write_text(json.dumps(results(entries, "a command") | {"schema": 99}))
    with pytest.raises(UsageError, match="expected schema 1, got 99"):
        read_results(file)


def test_verdicts_of_conditions_are_combined() -> None:
    yes, no = Decision("holds", "a"), Decision("fails", "b")
    open_ = Decision("undecided", "c", missing="more seeds")
    assert combined({"A": yes, "B": yes}).verdict == "holds"
    assert combined({"A": no, "B": no}).verdict == "fails"
    assert combined({"A": yes, "B": no, "C": open_}).depends_on == "holds: A; fails: B; undecided: C"
    assert combined({"A": yes, "B": open_}).missing == "B: more seeds"


def test_rules_ask_where_the_whole_interval_lies() -> None:
    inside, outside, across = (Effect("gap", v, v - 0.02, v + 0.02, n=8) for v in (0.0, 0.2, 0.05))
    assert [equivalent(e, 0.05).verdict for e in (inside, outside, across)] == ["holds", "fails", "undecided"]
    assert [exceeds(e, 0.05).verdict for e in (inside, outside, across)] == ["fails", "holds", "undecided"]
    unknown = replace(inside, low=float("nan"), high=float("nan"), reason="fewer than 4 seeds (2)")
    assert exceeds(unknown).missing == "fewer than 4 seeds (2)"


def test_every_entry_is_in_the_ledgers_order_and_complete() -> None:
    claims = all_claims()
    assert set(claims) <= set(ORDER)
    for claim in claims.values():
        for name in ("statement", "hypothesis", "statistic", "rule", "conditions", "practice"):
            assert getattr(claim, name).endswith("."), (claim.id, name)
        assert len(claim.title.split()) <= 8, claim.id
        for study in claim.studies:
            assert study.runs  # the fields are a valid recipe


def test_unknown_ids_are_refused() -> None:
    with pytest.raises(UsageError, match="expected ids of claims, got P9"):
        chosen(["p9"])
    assert [claim.id for claim in chosen(["p2", "P2"])] == ["P2"]
