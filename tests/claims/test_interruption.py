"""A ledger killed at random moments: the same command finishes it, nothing is lost and nothing counted twice."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_PROGRAM = """
import sys, time
from pathlib import Path
from analysis.claims import Decision, Effect, Ledger, Study
from analysis.claims.study import METHODS
from tests.claims.by_hand_claims import hand_claim

folder, log = Path(sys.argv[1]), Path(sys.argv[2])
study = Study("tiny", "tiny", {name: METHODS[name] for name in ("PSR", "NSR")}, {"steps": 3, "eval.every": 1}, seeds=1)

def decide(name):
    def measured(evidence):
        runs = evidence.methods(study) if name == "P1" else {}
        time.sleep(0.3)
        rows = [len(run.table("evals")) for seeds in runs.values() for run in seeds.values()]
        with log.open("a") as file:
            file.write(name + "\\n")
        return Decision("holds", "It was measured.", (Effect("rows", float(sum(rows)), n=len(rows)),))
    return measured

claims = [hand_claim("P1", decide=decide("P1"), studies=(study,))]
claims += [hand_claim(name, decide=decide(name)) for name in ("P2", "P3")]
entries = Ledger(folder).make(claims, workers=2, quiet=True)
print([entry.decision.effects[0].value for entry in entries])
"""


def _start(folder: Path, log: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", _PROGRAM, str(folder), str(log)]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    )


def _made(folder: Path) -> set[str]:
    """What is on disk: commits of runs, and decisions."""
    found = {*folder.glob("runs/*/commits/*.json"), *folder.glob("decisions/*.json")}
    return {str(path.relative_to(folder)) for path in found}


@pytest.mark.slow  # trains two runs, and starts the process several times
def test_a_ledger_killed_anywhere_is_finished_by_the_same_command(tmp_path: Path) -> None:
    whole, killed, log = tmp_path / "whole", tmp_path / "killed", tmp_path / "log"
    expected, _ = _start(whole, tmp_path / "other").communicate()
    order = sorted(_made(whole))
    rng = random.Random(0)
    moments = rng.sample(range(1, len(order)), 3)  # kill when so many files are there, within whatever comes next
    for count in sorted(moments):
        process = _start(killed, log)
        while process.poll() is None and len(_made(killed)) < count:
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 0.2))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    made = _made(killed)
    decided = {Path(name).stem for name in made if name.startswith("decisions")}
    before = {name: (killed / name).read_bytes() for name in made}
    found, _ = _start(killed, log).communicate()
    assert found == expected
    assert set(order) == _made(killed)
    assert all((killed / name).read_bytes() == text for name, text in before.items())  # kept, and not made again
    again = log.read_text().splitlines()
    assert all(again.count(name) == 1 for name in decided)
    for name in ("P1", "P2", "P3"):
        data = [json.loads((folder / f"decisions/{name}.json").read_text()) for folder in (whole, killed)]
        assert data[0]["effects"] == data[1]["effects"]
