"""An experiment: all runs of a recipe in one folder, started, resumed or read; nothing is done twice.

What a folder holds decides what happens. Nothing: the experiment is started. An unfinished experiment of the same hash:
it is resumed where `resume` says so. A complete one: its records are returned at once. Each run is trained in a process
of its own (`pool`).
"""

from __future__ import annotations

import contextlib
import shlex
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..common.folder_lock import LOCK_FILE, locked
from ..common.identity import changed_parts, code_of, numeric_versions
from ..common.provenance import versions
from ..errors import InterruptedRunError, UsageError
from ..recipes.fields import GIVEN
from ..recipes.inputs import changed_inputs, input_digests
from ..recipes.plan import plan
from ..recipes.recipe import PlannedRun, Recipe
from ..records.folders import (
    EXPERIMENT_FILE,
    FINAL,
    TEMPORARY,
    drop_resume_state,
    make_folder,
    read_experiment,
    update_experiment,
    write_experiment,
)
from ..records.shared_storage import SharedFolder, pull_experiment
from ..training.text_objects import lists_solutions
from ..training.user_objects import adopted, write_given
from .many_runs import TRAIN, Callback, run_status, train_runs
from .place import Place, placed
from .pool import Outcome

if TYPE_CHECKING:
    from toy_models import Policy, Task, TextTask

    from ..records import Experiment

__all__ = [
    "RunFailedError",
    "check_devices",
    "default_folder",
    "explain_changed_inputs",
    "folder_state",
    "resume_command",
    "run",
    "url_state",
]

# The code that the records of a run depend on.
_CODE = (
    "analysis/common/randomness.py",
    "analysis/evaluation",
    "analysis/gradient_noise",
    "analysis/laws",
    "analysis/objectives",
    "analysis/probes",
    "analysis/records/encoding.py",
    "analysis/records/rows.py",
    "analysis/token_stats",
    "analysis/training",
    "toy_models",
)
_DELETED = ".deleted"  # where --force puts what it deletes, so that being killed halfway leaves nothing half deleted
_OURS = (LOCK_FILE, _DELETED, GIVEN, EXPERIMENT_FILE + TEMPORARY)  # what may lie in a folder without an experiment


class RunFailedError(RuntimeError):
    """Runs of an experiment failed; the others were finished.

    Attributes:
        folder: The experiment's.
        outcomes: How each failed run ended, by run_id.
    """

    def __init__(self, folder: Path, outcomes: dict[str, Outcome]) -> None:
        self.folder, self.outcomes = folder, outcomes
        lines = []
        for run_id, outcome in outcomes.items():
            first, *_ = outcome.message.strip().splitlines() or [outcome.kind]
            more = folder / run_id / "error.txt"
            lines.append(f"{run_id} failed: {first}" + (f" (more in {more})" if more.exists() else ""))
        super().__init__("\n".join([*lines, "fix the cause, then resume with", f"  {resume_command(folder)}"]))


def run(
    recipe: Recipe | str | Path,
    *,
    task: Task | TextTask | None = None,
    policy: Policy | None = None,
    out: str | Path | None = None,
    executor: str = "local",
    workers: int | None = None,
    ray_address: str | None = None,
    resume: bool = False,
    force: bool = False,
    callbacks: Sequence[Callback] = (),
    quiet: bool = False,
    train: str = TRAIN,
) -> Experiment:
    """Train and record every run of a recipe.

    Args:
        recipe: A recipe, the name of a built-in one, or the path of a TOML file.
        task: A task object, in texts (`toy_models.TextTask`) or in tokens, in the place of a named task, which the
            recipe must not name then. It is kept in the folder as a pickle, so that the experiment can be resumed from
            a shell.
        policy: A policy object in the place of a base, likewise.
        out: The folder, `runs/<name>-<hash8>` by default; or an fsspec URL of shared storage, which is written through
            a local copy.
        executor: "local" or "ray": where the runs are trained, see `train_runs`. Records do not depend on it.
        workers: Runs that are trained at a time; by default cores / threads of a run. Records do not depend on it.
        ray_address: The cluster of the executor "ray"; by default `RAY_ADDRESS`, or else a Ray that is started on this
            machine.
        resume: Resume an unfinished experiment.
        force: Delete the experiment in the folder and start anew.
        callbacks: Each receives every progress event: a dict with `run_id` (None while a base is pretrained), `label`
            and `phase`.
        quiet: Show no progress on stderr.
        train: The function, "module:name", that trains one run in its process; see `analysis.training.loop.train`.

    Returns:
        The records; those of a complete experiment of the same recipe at once.

    Raises:
        UsageError: An invalid recipe, or a folder that holds something else or cannot be written.
        InterruptedRunError: An unfinished experiment without `resume`; the message gives the command that resumes.
        RunFailedError: A run failed; the others were finished first.
        KeyboardInterrupt: Ctrl-C or SIGTERM; each run ends after its current step and is committed, and the message
            gives the command that resumes. A second one kills the runs.

    Example:
        >>> analysis.run("tiny").runs["psr-seed0"].table("steps")  # doctest: +SKIP
    """
    recipe = recipe if isinstance(recipe, Recipe) else Recipe.load(recipe)
    given = {kind: thing for kind, thing in (("task", task), ("policy", policy)) if thing is not None}
    recipe = adopted(recipe, given)
    checked = plan(recipe, workers=workers)
    planned = list(checked.runs)
    for warning in checked.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if executor == "local":
        check_devices(planned)
    with placed(out if out is not None else default_folder(recipe)) as place:
        folder = place.folder
        _check_given(folder, planned, given, anew=force)
        if force or folder_state(folder, recipe) != "complete":
            make_folder(folder)
            with locked(folder):
                _prepare(place, recipe, given, resume=resume, force=force)
                options = {"executor": executor, "workers": workers, "ray_address": ray_address}
                _train_all(place, planned, **options, callbacks=callbacks, quiet=quiet, train=train)
        elif read_experiment(folder)["status"] not in FINAL:  # killed when all was done but this
            _settle(place, planned)
    from ..records import Experiment

    return Experiment(folder)


