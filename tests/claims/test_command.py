"""`python -m analysis.claims`: what it prints, what it writes, and one clear message for each invalid request."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from analysis.claims import Decision, Ledger, Study, registry, results
from analysis.claims import ledger as ledger_module
from analysis.claims.__main__ import main
from analysis.claims.ledger import read_results
from analysis.claims.quick import quick_claims
from analysis.claims.study import METHODS
from analysis.claims.tables import claim_seconds, claims_table, for_terminal
from analysis.records.folders import write_durably

from .by_hand_claims import hand_claim, hand_entry

ROOT = Path(__file__).parents[2]
TINY = Study("tiny", "tiny", {"PSR": METHODS["PSR"]}, {"steps": 2}, seeds=1)


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """Two claims instead of those of the ledger, and no committed ledger."""
    claims = {claim.id: claim for claim in (hand_claim("G1", "gradients"), hand_claim("P2"))}
    monkeypatch.setattr(registry, "all_claims", lambda: claims)
    monkeypatch.setattr(results, "COMMITTED", tmp_path / "committed.json")
    return claims


def run(*arguments: str | Path) -> int:
    return main([*map(str, arguments), "--quiet"])


def test_list_shows_families_verdicts_and_costs(
    known: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--run", "P2", "--out", tmp_path) == 0
    capsys.readouterr()
    assert run("--list", "--out", tmp_path) == 0
    shown = capsys.readouterr().out
    assert shown.index("What one gradient does") < shown.index("G1") < shown.index("Pass@k after") < shown.index("P2")
    assert "not yet" in shown
    assert "depends" in shown
    assert run("--list", "--json", "--out", tmp_path) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [(row["claim"], row["verdict"], row["family"]) for row in rows] == [
        ("G1", "not yet", "What one gradient does"),
        ("P2", "depends", "Pass@k after training"),
    ]


@pytest.mark.parametrize("width", [80, 120])
def test_the_list_fits_the_terminal_and_breaks_no_id(width: int) -> None:
    from rich.console import Console

    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    claims = list(registry.all_claims().values())
    console.print(for_terminal(claims_table(claims)))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= width
    assert {line.split()[0] for line in lines if line.strip()} >= {claim.id for claim in claims}
    assert len(lines) < 3 * len(claims) + 20


def test_no_torch_is_loaded_to_list() -> None:
    code = (
        "import sys; from analysis.claims.__main__ import main; status = main(['--list']); "
        "sys.exit(99 if {'torch', 'matplotlib'} & sys.modules.keys() else status)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True).returncode == 0


def test_show_draws_the_figure_and_says_where(
    known: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--show", "P2", "--out", tmp_path) == 0
    assert "not yet decided" in capsys.readouterr().out
    assert run("--run", "P2", "--out", tmp_path) == 0
    capsys.readouterr()
    assert run("--show", "p2", "--out", tmp_path) == 0
    shown = capsys.readouterr().out
    assert "**Verdict: depends.**" in shown
    assert "| NSR − PSR | path |" in shown
    assert f"figure   {tmp_path / 'figures' / 'P2.png'}" in shown
    assert (tmp_path / "figures" / "P2.png").read_bytes()[:4] == b"\x89PNG"


def test_the_ledger_is_written_and_shows_what_is_not_decided(
    known: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--run", "P2", "--out", tmp_path / "out", "--figures", tmp_path / "figures") == 0
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert names == {"ledger.json", "ledger.md", "ledger.png", "ledger_pass-at-k.png"}
    page = (tmp_path / "figures" / "ledger.md").read_text()
    assert "### G1: A claim" in page
    assert "**Verdict: not yet decided.**" in page
    data = json.loads((tmp_path / "figures" / "ledger.json").read_text())
    assert {"schema", "command", "commit", "versions"} <= data.keys()
    assert data["entries"][0]["made_with"]["commit of the rules"]
    assert [entry.id for entry in read_results(tmp_path / "figures" / "ledger.json")] == ["P2"]


def test_the_studies_of_an_entry_are_in_the_file() -> None:
    claim = hand_claim(studies=(TINY,))
    (entry,) = ledger_module.results([hand_entry(claim)], "a command", [claim])["entries"]
    (study,) = entry["studies"]
    assert (study["recipe"], study["seeds"], study["runs"], len(study["hash"]) > 8) == ("tiny", [0], 1, True)
    other = claim.studies[0].with_("tiny", values={"steps": 3})
    (changed,) = ledger_module.results([hand_entry(claim)], "", [hand_claim(studies=(other,))])["entries"]
    assert changed["studies"][0]["hash"] != study["hash"]


def test_quick_takes_what_fits(tmp_path: Path) -> None:
    claims = [
        hand_claim("P1", seconds=40.0, studies=(TINY,)),
        hand_claim("P2", seconds=50.0),
        hand_claim("P3", seconds=400.0),
        hand_claim("P4", seconds=1.0, after=("P2",)),
    ]
    chosen, left = quick_claims(claims, Ledger(tmp_path), 300.0)
    assert [claim.id for claim in chosen] == ["P1", "P2"]
    assert left == {"P3": 400.0, "P4": 1.0}
    runs = claim_seconds(claims[0]) - 40.0
    chosen, _ = quick_claims(claims, Ledger(tmp_path), 80.0)  # the one without runs comes first
    assert [claim.id for claim in chosen] == ["P2"]
    assert runs > 0


def test_what_was_decided_costs_no_time(tmp_path: Path) -> None:
    claim = hand_claim("P3", seconds=400.0)
    Ledger(tmp_path).make([claim], quiet=True)
    assert quick_claims([claim], Ledger(tmp_path), 10.0) == ([claim], {})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--run", "P9"], "--run: expected ids of claims, got P9"),
        (["--show", "P9"], "--show: expected ids of claims, got P9"),
        (["--run", " , "], "--run: expected at least one id, got none"),
        (["--show", ""], "--show: expected the id of a claim, got none"),
        (["--quick", "--workers", "0"], "--workers: expected 1 or more, got 0"),
        (["--on", "nowhere"], "nowhere"),
    ],
)
def test_invalid_requests_get_one_message(
    known: dict[str, Any],
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.err.startswith("error: ")
    assert "Traceback" not in shown.err


def test_folders_that_cannot_be_written(
    known: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert run("--run", "P2", "--out", tmp_path / "file") == 2
    assert "--out: cannot write" in capsys.readouterr().err
    assert run("--run", "P2", "--out", tmp_path / "out", "--figures", tmp_path / "file") == 2
    assert "--figures: cannot write into" in capsys.readouterr().err


def test_a_full_disk_keeps_what_was_decided(
    known: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    count = []

    def full(path: Path, data: bytes) -> Any:
        count.append(path)
        if len(count) == 2:
            raise OSError(28, f"cannot write {path}, {len(data)} bytes: No space left on device (0 are free)")
        return write_durably(path, data)

    monkeypatch.setattr(ledger_module, "write_durably", full)
    assert run("--full", "--out", tmp_path) == 2
    assert "No space left on device (0 are free); make room and run the same command again" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "decisions").iterdir()] == ["G1.json"]
    assert run("--full", "--out", tmp_path) == 0
    assert len(count) == 3  # G1 was not decided again


def test_a_base_that_cannot_be_made_is_one_message(
    known: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known["P2"] = hand_claim(studies=(TINY,))

    def failing(planned: list[Any], folders: dict[str, Path], **_: Any) -> dict[str, Any]:
        return {
            run.run_id: SimpleNamespace(status="failed", message="base: expected a cache\nmore", kind="UsageError")
            for run in planned
        }

    monkeypatch.setattr(ledger_module, "train_runs", failing)
    assert run("--run", "P2", "--out", tmp_path) == 2
    shown = capsys.readouterr().err
    assert "1 of 1 training runs failed" in shown
    assert "base: expected a cache" in shown
    assert "more in" in shown


def test_decisions_of_another_version_and_damaged_ones(
    known: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "decisions" / "P2.json"
    file.parent.mkdir()
    file.write_text('{"schema": 99}')
    assert run("--show", "P2", "--out", tmp_path) == 2
    assert "expected an entry of schema 1, got 99; run the ledger again" in capsys.readouterr().err
    file.write_text('{"schema": 1, "id"')
    assert run("--show", "P2", "--out", tmp_path) == 2
    assert "got a damaged file" in capsys.readouterr().err
    assert run("--list", "--out", tmp_path) == 0
    assert "unreadable" in capsys.readouterr().out


def test_ctrl_c_says_how_to_resume(known: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(evidence: Any) -> Decision:
        raise KeyboardInterrupt

    known["P2"] = hand_claim(decide=interrupted)
    assert run("--full", "--out", tmp_path) == 130
    shown = capsys.readouterr().err
    assert "stopped; resume with" in shown
    assert "python -m analysis.claims --full --out" in shown
    assert [path.name for path in (tmp_path / "decisions").iterdir()] == ["G1.json"]
