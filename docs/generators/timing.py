"""What the commands cost: each is run alone, by name, and timed.

Of every command: seconds by the clock, CPU seconds of it and its children, the greatest sum of the memory of all its
processes (PSS where the system tells it, a page that is shared counted once), the size of the folder that it wrote, and
the share of the processors that other programs took meanwhile.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import re
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from analysis.common.provenance import measured_with
from analysis.errors import UsageError

__all__ = ["FOLDER", "PACKAGES", "Job", "Others", "jobs", "run_job"]

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "runs" / "performance"
PACKAGES = "packages"  # not a command: what is installed
_EVERY_SECONDS = 0.2  # between looks at the memory
_PYTEST = ("-m", "pytest", "-q", "-n", "2", "--dist", "worksteal")
_CHECKS = (
    ("-m", "ruff", "check", "."),
    ("-m", "ruff", "format", "--check", "--quiet", "."),
    ("-m", "mypy"),
    ("-c", "import sys; from importlinter.cli import lint_imports_command as main; sys.exit(main(['--no-logo']))"),
)


Measured = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """A command to time.

    Attributes:
        shown: The command as a reader types it.
        steps: Arguments of Python, one call after the other; {out} stands for the folder of the job.
        base: A base that is made before the clock starts.
        environment: Variables for the command; {out} as above.
        of: The job whose folder it works in; its own by default. Only its own is emptied first.
    """

    shown: str
    steps: tuple[tuple[str, ...], ...]
    base: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    of: str = ""


@functools.cache
def jobs() -> dict[str, Job]:
    """The commands by name, in the order in which they are run."""
    from analysis.recipes import Recipe
    from toy_models.bases.recipes import BASES

    trace = ("-m", "analysis.trace", "--run", "--resume")
    own_cache = {"RLVR_DYNAMICS_CACHE": "{out}/cache"}
    seeds = ("--set", "grid.seed=[0,1,2,3,4,5,6,7]", "--no-figures")
    found = {
        "first": Job("make trace", ((*trace, "--out", "{out}/run"),), environment=own_cache),
        "cached": Job("make trace", ((*trace, "--out", "{out}/run"),), base="path"),
        "again": Job("make trace", ((*trace, "--out", "{out}/run"),), base="path", of="cached"),
        "eight-seeds": Job(
            "make figures",
            (
                (*trace, *seeds, "--out", "{out}/run"),
                ("-m", "analysis.report", "{out}/run", "--figures", "{out}/figures"),
            ),
            base="path",
        ),
        "factorial": Job("make factorial", (("-m", "analysis.factorial", "--full"),)),
        "quick": Job("make quick", ((*_PYTEST, "-m", "not slow"),), environment={"RLVR_DYNAMICS_CACHE": os.devnull}),
        "test": Job("make test", (*_CHECKS, _PYTEST)),
    }
    for recipe in map(Recipe.load, Recipe.names()):
        if recipe.name != "default":  # which is `cached`
            base = recipe.expand()[0].config.policy.base
            run = ("-m", "analysis.trace", "--run", recipe.name)
            found[f"recipe-{recipe.name}"] = Job(" ".join(("python", *run)), ((*run, "--out", "{out}/run"),), base=base)
    for name in BASES:
        code = f"from toy_models import ensure_base; ensure_base({name!r})"
        found[f"base-{name}"] = Job(f'python -c "{code}"', (("-c", code),), environment=own_cache)
    return found


class Others:
    """The share of the processors that other programs take, from now on; needs /proc/stat."""

    def __init__(self) -> None:
        self._start = self._now()

    @staticmethod
    def _now() -> tuple[float, float, float]:
        """Seconds by the clock, CPU seconds of all programs (NaN where unknown), and of this one and its children."""
        own = 0.0
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
            usage = resource.getrusage(who)
            own += usage.ru_utime + usage.ru_stime
        try:
            user, nice, system = map(int, Path("/proc/stat").read_text(encoding="ascii").split()[1:4])
            total = (user + nice + system) / os.sysconf("SC_CLK_TCK")
        except (OSError, ValueError):
            total = float("nan")
        return time.perf_counter(), total, own

    def share(self) -> float | None:
        """From 0 to 1; None where the system does not tell."""
        seconds, total, own = (end - start for start, end in zip(self._start, self._now(), strict=True))
        share = (total - own) / (seconds * (os.cpu_count() or 1))
        return None if share != share else min(1.0, max(0.0, share))


class _Memory(threading.Thread):
    """The greatest sum of the memory of a process and all its descendants, in bytes, until `stop`."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid, self._done, self.peak = pid, threading.Event(), 0

    def run(self) -> None:
        import psutil

        while not self._done.wait(_EVERY_SECONDS):
            try:
                parent = psutil.Process(self._pid)
                processes = [parent, *parent.children(recursive=True)]
            except psutil.Error:
                continue
            self.peak = max(self.peak, sum(map(_bytes_of, processes)))

    def stop(self) -> int:
        self._done.set()
        self.join()
        return self.peak


