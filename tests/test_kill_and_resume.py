"""kill -9 at random moments, each followed by `--resume`, gives the records of an uninterrupted run.

Killed are the parent, a worker or all processes; while they start or resume, while they train, and within a commit.
`KILLS=100 pytest -s tests/test_kill_and_resume.py` takes more moments than the three of the default suite, over more
methods, and kills the pretraining of the base too; it ends with a table of what was killed when.
"""

from __future__ import annotations

import collections
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from analysis.records import Experiment, Run, digest, load_trace
from analysis.records.encoding import ContentHash
from analysis.records.folders import read_commits, read_experiment
from analysis.records.schema import TABLES

KILLS = int(os.environ.get("KILLS", "3"))
MANY = KILLS > 10
WAIT_SECONDS = 1200.0

# Everything that a resume state holds: both optimisers, value head, reference, schedules, generators, contexts, the
# policy that samples and rollouts that are kept.
RECIPE = f"""
schema = 1
steps = {32 if MANY else 8}
[policy]
base = "tiny"
[task]
name = "path-small"
train_prompts = 64
[rollout]
prompts = 8
group_size = 4
[update]
epochs = 2
minibatches = 2
[eval]
every = 4
prompts = 4
final_prompts = 8
[record]
tokens = 0.5
contexts = 8
contexts_every = 1
jvp_every = 2
chunk = 2
[[grid.method]]
label = "PPO"
objective = {{ name = "reinforce-ratio", kl_coef = 0.01, clip_low = 0.2, clip_high = 0.2 }}
critic = {{ enabled = true, gae_lambda = 0.9 }}
optimizer = {{ lr = 1e-3, schedule = "cosine", weight_decay = 0.01 }}
[[grid.method]]
label = "NSR"
objective.name = "nsr-ratio"
rollout.refresh_every = 3
optimizer = {{ name = "sgd", lr = 0.05, momentum = 0.9, warmup_steps = 3 }}
update.rows = "drop"
"""
MORE_METHODS = """
[[grid.method]]
label = "GRPO"
objective = { name = "grpo", entropy_coef = 0.01, kl_coef = 0.02, kl_placement = "reward", kl_estimator = "k1" }
optimizer.lr = 1e-3
[[grid.method]]
label = "W-REINFORCE"
objective = { name = "w-reinforce-ratio", lambda = 0.1, clip_low = 0.2, clip_high = 0.2 }
optimizer = { lr = 1e-3, schedule = "linear" }
task = { false_positive = 0.1, false_negative = 0.1 }
rollout.fixed = true
"""


