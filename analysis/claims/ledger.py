"""Making the ledger: train what the entries need, decide them one by one, keep everything.

    runs/<run_id>/        one folder for each training run, shared by all entries that need it
    decisions/<id>.json   one file for each decided entry, with a digest of what it was made with

Killed anywhere, the same command continues: runs resume after their last commit, decisions that were written are not
made again unless the code or a study of the entry has changed. An entry may choose further runs from what was decided
before it (`Claim.after`, `Claim.later`); the same decisions choose the same runs, so these are found again, too.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..common.identity import code_of, numeric_versions, text_digest
from ..common.progress import Progress
from ..common.provenance import measured_with
from ..errors import UsageError
from ..experiments.many_runs import train_runs
from ..records.folders import write_durably
from .claim import Claim, Decision
from .evidence import Evidence
from .study import Study, planned_runs

__all__ = ["SCHEMA", "Entry", "Ledger", "in_order", "made_with", "read_results", "results"]

SCHEMA = 1
# The code that a decision depends on, besides what its runs depend on.
_CODE = (
    "analysis/claims",
    "analysis/evaluation",
    "analysis/factorial",
    "analysis/gradient_noise",
    "analysis/laws",
    "analysis/tabular",
)
_TRAINING_CODE = ("analysis/training", "analysis/objectives", "toy_models")


@dataclass(frozen=True)
class Entry:
    """A decided claim, with what it was made with.

    Attributes:
        id: Of the claim.
        decision: What was decided.
        made_with: Digests and versions that the decision depends on.
        seconds: How long the decision took, without training runs.
        diverged: Condition -> method -> seeds of runs that diverged.
    """

    id: str
    decision: Decision
    made_with: Mapping[str, str]
    seconds: float
    diverged: Mapping[str, Mapping[str, Sequence[int]]]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "schema": SCHEMA,
            "id": self.id,
            **self.decision.to_json(),
            "made_with": dict(self.made_with),
            "seconds": round(self.seconds, 2),
            "diverged": {name: dict(found) for name, found in self.diverged.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], where: str) -> Entry:
        """The entry that `to_json` gave; UsageError for another schema."""
        if data.get("schema") != SCHEMA:
            raise UsageError(
                f"{where}: expected an entry of schema {SCHEMA}, got {data.get('schema')!r}; run the ledger again"
            )
        names = ("verdict", "reason", "depends_on", "missing", "effects", "tables")
        decision = Decision.from_json({name: data[name] for name in names})
        return cls(data["id"], decision, data["made_with"], data["seconds"], data["diverged"])


class Ledger:
    """The folder of a ledger.

    Args:
        folder: Where runs and decisions are kept; made if it does not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runs, self.decisions = folder / "runs", folder / "decisions"

    def make(
        self,
        claims: Sequence[Claim],
        *,
        executor: str = "local",
        workers: int | None = None,
        quiet: bool = False,
    ) -> list[Entry]:
        """Train and decide; the entries in the order of `claims`.

        Each claim is decided after those that its `after` names. Its later stages are trained when these are decided.

        Raises:
            UsageError: the folder cannot be written, a run failed (the others are finished first), or `claims` lacks
                one that another must come after.
            KeyboardInterrupt: Ctrl-C or SIGTERM; what is finished is kept.
        """
        try:
            self.decisions.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"--out: cannot write {self.folder} ({error.strerror or error}); choose another folder"
            ) from error
        ordered = in_order(claims)
        made: dict[str, Entry] = {}
        for claim in ordered:
            self._recall(claim, made)
        todo = [claim for claim in ordered if claim.id not in made]
        with Progress(quiet=quiet) as progress:

            def train(studies: Sequence[Study]) -> None:
                self._train(studies, progress, executor, workers)

            train([study for claim in todo for study in claim.studies])
            for done, claim in enumerate(todo):
                progress.show("decide", "claims", done=done, total=len(todo), detail=claim.id, always=True)
                self._recall(claim, made)  # what it comes after may have been decided as before
                if claim.id not in made:
                    made[claim.id] = self._decide(claim, made, progress, train)
            if todo:
                progress.show("decide", "claims", done=len(todo), total=len(todo))
        return [made[claim.id] for claim in claims]

    def known(self, claims: Sequence[Claim]) -> set[str]:
        """Ids of the claims that were decided before, with what is here now; those that read others are left out."""
        return {claim.id for claim in claims if not claim.after and self._known(claim, {}) is not None}

    def trained(self, claims: Sequence[Claim]) -> set[str]:
        """run_ids of the claims' runs that are trained to their end."""
        runs = planned_runs(study for claim in claims for study in claim.studies)
        return {run_id for run_id in runs if _finished(self.runs / run_id)}

    def _recall(self, claim: Claim, made: dict[str, Entry]) -> None:
        """Add the decision that was made before to `made`, if all that it depends on is as it was."""
        if set(claim.after) <= made.keys() and (entry := self._known(claim, made)) is not None:
            made[claim.id] = entry

    def _train(self, studies: Sequence[Study], progress: Progress, executor: str, workers: int | None) -> None:
        planned = planned_runs(studies)
        if not planned:
            return
        total, done = len(planned), 0

        def on_event(event: Mapping[str, Any]) -> None:
            nonlocal done
            if event["phase"] == "pretrain":
                progress.show("bases", event["label"], done=event["step"], total=event["steps"])
                return
            done += event["phase"] in ("complete", "diverged")
            progress.show("runs", "training runs", done=done, total=total, detail=str(event["label"]))

        folders = {run_id: self.runs / run_id for run_id in planned}
        done = sum(_finished(folder) for folder in folders.values())
        outcomes = train_runs(
            list(planned.values()),
            folders,
            executor=executor,
            workers=workers,
            callbacks=[on_event],
            quiet=True,
            keep_processes=True,
        )
        failed = {run_id: outcome for run_id, outcome in outcomes.items() if outcome.status == "failed"}
        if failed:
            run_id, outcome = next(iter(failed.items()))
            first, *_ = outcome.message.strip().splitlines() or [outcome.kind]
            raise UsageError(
                f"{len(failed)} of {total} training runs failed, such as {run_id}: {first} (more in "
                f"{folders[run_id] / 'error.txt'}); fix the cause and run the same command again, which keeps the rest"
            )
        if any(outcome.status == "interrupted" for outcome in outcomes.values()):
            raise KeyboardInterrupt

    def _decide(
        self, claim: Claim, made: Mapping[str, Entry], progress: Progress, train: Callable[[Sequence[Study]], None]
    ) -> Entry:
        evidence = Evidence(
            self.runs,
            lambda what, done, total: progress.show(claim.id, f"{claim.id} {what}", done=done, total=total),
            {name: made[name].decision for name in claim.after},
        )
        studies = list(claim.studies)
        for stage in claim.later:
            chosen = stage(evidence)
            train(chosen)
            studies += chosen
        started = time.perf_counter()
        decision = claim.decide(evidence)
        diverged = {study.name: found for study in studies if (found := evidence.diverged(study))}
        entry = Entry(claim.id, decision, made_with(claim, made), time.perf_counter() - started, diverged)
        text = json.dumps(entry.to_json(), indent=1, ensure_ascii=False, allow_nan=False)
        try:
            write_durably(self._file(claim.id), text.encode())
        except OSError as error:
            raise UsageError(
                f"--out: {error.strerror or error}; make room and run the same command again, which keeps the rest"
            ) from error
        return entry

    def _known(self, claim: Claim, made: Mapping[str, Entry]) -> Entry | None:
        """The decision that was made before, if it was made with what is here now."""
        file = self._file(claim.id)
        if not file.exists():
            return None
        try:
            entry = Entry.from_json(json.loads(file.read_text(encoding="utf-8")), str(file))
        except (UsageError, ValueError, KeyError):
            return None  # of another version, or cut short: it is made again
        return entry if dict(entry.made_with) == made_with(claim, made) else None

    def _file(self, name: str) -> Path:
        return self.decisions / f"{name}.json"


