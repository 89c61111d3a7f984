"""`python -m analysis.trace`: train and record an experiment, or trace recorded rollouts, and show what came out."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common.command import command_line, figure_lines, run_command, say
from .errors import UsageError
from .offline import options as offline
from .records.shared_storage import SharedFolder, folder_or_url, local_copy_to_read, push_pages
from .version import __version__

if TYPE_CHECKING:
    from .recipes import Recipe
    from .records import Experiment

__all__ = ["main"]

_ABOUT = """\
Train a policy with reinforcement learning from verifiable rewards, and record what every update did to it; or trace
recorded rollouts of any model."""

_MANUAL = """\
examples:
  python -m analysis.trace --run                          the default recipe
  python -m analysis.trace --run regime-a --seed 1        another recipe, another seed
  python -m analysis.trace --run mine.toml --out runs/x   your own recipe, into a folder of your choice
  python -m analysis.trace --run --set update.epochs=2 --set 'grid.seed=[0,1,2]'
  python -m analysis.trace --run tiny --dry-run           what would be run, and where it would go
  python -m analysis.trace --resume runs/tiny-1a2b3c4d    resume after an interruption
  python -m analysis.trace --run --executor ray           on a Ray cluster (docs/how_to/several_machines.md)
  `rlvr-dynamics trace` and `rlvr-trace` are the same command.

recipes:
  A recipe is a TOML file; docs/recipes.md lists its fields. --set changes a field for all runs of the recipe; the value
  is a TOML literal (4, 1e-4, true, [0.9, 0.95]) or a bare word; "unset" restores the default. Shells such as zsh want
  quotes around brackets. 'grid.FIELD=[…]' makes a run for each value, grid=unset leaves a single run. objective.lambda
  applies to the w-reinforce runs only.