class Life:
    """One process of the command line, from its start to its end or its kill."""

    def __init__(self, recipe: Path, folder: Path, cache: Path | None, *options: str) -> None:
        command = [sys.executable, "-m", "analysis.trace", "--run", str(recipe), "--out", str(folder), "--quiet"]
        environment = os.environ | ({"RLVR_DYNAMICS_CACHE": str(cache)} if cache else {})
        self.folder, self.cache = folder, cache
        self.errors = folder.with_name("errors.txt")
        with self.errors.open("w") as errors:
            self.process = psutil.Popen([*command, *options], stdout=subprocess.DEVNULL, stderr=errors, env=environment)
        self.born = time.monotonic()
        self.commits = self._count_commits()

    def _count_commits(self) -> int:
        """Those after steps; what is committed before the first one holds no state to lose."""
        return len([path for path in self.folder.glob("*/commits/*.json") if int(path.stem) > 0])

    def over(self) -> bool:
        return self.process.poll() is not None

    def committed(self) -> bool:
        """Whether it has made a commit after a step."""
        return self._count_commits() > self.commits

    def committing(self) -> bool:
        """Whether a file of a commit is being written."""
        return any(self.folder.glob("*/*/*.tmp"))

    def pretraining(self) -> bool:
        return self.cache is not None and any(self.cache.glob("bases/.*.tmp-*"))

    def wait(self, condition: Callable[[], bool], pause: float) -> bool:
        """Whether the condition came about before the end of the process."""
        end = time.monotonic() + WAIT_SECONDS
        while not condition():
            assert time.monotonic() < end, "it neither went on nor ended"
            if self.over():
                return False
            time.sleep(pause)
        return True

    def processes(self) -> list[psutil.Process]:
        try:
            return [self.process, *self.process.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def kill(self, victim: str, draw: random.Random) -> bool:
        """Kill the parent, one of its children or all, and see those gone who must be; whether there was one."""
        family = self.processes()
        parent, children = family[:1], family[1:]
        order = (
            draw.sample(family, len(family))
            if victim == "all"
            else (parent if victim == "parent" else draw.sample(children, min(1, len(children))))
        )
        if not order or self.over():
            return False
        for process in order:
            try:
                process.kill()
            except psutil.NoSuchProcess:  # a child that came to its end
                order = [one for one in order if one != process]
        leaving = order if victim == "worker" else family  # children leave with their parent
        _, alive = psutil.wait_procs(leaving, timeout=WAIT_SECONDS)
        assert not alive, f"still alive after a kill of {victim}: {alive}"
        return bool(order)


def next_kill(number: int, draw: random.Random) -> tuple[str, str]:
    """When and what: the first ones within pretraining or, where there are only three, of each sort."""
    if not MANY:
        return [("training", "all"), ("training", "worker"), ("commit", "parent")][number % 3]
    if number < KILLS // 10:
        return "base", draw.choice(["all", "parent"])
    return draw.choice(["start", "training", "commit", "commit"]), draw.choice(["all", "parent", "worker"])


def content(run: Run, table: str, rows: int) -> str:
    hashed = ContentHash(table)
    hashed.update(run.table(table, as_="arrow").slice(0, rows).to_batches())
    return hashed.hexdigest()


def check_committed(folder: Path, whole: Experiment) -> int:
    """What can be read is the beginning of the uninterrupted runs, up to a commit; how many runs are midway."""
    if not (folder / "experiment.json").exists():
        return 0
    midway = 0
    for run_id, run in load_trace(folder, verify=True).runs.items():
        of_whole = [c for c in read_commits(whole.runs[run_id].folder) if c.step <= (run.committed_step or 0)]
        midway += run.status != "complete" and (run.committed_step or 0) > 0
        for table in set(TABLES) - {"timings"}:
            rows = sum(part.rows for commit in of_whole for part in commit.parts if part.table == table)
            assert run.rows(table) == (rows if run.committed_step is not None else 0)
            assert content(run, table, rows) == content(whole.runs[run_id], table, run.rows(table)), (run_id, table)
    return midway


def check_complete(folder: Path, whole: Experiment) -> None:
    experiment = load_trace(folder, verify=True)
    assert read_experiment(folder)["status"] == "complete"
    assert {run.status for run in experiment.runs.values()} == {"complete"}
    assert {run_id: digest(run) for run_id, run in experiment.runs.items()} == {
        run_id: digest(run) for run_id, run in whole.runs.items()
    }
    for run_id, run in experiment.runs.items():
        weights = "checkpoints/final/model.safetensors"
        assert (run.folder / weights).read_bytes() == (whole.runs[run_id].folder / weights).read_bytes()
    left = [path for path in folder.rglob("*") if path.suffix in (".tmp", ".pt") or path.name == "error.txt"]
    assert not left


@pytest.mark.slow
def test_killed_at_random_moments_and_resumed(tmp_path: Path) -> None:
    recipe = tmp_path / "kills.toml"
    recipe.write_text(RECIPE + (MORE_METHODS if MANY else ""))
    first = Life(recipe, tmp_path / "whole", None)
    assert first.wait(first.committed, 0.05)
    started = time.monotonic() - first.born
    assert first.process.wait() == 0, first.errors.read_text()
    whole = load_trace(tmp_path / "whole")
    assert isinstance(whole, Experiment)

    draw = random.Random(20)
    kills: collections.Counter[tuple[str, str]] = collections.Counter()
    cache = tmp_path / "cache" if MANY else None
    folder, experiments, midway = tmp_path / "killed", 0, 0
    begun = time.monotonic()
    while True:
        life = Life(recipe, folder, cache, "--resume", "--workers", str(draw.choice([1, 1, 2]) if MANY else 2))
        reached = {"base": life.pretraining, "training": life.committed, "commit": life.committing}
        worker_killed = False
        while kills.total() < KILLS and not life.over():
            moment, victim = next_kill(kills.total(), draw)
            if moment == "start":
                time.sleep(draw.uniform(0, started))
            elif life.wait(reached[moment], 0.005):
                time.sleep(draw.uniform(0, {"base": 5.0, "training": 0.3, "commit": 0.03}[moment]))
            if life.kill(victim, draw):
                kills[moment, victim] += 1
                worker_killed |= victim == "worker"
                midway += check_committed(folder, whole) > 0
                print(f"{kills.total():4d} {moment} {victim}", flush=True)
            if victim != "worker":
                break
        if kills.total() >= KILLS or life.over():
            status = life.process.wait()
            if status == 1 and worker_killed:
                assert "killed by SIGKILL" in life.errors.read_text()
                assert f"--resume {folder}" in life.errors.read_text()
            elif status == 0:  # it came to its end: check that, and start another
                check_complete(folder, whole)
                experiments += 1
                if kills.total() >= KILLS:
                    break
                folder = tmp_path / f"killed-{experiments}"
            else:
                assert status == -9, life.errors.read_text()
    assert midway > 0, "no run was killed between its first and its last commit"
    print(
        f"\n{kills.total()} kills over {experiments} experiments, {midway} with runs midway, none with a difference; "
        f"{(time.monotonic() - begun) / KILLS:.1f} s a kill"
    )
    for (moment, victim), count in sorted(kills.items()):
        print(f"{count:4d}  {moment:<8}  {victim}")
