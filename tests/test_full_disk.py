"""A disk that fills up while runs are recorded: told, nothing committed lost, gone on with once there is room.

The disk is a tmpfs in a mount namespace of its own; the calls that can fail are taken one by one in
`recording/test_commits.py`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from analysis.recipes import Recipe
from analysis.records import Experiment, digest, load_trace

ROOT = Path(__file__).parents[1]
STEPS = 12

COMMAND = f"""
import functools, sys
sys.path[:0] = [{str(ROOT)!r}]
import analysis.report
from analysis import trace
from analysis.experiments import experiment
experiment.run = functools.partial(experiment.run, train="tests.experiments.fake_training:recording")
from tests.test_trace import FakeReport
vars(analysis.report).update(StoredReport=FakeReport)
sys.exit(trace.main(sys.argv[1:]))
"""
# Copies go where the test can see them: the namespace ends with the script.
SCRIPT = """
set -u
mount -t tmpfs -o size=1m tmpfs disk
say() { n=$1; shift; "$PYTHON" -c "$COMMAND" --quiet "$@" >out$n 2>err$n; echo $? >code$n; cp -r disk/x at$n; }
say 1 --run recipe.toml --out disk/x --workers 1
head -c 2m /dev/zero >disk/filler 2>/dev/null
say 2 --resume disk/x
rm disk/filler
mount -o remount,size=64m disk
say 3 --resume disk/x
"""


@pytest.fixture
def namespace() -> list[str]:
    """The command that gives a script mounts of its own."""
    unshare = ["unshare", "-rm"]
    if shutil.which("unshare") is None:
        pytest.skip("a small disk needs unshare (Linux)")
    probe = subprocess.run(
        [*unshare, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, text=True, check=False
    )
    if probe.returncode != 0:
        pytest.skip(f"a small disk needs a mount namespace: {probe.stderr.strip()}")
    return unshare


@pytest.mark.slow
def test_a_disk_that_fills_up(tmp_path: Path, namespace: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "disk").mkdir()
    base = tmp_path / "base"
    base.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (base / name).write_text("{}")
    (tmp_path / "recipe.toml").write_text(f"""
schema = 1
steps = {STEPS}
policy.base = {str(base)!r}
optimizer.lr = 1e-6
objective.form = "ratio"
[[grid.method]]
label = "PSR"
objective.name = "psr"
[[grid.method]]
label = "NSR"
objective.name = "nsr"
""")
    environment = os.environ | {"PYTHON": sys.executable, "COMMAND": COMMAND, "TMPDIR": str(tmp_path)}
    subprocess.run([*namespace, "sh", "-c", SCRIPT], cwd=tmp_path, env=environment, check=True, capture_output=True)
    codes = [int((tmp_path / f"code{n}").read_text()) for n in (1, 2, 3)]
    errors = [(tmp_path / f"err{n}").read_text() for n in (1, 2, 3)]
    assert codes == [1, 1, 0], errors

    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    from tests.experiments import fake_training

    whole = {}
    for run in Recipe.load(tmp_path / "recipe.toml").expand():
        folder = tmp_path / "whole" / run.run_id
        fake_training.recording(
            run.config,
            folder,
            run_id=run.run_id,
            label=run.label,
            resume=False,
            report=lambda _: None,
            should_stop=lambda: False,
        )
        whole[run.run_id] = digest(folder)

    where = (
        r"disk/x/nsr-seed0/(tokens/\S+, [\d,]+ bytes|state/\S+)"  # a state is streamed: its size is not known before
    )
    assert re.fullmatch(
        rf"nsr-seed0 failed: \[Errno 28\] cannot write {where}: No space left on device \([\d,]+ are free\); "
        r"steps before \d+ are safe; free some space, then resume \(more in disk/x/nsr-seed0/error.txt\)\n"
        r"fix the cause, then resume with\n  python -m analysis.trace --resume disk/x\n",
        errors[0],
    )
    assert re.match(
        r"error: OSError: \[Errno 28\] cannot write disk/x/experiment.json, [\d,]+ bytes: No space left on device "
        r"\(0 are free\) \(traceback: ",
        errors[1],
    )
    assert errors[2] == ""
    for n in (1, 2):
        interrupted = load_trace(tmp_path / f"at{n}", verify=True)
        assert isinstance(interrupted, Experiment)
        psr, nsr = interrupted.runs["psr-seed0"], interrupted.runs["nsr-seed0"]
        assert digest(psr) == whole["psr-seed0"]
        assert 0 < (nsr.committed_step or 0) < STEPS
        assert nsr.rows("tokens") == fake_training.ROWS["nsr"] * (nsr.committed_step or 0)
        assert not list(interrupted.folder.rglob("*.tmp"))
    resumed = load_trace(tmp_path / "at3", verify=True)
    assert isinstance(resumed, Experiment)
    assert resumed.status == "complete"
    assert {run_id: digest(run) for run_id, run in resumed.runs.items()} == whole