what is written:
  runs/NAME-HASH8/ (or --out), where HASH8 is computed from all fields of all runs:
    experiment.json      the recipe and its runs
    RUN/run.json         configuration, seeds, versions, machine, status
    RUN/TABLE/*.parquet  the records (docs/records.md); analysis.load_trace reads them
    RUN/error.txt        the traceback of a run that failed
    figures/             figures of the experiment; with --each-run also in the folder of each run
    report.html          the page of the experiment: every recorded token, in one file that a browser opens
    summary.md           tables, verdict and figures as a page; summary.json holds the tables as data
  Built-in base models are pretrained once and kept in the user's cache folder (RLVR_DYNAMICS_CACHE).
  Results go to standard output, progress and errors to standard error.

{recorded}
what happens to a folder that exists:
  A complete experiment of the same recipe is shown again. An unfinished one is resumed with --resume. Any other folder
  is left as it is. --force deletes an experiment and starts anew.

exit status:
  0    complete
  1    a run failed or diverged (the others were finished), or a fault of the program
  2    invalid request, or an unfinished experiment without --resume
  130  stopped by Ctrl-C or SIGTERM: once, and each run ends after its current step and is saved; twice, and all are
       killed
"""


_MANUAL = _MANUAL.format(recorded=offline.MANUAL)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = _parser()
    arguments, unknown = parser.parse_known_args(argv)
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}{_recipe_hint(unknown)}")
    again = command_line("python -m analysis.trace", argv)
    return run_command(
        lambda: _dispatch(arguments), again=again, folder=arguments.out if isinstance(arguments.out, Path) else None
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.trace",
        description=_ABOUT,
        epilog=_MANUAL,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--run",
        nargs="?",
        const="default",
        metavar="RECIPE",
        help="run a built-in recipe or a TOML file; without a name the default recipe",
    )
    add(
        "--resume",
        nargs="?",
        const="",
        metavar="DIR",
        help="with --run: resume its experiment, or start it; with DIR: resume the experiment in that folder; alone: "
        "resume the latest unfinished one in runs/",
    )
    add("--list", action="store_true", help="list the built-in recipes with what they cost")
    add(
        "--out",
        metavar="DIR",
        type=folder_or_url,
        help="folder of the experiment, or its URL on shared storage (default: runs/NAME-HASH8)",
    )
    add("--seed", metavar="N", help="seed of the runs: short for --set seed=N")
    add(
        "--set",
        metavar="FIELD=VALUE",
        action="append",
        default=[],
        dest="settings",
        help="change a field of the recipe; may be repeated",
    )
    add("--device", metavar="DEVICE", help="auto, cpu, cuda or cuda:N: short for --set device=DEVICE")
    add(
        "--workers",
        metavar="N",
        type=int,
        help="runs at a time (default: cores / threads of a run); with --rollouts processes of the verifier math",
    )
    add(
        "--executor",
        choices=("local", "ray"),
        default="local",
        help="where the runs are trained: on this machine, or on the machines of a Ray cluster, which see the folder "
        "under the same path",
    )
    add("--ray-address", metavar="ADDRESS", help="of the cluster (default: RAY_ADDRESS, or else a Ray of this machine)")
    add("--each-run", action="store_true", help="draw the figures of each run, too, besides those of the experiment")
    add("--no-figures", action="store_true", help="draw no figures")
    add("--force", action="store_true", help="delete the experiment in the folder and start anew")
    add("--dry-run", action="store_true", help="show the runs, the folder and whether the base is cached; run nothing")
    add("--json", action="store_true", help="results as JSON on standard output")
    add("--quiet", action="store_true", help="no progress")
    offline.add_options(parser)
    add("--version", action="version", version=f"rlvr-dynamics {__version__}")
    return parser


def _recipe_hint(unknown: Sequence[str]) -> str:
    from .recipes.recipe import Recipe

    for word in unknown:
        if word in Recipe.names() or word.endswith(".toml"):
            return f"; did you mean --run {word}?"
    return ""


def _dispatch(arguments: argparse.Namespace) -> int:
    from .recipes.recipe import Recipe

    if arguments.list:
        return _list(as_json=arguments.json)
    if arguments.model is not None or arguments.rollouts is not None:
        if isinstance(arguments.out, str):
            raise UsageError(
                f"--out: expected a folder with --rollouts, got {arguments.out}; copy the trace there after"
            )
        if (run := offline.trace(arguments)) is not None:
            offline.show_trace(run, arguments)
        return 0
    if arguments.run is None and arguments.resume is None:
        raise UsageError(
            "nothing to do: expected --run [RECIPE], --resume [DIR] or --list, or --model MODEL "
            "with --rollouts FILE; --help explains them"
        )
    folder = arguments.out
    if arguments.resume:
        if folder is not None and folder != folder_or_url(arguments.resume):
            raise UsageError(f"--out {folder} with --resume {arguments.resume}: give one of them")
        folder = folder_or_url(arguments.resume)
    elif arguments.run is None and folder is None:
        folder = _latest_unfinished()
    settings = list(arguments.settings)
    settings += [f"{name}={value}" for name in ("seed", "device") if (value := getattr(arguments, name)) is not None]
    if arguments.run is None:
        if settings:
            raise UsageError(
                "--set, --seed, --device with --resume: an experiment is resumed with the settings that it was started "
                "with; leave them out, or start another with --run"
            )
        recipe = _stored_recipe(_to_read(folder))
    else:
        recipe = Recipe.load(arguments.run).override(*settings)
    if arguments.dry_run:
        return _dry_run(recipe, folder, workers=arguments.workers, as_json=arguments.json)
    return _run(recipe, folder, arguments)


def _list(*, as_json: bool) -> int:
    from toy_models.bases.recipes import BASES

    from .recipes.recipe import Recipe

    recipes = [Recipe.load(name) for name in Recipe.names()]
    if as_json:
        _print_json([{"name": r.name, "about": r.about, "cost": r.cost, "runs": len(r.expand())} for r in recipes])
        return 0
    for recipe in recipes:
        print(f"{recipe.name}\n  {recipe.about}\n  {len(recipe.expand())} runs; {recipe.cost}")
    print(f"\nbases (policy.base, described in docs/bases.md): {', '.join(BASES)}")
    return 0


def _to_read(folder: str | Path) -> Path:
    """The folder itself, or the copy of a URL that was just fetched."""
    return folder if isinstance(folder, Path) else local_copy_to_read(folder)


def _dry_run(recipe: Recipe, folder: str | Path | None, *, workers: int | None, as_json: bool) -> int:
    from toy_models.bases.cache import base_is_cached
    from toy_models.bases.recipes import BASES
    from toy_models.model_sources.hub import hub_folder

    from .experiments.experiment import check_devices, default_folder, folder_state, url_state
    from .recipes.config import compare, config_to_dict
    from .recipes.model_checks import model_sources
    from .recipes.plan import plan

    folder = folder or default_folder(recipe)
    planned = plan(recipe, workers=workers)
    runs = planned.runs
    check_devices(runs)
    state = folder_state(folder, recipe) if isinstance(folder, Path) else url_state(folder, recipe)
    bases = {
        base: base_is_cached(base, seed)
        for base, seed in dict.fromkeys((run.config.policy.base, run.config.policy.seed) for run in runs)
        if base in BASES
    }
    models = {
        source.name: hub_folder(source) is not None
        for run in runs
        for source in model_sources(run.config).values()
        if source.kind == "hub"
    }
    if as_json:
        _print_json(
            {
                "recipe": recipe.name,
                "hash": recipe.hash,
                "folder": str(folder),
                "state": state,
                "cost": planned.cost,
                "warnings": list(planned.warnings),
                "estimates": [estimate and estimate.to_dict() for estimate in planned.estimates],
                "bases_cached": bases | models,
                "runs": [{"run_id": r.run_id, "label": r.label, "config": config_to_dict(r.config)} for r in runs],
            }
        )
        return 0
    print(f"recipe  {recipe.name} ({recipe.hash[:8]}): {recipe.about}")
    print(f"cost    {planned.cost}\nfolder  {folder} ({state})")
    largest = max(filter(None, planned.estimates), key=lambda estimate: estimate.memory.peak, default=None)
    for line in () if largest is None else largest.lines():
        print(line)
    for base, cached in bases.items():
        print(f"base    {base} ({'cached' if cached else 'not cached: it is pretrained first'})")
    for model, cached in models.items():
        print(f"model   {model} ({'in the cache' if cached else 'not in the cache: it is downloaded first'})")
    for warning in planned.warnings:
        print(f"warning {warning}")
    shared, varied = compare([run.config for run in runs])
    for run, values in zip(runs, varied, strict=True):
        print(f"run     {run.run_id}  {'  '.join(f'{path}={value}' for path, value in values.items())}".rstrip())
    print("with    " + "\n        ".join(f"{path} = {value}" for path, value in shared.items()))
    return 0


def _run(recipe: Recipe, folder: str | Path | None, arguments: argparse.Namespace) -> int:
    from .experiments.experiment import RunFailedError, run

    failure = None
    try:
        experiment = run(
            recipe,
            out=folder,
            executor=arguments.executor,
            workers=arguments.workers,
            ray_address=arguments.ray_address,
            resume=arguments.resume is not None,
            force=arguments.force,
            quiet=arguments.quiet,
        )
    except RunFailedError as error:
        from .records import Experiment

        failure, experiment = error, Experiment(error.folder)
        say(str(error), 1)
    runs = experiment.runs
    diverged = [run_id for run_id in runs if runs[run_id].status == "diverged"]
    for run_id in diverged:
        say(f"{run_id} diverged: {runs[run_id].info.get('error', 'non-finite loss')}", 1)
    if failure is None or any(runs[run_id].status == "complete" for run_id in runs):
        _show(experiment, arguments)
        if isinstance(folder, str):
            push_pages(SharedFolder(folder), experiment.folder)
    return 1 if failure is not None or diverged else 0


def _show(experiment: Experiment, arguments: argparse.Namespace) -> None:
    from .report import StoredReport

    report = StoredReport(experiment)
    summary = report.summary()
    html = report.write_report_page()
    if not arguments.json:
        from rich.console import Console

        print(f"report   {html}\n")
        summary.render(Console())
        sys.stdout.flush()
    tell = (lambda line: None) if arguments.quiet else (lambda line: print(line, file=sys.stderr))
    figures = [] if arguments.no_figures else report.figures(each_run=arguments.each_run, tell=tell)
    page = report.write_page()
    if not arguments.json:
        print("\n".join(["", f"records  {experiment.folder}", *figure_lines(figures), f"page     {page}"]))
        return
    _print_json(
        {
            "folder": str(experiment.folder),
            "status": experiment.status,
            "runs": {run_id: run.status for run_id, run in experiment.runs.items()},
            "figures": [str(path) for path in figures],
            "page": str(page),
            "report": str(html),
            "summary": summary.to_json(),
        }
    )


def _stored_recipe(folder: Path) -> Recipe:
    from .experiments.experiment import explain_changed_inputs
    from .recipes.recipe import Recipe
    from .records.folders import EXPERIMENT_FILE, RUN_FILE, read_experiment

    if (folder / RUN_FILE).exists() and not (folder / EXPERIMENT_FILE).exists():
        raise UsageError(
            f"--resume: {folder} holds a trace of recorded rollouts; give its --model and --rollouts "
            f"again, with --out {folder} --resume"
        )
    info = read_experiment(folder)
    recipe = Recipe.from_dict(info["recipe"])
    explain_changed_inputs(folder, info)
    if recipe.hash != info["hash"]:
        raise UsageError(
            f"--resume: the recipe in {folder} means something else in this version of the library "
            f"({recipe.hash[:8]}, expected {info['hash'][:8]}); resume it with the version that started it"
        )
    return recipe


def _latest_unfinished() -> Path:
    """The folder in runs/ of the experiment that was started last and is not complete."""
    from .records.folders import read_experiment

    unfinished = []
    for path in Path("runs").glob("*/experiment.json"):
        info = read_experiment(path.parent)
        if info["status"] not in ("complete", "diverged"):
            unfinished.append((info["created"], path.parent))
    if not unfinished:
        raise UsageError("--resume: no unfinished experiment in runs/; expected --resume DIR or --run RECIPE")
    return max(unfinished)[1]


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    sys.exit(main())