def in_order(claims: Sequence[Claim]) -> list[Claim]:
    """Each claim after those that its `after` names, otherwise as given.

    Raises:
        UsageError: one that must come before is not among them.
    """
    left = {claim.id: claim for claim in claims}
    for claim in claims:
        if missing := [name for name in claim.after if name not in left]:
            raise UsageError(
                f"claims: expected {', '.join(missing)} beside {claim.id}, which reads what is decided there, got "
                f"{', '.join(left)}; add it"
            )
    ordered: dict[str, Claim] = {}
    while left:
        ready = {name: claim for name, claim in left.items() if not set(claim.after) & left.keys()}
        if not ready:
            raise ValueError(f"{', '.join(left)}: each comes after another of them")
        ordered |= ready
        left = {name: claim for name, claim in left.items() if name not in ready}
    return list(ordered.values())


def made_with(claim: Claim, made: Mapping[str, Entry] | None = None) -> dict[str, str]:
    """What a decision depends on, by name.

    Args:
        claim: The claim.
        made: The entries that were decided before; those that the claim comes after count.
    """
    runs = sorted(planned_runs(claim.studies))
    before = [made[name].decision.to_json() for name in claim.after if made is not None and name in made]
    code = {"code": code_of(*_CODE), "code of training": code_of(*_TRAINING_CODE)}
    head = {"commit of the rules": rules_commit(), "runs": text_digest(runs) if runs else "none"}
    read = {"decisions": text_digest([json.dumps(found, sort_keys=True) for found in before])} if before else {}
    return head | read | code | numeric_versions()