def _bytes_of(process: Any) -> int:
    import psutil

    try:
        memory = process.memory_full_info()
        return int(getattr(memory, "pss", 0) or memory.rss)
    except psutil.Error:  # it has ended meanwhile
        return 0


def run_job(name: str) -> Measured:
    """Run a job, or measure the packages; what it took.

    Raises:
        UsageError: an unknown job, one that needs the folder of another, or a command that failed.
    """
    if name == PACKAGES:
        return _packages()
    if name not in jobs():
        raise UsageError(f"job: expected one of {', '.join([*jobs(), PACKAGES])}, got {name}")
    return _run(name, jobs()[name])


def _run(name: str, job: Job) -> Measured:
    folder = FOLDER / (job.of or name)
    if job.of and not (folder / "run").exists():
        raise UsageError(f"job {name}: expected the finished folder of {job.of}, got none; measure {job.of} first")
    if not job.of:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    if job.base:
        _base(job.base)
    environment = os.environ | {key: value.format(out=folder) for key, value in job.environment.items()}
    others, cpu, peak, start = Others(), _cpu_of_children(), 0, time.perf_counter()
    with (folder / f"{name}.log").open("w", encoding="utf-8") as log:
        for step in job.steps:
            command = [sys.executable, *(part.replace("{out}", str(folder)) for part in step)]
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)
            memory = _Memory(process.pid)
            memory.start()
            status = process.wait()
            peak = max(peak, memory.stop())
            if status:
                raise UsageError(
                    f"job {name}: expected exit status 0, got {status}; {log.name} says why, and nothing is recorded"
                )
    seconds = time.perf_counter() - start
    measured = measured_with(job.shown) | {
        "seconds": round(seconds, 2),
        "cpu_seconds": round(_cpu_of_children() - cpu, 2),
        "peak_bytes": peak,
        "others": others.share(),
    }
    if (folder / "run").exists():
        measured["folder_bytes"] = _bytes_under(folder / "run")
    if name == "cached":
        measured["times"] = _times(folder / "run")
    return measured


def _base(name: str) -> None:
    from toy_models import ensure_base

    ensure_base(name)


def _cpu_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _times(folder: Path) -> dict[str, Any]:
    """The table of a report that says where the time went."""
    from analysis.records import Experiment
    from analysis.report import summarize

    tables = summarize(Experiment(folder)).to_json()["tables"]
    (table,) = (table for table in tables if table["key"] == "times")
    return dict(table)


def _packages() -> Measured:
    """The size of the dependencies of the package as they are installed, without extras, and of the environment."""
    waiting, sizes = ["rlvr-dynamics"], dict[str, int]()
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name not in sizes:
            sizes[name], needed = _installed(name)
            waiting += needed
    environment = _bytes_under(Path(sys.prefix).resolve())
    return measured_with("pip install") | {"installed_bytes": sum(sizes.values()), "environment_bytes": environment}


def _installed(name: str) -> tuple[int, list[str]]:
    """The size of a distribution, and what it needs; nothing of one that this platform does without."""
    from packaging.requirements import Requirement

    try:
        found = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return 0, []
    paths = [Path(str(file.locate())) for file in found.files or ()]
    needed = map(Requirement, found.requires or ())
    names = [item.name for item in needed if item.marker is None or item.marker.evaluate({"extra": ""})]
    return sum(path.stat().st_size for path in paths if path.is_file()), names


def _bytes_under(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
