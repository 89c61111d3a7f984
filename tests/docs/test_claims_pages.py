"""The pages of the ledger: every claim with its verdict, today's or none, and formulas that the site can draw."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import pytest

from analysis.claims import results
from analysis.claims.claim import FAMILIES
from analysis.claims.ledger import results as as_data
from analysis.claims.registry import all_claims
from docs.generators.claims_pages import MATHEMATICS, family_page, index_page
from docs.generators.templates import render
from tests.claims.by_hand_claims import hand_entry

CLAIMS = all_claims()
TEX_TO_MATHML = importlib.import_module("docutils.utils.math.latex2mathml").tex2mathml  # which has no types


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A committed ledger in which P2 alone is decided, with the figure of its family."""
    file = tmp_path / "ledger.json"
    file.write_text(json.dumps(as_data([hand_entry(CLAIMS["P2"])], "a command")))
    (tmp_path / "ledger_pass-at-k.png").write_bytes(b"")
    monkeypatch.setattr(results, "COMMITTED", file)
    monkeypatch.setattr("docs.generators.claims_pages.COMMITTED", file)
    return file


def test_every_claim_is_on_the_page_of_its_family_and_in_both_tables(ledger: Path) -> None:
    index, readme = index_page(), render("README.md")
    for claim in CLAIMS.values():
        assert f"## {claim.id}: " in family_page(claim.family)
        assert f"| [{claim.id}]({claim.family}.md) |" in index
        assert f"| [{claim.id}](docs/claims/{claim.family}.md) |" in readme


def test_verdicts_are_those_of_the_committed_ledger(ledger: Path) -> None:
    page = family_page("pass-at-k")
    assert page.count("**Verdict: depends.**") == 1
    assert page.count("**Verdict: not yet decided.**") == sum(c.family == "pass-at-k" for c in CLAIMS.values()) - 1
    assert "](../../figures/ledger_pass-at-k.png)" in page
    rows = re.findall(r"^\| \[(\w+)\].*\| (\*\*depends\*\*|not yet decided) \|", index_page(), re.MULTILINE)
    assert [name for name, verdict in rows if verdict == "**depends**"] == ["P2"]
    assert {name for name, _ in rows} == CLAIMS.keys()
    assert f"1 depends, {len(CLAIMS) - 1} not yet decided" in render("README.md")


def test_without_a_ledger_nothing_is_decided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "COMMITTED", tmp_path / "ledger.json")
    monkeypatch.setattr("docs.generators.claims_pages.COMMITTED", tmp_path / "ledger.json")
    assert f"{len(CLAIMS)} not yet decided" in index_page()
    assert "figures/" not in family_page("pass-at-k")


@pytest.mark.parametrize("family", FAMILIES)
def test_formulas_can_be_drawn(family: str) -> None:
    text = MATHEMATICS[family]
    blocks = re.findall(r"\$\$(.+?)\$\$", text, re.DOTALL)
    inline = re.findall(r"\$([^$]+)\$", re.sub(r"\$\$.+?\$\$", "", text, flags=re.DOTALL))
    assert blocks
    for formula in blocks + inline:
        assert "<math" in str(TEX_TO_MATHML(formula.strip()))
    assert max(map(len, text.splitlines())) <= 120