@cache
def rules_commit() -> str:
    """The last commit that changed the rules, so that anyone can see that it is older than the runs it decides.

    "+" is appended where the rules have changes that are not committed; "unknown" outside a git checkout.
    """
    package = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(package), *arguments]
        options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "timeout": 10}
        return subprocess.run(command, check=True, **options).stdout.strip()

    try:
        found = git("log", "-1", "--format=%H", "--", ".")
        return found + ("+" if git("status", "--porcelain", "--", ".") else "") if found else "unknown"
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _finished(folder: Path) -> bool:
    from ..experiments.many_runs import run_status

    return run_status(folder) in ("complete", "diverged")


def results(entries: Sequence[Entry], command: str, claims: Sequence[Claim] = ()) -> dict[str, Any]:
    """The ledger as plain data, with command, date, commit and versions: what `ledger.json` holds.

    Args:
        entries: What was decided.
        command: The command that made it.
        claims: The claims of the entries, whose studies are listed with recipe, seeds and a digest of all runs.
    """
    studies = {claim.id: [_described(study) for study in claim.studies] for claim in claims}
    rows = [entry.to_json() | ({"studies": studies[entry.id]} if entry.id in studies else {}) for entry in entries]
    return {"schema": SCHEMA, **measured_with(command), "entries": rows}


def _described(study: Study) -> dict[str, Any]:
    return {
        "name": study.name,
        "recipe": study.recipe,
        "methods": list(study.methods),
        "seeds": sorted({run.seed for run in study.runs}),
        "runs": len(study.runs),
        "hash": text_digest(sorted(run.planned.run_id for run in study.runs)),
    }


def read_results(file: Path) -> list[Entry]:
    """The entries of a `ledger.json`.

    Raises:
        UsageError: the file is missing, damaged or of another schema.
    """
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"ledger: cannot read {file} ({error.strerror or error})") from error
    except ValueError as error:
        raise UsageError(f"ledger: {file} is damaged ({error}); make it again") from error
    if data.get("schema") != SCHEMA:
        raise UsageError(f"ledger: expected schema {SCHEMA}, got {data.get('schema')!r} in {file}; make it again")
    return [Entry.from_json(entry, str(file)) for entry in data["entries"]]