def default_folder(recipe: Recipe) -> Path:
    """`runs/<name>-<hash8>` below the current folder."""
    return Path("runs") / f"{recipe.name}-{recipe.hash[:8]}"


def resume_command(folder: Path) -> str:
    """The command that continues the experiment in `folder`."""
    return f"python -m analysis.trace --resume {shlex.quote(str(folder))}"


def folder_state(folder: Path, recipe: Recipe) -> Literal["absent", "unfinished", "complete"]:
    """What `folder` holds of the recipe's experiment.

    Raises UsageError where it holds anything else: another experiment, other files, or a damaged one.
    """
    if not (folder / EXPERIMENT_FILE).exists():
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"out: expected a folder, got the file {folder}")
        if folder.is_dir() and any(path.name not in _OURS for path in folder.iterdir()):
            raise UsageError(f"out: {folder} holds files that are not an experiment; choose another folder with --out")
        return "absent"
    info = read_experiment(folder)
    if info["hash"] != recipe.hash:
        explain_changed_inputs(folder, info)
        raise UsageError(
            f"out: {folder} holds the experiment {info['name']} ({info['hash'][:8]}), expected {recipe.name} "
            f"({recipe.hash[:8]}); choose another folder with --out, or delete this one with --force"
        )
    _check_versions(folder, info)
    finished = all(run_status(folder / entry["run_id"]) in FINAL for entry in info["runs"])
    return "complete" if finished else "unfinished"


def url_state(url: str, recipe: Recipe) -> Literal["absent", "unfinished", "complete"]:
    """`folder_state` at a URL of shared storage, of which a copy is fetched; nothing is written there."""
    shared = SharedFolder(url)
    if not shared.names():
        return "absent"
    pull_experiment(shared, shared.copy("reading"))
    return folder_state(shared.copy("reading"), recipe)


def explain_changed_inputs(folder: Path, info: Mapping[str, Any]) -> None:
    """UsageError where files that an experiment reads hold something else than when it was started."""
    if changed := changed_inputs(folder, info.get("inputs", {})):
        raise UsageError(
            f"out: {folder} holds an experiment of other contents of {', '.join(changed)}; restore "
            f"them{_old_commits(info, changed)}, choose another folder with --out, or start anew with --force"
        )


def _old_commits(info: Mapping[str, Any], changed: Sequence[str]) -> str:
    """How to name the commits of the models of the Hub among the inputs that changed."""
    commits = [info["inputs"][path] for path in changed if path.startswith("hub:")]
    return f" (with policy.revision or objective.teacher_revision = {' or '.join(commits)})" if commits else ""


def _made_with() -> dict[str, str]:
    """What the numbers of an experiment depend on besides its recipe, by name."""
    return numeric_versions() | {"code that trains": code_of(*_CODE)}


def _check_versions(folder: Path, info: Mapping[str, Any]) -> None:
    """UsageError where an experiment was made with other libraries or other code than those that are here now."""
    recorded, now = info["versions"], _made_with()
    before = {name: str(recorded.get(name.removeprefix("version of "), "unknown")) for name in now}
    if changed := changed_parts(before, now):
        raise UsageError(
            f"out: {folder} holds the experiment {info['name']} as it was made with something else; what differs: "
            f"{'; '.join(changed)}. Show it as it is with python -m analysis.report {shlex.quote(str(folder))}, resume "
            "it with what it was made with, choose another folder with --out, or start anew with --force"
        )


def check_devices(planned: Sequence[PlannedRun]) -> None:
    """UsageError for a device that is not there; torch is loaded only where a recipe names a CUDA device."""
    for device in dict.fromkeys(run.config.device for run in planned):
        if device.startswith("cuda"):
            from ..common.devices import pick_device

            pick_device(device)


