"""The committed ledger: today's claims, whole files, and the same decisions when its quick entries are made again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from analysis.claims.claim import FAMILIES
from analysis.claims.ledger import Ledger, read_results
from analysis.claims.quick import quick_claims
from analysis.claims.registry import all_claims
from analysis.claims.results import COMMITTED, committed

ENTRIES = committed()
_TOLERANCE = 1e-3  # of an effect, relative to it or its interval: another processor rounds otherwise


@pytest.fixture(autouse=True)
def _there() -> None:
    if not COMMITTED.exists():
        pytest.skip("no ledger is committed")


def test_its_claims_are_known_and_its_origin_is_recorded() -> None:
    data = json.loads(COMMITTED.read_text(encoding="utf-8"))
    assert {"schema", "command", "commit", "date", "versions"} <= data.keys()
    assert {entry.id for entry in ENTRIES} <= all_claims().keys()
    for entry in ENTRIES:
        assert entry.made_with["commit of the rules"] not in ("", "unknown")
        assert not entry.made_with["commit of the rules"].endswith("+")  # rules that were not committed


def test_its_page_and_its_figures_are_there() -> None:
    page = (COMMITTED.parent / "ledger.md").read_text(encoding="utf-8")
    for entry in ENTRIES:
        assert f"### {entry.id}: " in page
        assert (COMMITTED.parent / f"ledger_{all_claims()[entry.id].family}.png").exists()
    assert {path.stem.removeprefix("ledger_") for path in COMMITTED.parent.glob("ledger_*.png")} <= {*FAMILIES, "S2"}


@pytest.mark.slow
def test_its_quick_entries_are_decided_alike_when_made_again(tmp_path: Path) -> None:
    claims = all_claims()
    chosen, _ = quick_claims([claims[entry.id] for entry in ENTRIES if not claims[entry.id].studies], Ledger(tmp_path))
    if not chosen:
        pytest.skip("no entry of the committed ledger is decided in minutes without training")
    again = {entry.id: entry.decision for entry in Ledger(tmp_path).make(chosen, quiet=True)}
    stored = {entry.id: entry.decision for entry in read_results(COMMITTED)}
    for name, decision in again.items():
        assert decision.verdict == stored[name].verdict, name
        for new, old in zip(decision.effects, stored[name].effects, strict=True):
            width = (old.high - old.low) if old.high == old.high else 0.0
            assert (new.label, new.condition) == (old.label, old.condition)
            assert new.value == pytest.approx(old.value, rel=_TOLERANCE, abs=_TOLERANCE * width + 1e-9, nan_ok=True)
