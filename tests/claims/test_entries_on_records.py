"""The entries about training on real folders: a user's runs, and a study that is trained."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from analysis.claims import Ledger, Study, judge
from analysis.claims.__main__ import main
from analysis.claims.entries import dynamics, noise_robustness, pass_at_k, trade_off
from analysis.claims.registry import all_claims
from analysis.claims.study import METHODS
from tests.report.by_hand import make_experiment

OURS = ("D1", "D2", "D3", "L1", "P1", "P2", "P3", "P4", "W1", "R1")


def test_a_users_runs_are_judged_where_their_methods_are_there(tmp_path: Path) -> None:
    make_experiment(tmp_path, seeds=(0, 1, 2, 3), contexts=False, modes=True)
    claims, entries, skipped = judge(tmp_path)
    judged = {claim.id: entry.decision for claim, entry in zip(claims, entries, strict=True)}
    assert {"D1", "D2", "D3", "P1", "P2", "P4"} <= judged.keys()
    # Every run has the same success, which rises: no method falls below its base, and PSR loses nothing.
    assert judged["P1"].verdict == "holds"
    assert judged["P2"].verdict == "fails"
    assert "got none of GRPO, PPO" in skipped["P3"]
    assert "got none of W-REINFORCE" in skipped["W1"]
    assert "got none of W-REINFORCE" in skipped["L1"]
    assert skipped["R1"] == "records of training runs alone do not decide it"


@pytest.mark.slow  # trains 18 runs of two steps on tiny bases
def test_studies_are_trained_and_decided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = {"steps": 2, "eval.every": 1, "eval.prompts": 4, "eval.final_prompts": 4, "update.rows": "keep"}
    tiny = Study("tiny", "tiny", METHODS, short, seeds=2)
    sgd = tiny.with_(
        "tiny, SGD",
        methods=noise_robustness.NOISY_ADAMW.methods,
        seeds=1,
        values={"optimizer.name": "sgd", "optimizer.max_grad_norm": "unset"},
    )
    lambdas = tiny.with_(
        "tiny, λ", methods={name: trade_off.LAMBDA_ADAMW.methods[name] for name in ("λ = 0.1", "λ = 1")}, seeds=1
    )
    modes = tiny.with_(
        "tiny, modes",
        methods={name: METHODS[name] for name in ("PSR", "NSR")},
        values={"policy.base": "tiny-two-modes", "task.name": "two-modes-small"},
        seeds=1,
    )
    for module in (dynamics, pass_at_k, trade_off):
        monkeypatch.setattr(module, "MAIN", (tiny,))
    monkeypatch.setattr(dynamics, "LONG", tiny)
    monkeypatch.setattr(dynamics, "RELEASED_BATCHES", tiny)
    monkeypatch.setattr(pass_at_k, "TWO_MODES", modes)
    for name in ("LAMBDA_ADAMW", "LAMBDA_SGD"):
        monkeypatch.setattr(trade_off, name, lambdas)
    for name in ("NOISY_ADAMW", "NOISY_SGD"):
        monkeypatch.setattr(noise_robustness, name, sgd)
    needed = {"P4": (modes,), "R1": (sgd,), "W1": (tiny, lambdas)}
    claims = [replace(all_claims()[name], studies=needed.get(name, (tiny,))) for name in OURS]
    entries = Ledger(tmp_path).make(claims, quiet=True)
    assert [entry.id for entry in entries] == list(OURS)
    for entry in entries:
        assert entry.decision.verdict == "undecided", entry.id  # of two seeds
        assert entry.decision.effects
        assert "fewer than 4 seeds" in entry.decision.missing
        assert entry.to_json() == type(entry).from_json(entry.to_json(), entry.id).to_json()


def test_records_that_lack_a_table_or_are_of_another_version(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_experiment(tmp_path, seeds=(0, 1, 2, 3), contexts=False, modes=True)
    whole, _, _ = judge(tmp_path)
    run = tmp_path / "nsr-seed0"
    kept = {path: path.read_bytes() for path in (run / "rollouts").iterdir()}
    for path in kept:
        path.unlink()
    _expect_one_message(tmp_path, "rollouts", capsys)
    for path, data in kept.items():
        path.write_bytes(data)
    assert [claim.id for claim in judge(tmp_path)[0]] == [claim.id for claim in whole]
    info = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(info | {"schema_version": 99}))
    _expect_one_message(tmp_path, "99", capsys)


def _expect_one_message(folder: Path, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--on", str(folder)]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: ")
    assert words in shown
    assert "Traceback" not in shown