def _check_given(folder: Path, planned: list[PlannedRun], given: Mapping[str, Any], *, anew: bool) -> None:
    """Refuse a recipe of objects that are neither passed nor in the folder, or that cannot do what it needs."""
    config = planned[0].config
    for kind, name in (("task", config.task.name), ("policy", config.policy.base)):
        if name == GIVEN and kind not in given and (anew or not (folder / EXPERIMENT_FILE).exists()):
            raise UsageError(f"{kind}: the recipe needs a {kind} object; pass it with analysis.run(recipe, {kind}=…)")
    if "task" in given and not lists_solutions(given["task"]):
        name = given["task"].name
        if any(run.config.eval.samples == 0 for run in planned):
            raise UsageError(
                f"eval.samples = 0: the task {name} does not list its correct responses (solutions gave "
                "None), so Pass@k is estimated from samples; set it to at least 1"
            )
        if any(run.config.update.estimator == "exact" for run in planned):
            raise UsageError(
                f'update.estimator = "exact": the task {name} does not list its correct responses '
                '(solutions gave None); choose "sampled"'
            )


def _prepare(place: Place, recipe: Recipe, given: Mapping[str, Any], *, resume: bool, force: bool) -> None:
    """Bring a locked folder into the state from which its unfinished runs can be trained."""
    folder = place.folder
    if force and (folder / EXPERIMENT_FILE).exists():
        place.delete()
        _set_aside(folder)
    if (folder / _DELETED).exists():
        shutil.rmtree(folder / _DELETED)
    state = folder_state(folder, recipe)
    if state == "unfinished" and not resume:
        raise InterruptedRunError(
            f"out: {folder} holds an unfinished experiment of this recipe; resume it with\n"
            f"  {resume_command(folder)}\nor start anew with --force"
        )
    if state == "absent":
        runs = [{"run_id": run.run_id, "label": run.label, "seed": run.config.seed} for run in recipe.expand()]
        files = [found for run in recipe.expand() for found in input_digests(run.config).values()]
        inputs = {found["path"]: found.get("sha256") or found["commit"] for found in files} | write_given(folder, given)
        write_experiment(
            folder,
            name=recipe.name,
            recipe=recipe.to_dict(),
            hash=recipe.hash,
            runs=runs,
            versions=versions() | {"code that trains": code_of(*_CODE)},
            inputs=inputs,
        )
    else:  # the hash knows the recipe's files, not the pickles
        explain_changed_inputs(folder, read_experiment(folder))


def _set_aside(folder: Path) -> None:
    """Move everything into a folder to be deleted, experiment.json last."""
    read_experiment(folder)  # refuses what is not recognisably an experiment
    (folder / _DELETED).mkdir(exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=folder / _DELETED))
    paths = [path for path in folder.iterdir() if path.name not in (LOCK_FILE, _DELETED, EXPERIMENT_FILE)]
    for path in [*paths, folder / EXPERIMENT_FILE]:
        path.rename(aside / path.name)


def _train_all(place: Place, planned: list[PlannedRun], **options: Any) -> None:
    """Train what is not done yet in a locked folder, by `train_runs` with its options; raise where that was not all."""
    folder = place.folder
    todo = [run.run_id for run in planned if run_status(folder / run.run_id) not in FINAL]
    update_experiment(folder, status="running")
    place.publish()
    try:
        outcomes = train_runs(planned, {run.run_id: place.of_run(run.run_id) for run in planned}, **options)
    except BaseException as error:
        _note_status(place, "interrupted")
        if isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt(_stopped(folder)) from None
        raise
    failed = {run_id: outcome for run_id, outcome in outcomes.items() if outcome.status == "failed"}
    status = _settle(place, planned)
    if failed:
        causes = {(outcome.kind, outcome.message) for outcome in failed.values()}
        if len(failed) == len(todo) and len(causes) == 1 and failed[todo[0]].kind == "UsageError":
            raise UsageError(causes.pop()[1])
        raise RunFailedError(folder, failed)
    if status not in FINAL:
        raise KeyboardInterrupt(_stopped(folder))


def _settle(place: Place, planned: list[PlannedRun]) -> str:
    """Write the status that follows from those of the runs, and return it; complete runs lose their resume state."""
    statuses = {run.run_id: run_status(place.folder / run.run_id) for run in planned}
    for run_id, status in statuses.items():
        if status == "complete":
            drop_resume_state(place.folder / run_id)
    ended = set(statuses.values())
    status = "interrupted" if ended - {*FINAL} else "diverged" if "diverged" in ended else "complete"
    _note_status(place, status)
    return status


def _note_status(place: Place, status: str) -> None:
    """Write the status where the disk has room; nothing depends on it, since `folder_state` reads those of the runs."""
    with contextlib.suppress(OSError):
        update_experiment(place.folder, status=status)
        place.publish()


def _stopped(folder: Path) -> str:
    return f"stopped; resume with\n  {resume_command(folder)}"
