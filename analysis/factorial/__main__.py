"""`python -m analysis.factorial`: what makes PSR and NSR differ, factor by factor, on policies that are exact."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from ..common.command import command_line, run_command
from ..common.output_files import check_output_file
from ..errors import UsageError
from .factors import OPTIMIZERS, POLICIES

__all__ = ["main"]

_ABOUT = """\
On-policy, in the log or ratio form, unclipped and with a fixed divisor, PSR and NSR have the same expected gradient.
This command switches on what may make them differ all the same (sampling noise, the probability form, length means,
four passes over the same batch at the equal total rate and at the full rate, a clip, the optimiser, dropped rows) on
policies whose every quantity is exact, and says how much each contributes to the gap at equal Pass@1 and at equal
steps. Without --full it runs the cells for the effect of each factor alone (first in) and of switching off each alone
(last out); with --full every cell, for Shapley shares and interactions. That takes several times as
long. The same command resumes an interrupted factorial.
"""
_PROMPTS = {"bandit": 256, "tree": 64, "loglinear": 32}


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    arguments = _parser().parse_args(argv)
    command = command_line("python -m analysis.factorial", argv)
    return run_command(lambda: _run(arguments, command), again=command)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.factorial",
        description=_ABOUT,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--policy", default="bandit", metavar="NAME", help="bandit, tree or loglinear (bandit)")
    parser.add_argument("--full", action="store_true", help="every cell: Shapley shares and interactions")
    parser.add_argument("--seeds", type=int, default=20, help="paired seeds, each a problem of its own (20)")
    parser.add_argument("--prompts", type=int, help="prompts of a problem (bandit 256, tree 64, loglinear 32)")
    parser.add_argument("--arms", type=int, default=40, help="responses to a prompt (40)")
    parser.add_argument("--steps", type=int, default=200, help="batches (200)")
    parser.add_argument("--group-size", type=int, default=8, help="responses drawn for each prompt and step (8)")
    parser.add_argument("--optimizer", default="adam", help="what the factor switches on: adam, lion, momentum (adam)")
    parser.add_argument(
        "--lr-scale",
        type=float,
        default=4.0,
        help="learning rates of all optimisers times this; 1: about 100 steps to p = 0.75 (4)",
    )
    parser.add_argument(
        "--methods",
        help="comma-separated, PSR and NSR among them (PSR,NSR,W-REINFORCE,REINFORCE,GRPO); also "
        "'baseline 0.25' and 'baseline 0.75', between PSR (0), REINFORCE (0.5) and NSR (1); any other objective by "
        "name, or your own loss as file.py:name: these ignore the factors form and clip",
    )
    parser.add_argument("--seed", type=int, default=0, help="of problems and draws (0)")
    parser.add_argument("--workers", type=int, help="processes (as many as cores)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="its folder (runs/ladder-<policy>-<hash8>)")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="write the figure there as well")
    parser.add_argument(
        "--results",
        type=Path,
        metavar="FILE.json",
        help="write all numbers of the tables and the figure there as JSON, with settings, seeds, command, versions "
        "and date; docs/results/factorial.json is made so",
    )
    parser.add_argument("--json", action="store_true", help="the tables as JSON on standard output")
    parser.add_argument("--quiet", action="store_true", help="no progress on standard error")
    return parser


def _run(arguments: argparse.Namespace, command: str) -> None:
    methods = _check_numbers_and_names(arguments)
    from rich.console import Console

    from ..common.progress import Progress
    from ..common.provenance import cores
    from ..report import save_figure
    from .cells import BASELINES, METHODS, Cells, run_cells
    from .factors import cell_name, factors_of, full_factorial, one_factor_cells
    from .findings import figure, findings
    from .folder import FactorialFolder
    from .method_gaps import gaps
    from .results_file import write_results

    methods = methods or METHODS
    for method in methods:
        if method not in (*METHODS, *BASELINES):
            _check_method(method, arguments.policy)
    chosen = {name: value for name, value in vars(arguments).items() if name in {f.name for f in fields(Cells)}}
    chosen["prompts"] = arguments.prompts or _PROMPTS[arguments.policy]
    settings = Cells(**chosen | {"methods": methods})
    settings.problem()  # whether it can be made, before anything is written
    folder = FactorialFolder(arguments.out or FactorialFolder.default(settings), settings)
    factors = factors_of(settings.policy)
    cells = full_factorial(factors) if arguments.full else one_factor_cells(factors)
    wanted = [(cell, method) for cell in cells for method in methods]
    todo = [(cell, method) for cell, method in wanted if not folder.has(cell_name(cell), method)]
    done = len(wanted) - len(todo)
    workers = arguments.workers or min(cores(), max(1, len(todo)))
    with Progress(quiet=arguments.quiet) as progress:
        for run in run_cells(todo, settings, workers=workers):
            folder.save(run)
            done += 1
            progress.show("cells", settings.policy, done=done, total=len(wanted), detail=f"{run.method}: {run.cell}")
    runs = {(cell_name(cell), method): folder.load(cell_name(cell), method) for cell, method in wanted}
    found = findings(runs.values(), factors, settings)
    if arguments.results:
        write_results(arguments.results, command, found, runs, factors, settings)
    pictures = [folder.path / "factorial.png", *([arguments.figure] if arguments.figure else [])]
    if arguments.json:
        print(json.dumps({"folder": str(folder.path), "tables": [t.to_json() for t in found.tables]}, allow_nan=False))
    else:
        console = Console()
        for shown in found.tables:
            console.print(shown.to_rich(console.width))
            console.print()
    sys.stdout.flush()
    drawn = figure(found, runs, factors)
    for path in pictures:
        save_figure(drawn, path)
    page = found.to_markdown(f"What makes PSR and NSR differ: {settings.policy}") + "\n![factorial](factorial.png)\n"
    folder.finish(
        page,
        gaps=gaps(runs.values()),
        shares=found.shares,
        interactions=found.interactions,
        differences=found.differences,
        clipped=found.clipped,
    )
    if not arguments.json:
        print("\n".join([f"records  {folder.path}", *(f"figure   {path}" for path in pictures)]))


def _check_numbers_and_names(arguments: argparse.Namespace) -> tuple[str, ...]:
    """The methods that are named; UsageError for what is invalid at sight, before torch is loaded."""
    from toy_models.messages import nearest

    for name, options in (("policy", POLICIES), ("optimizer", OPTIMIZERS)):
        value = getattr(arguments, name)
        if value not in options:
            raise UsageError(
                f"--{name}: expected one of {', '.join(options)}, got {value!r} ({nearest(value, options)})"
            )
    if not 0 < arguments.lr_scale < float("inf"):
        raise UsageError(f"--lr-scale: expected a positive number, got {arguments.lr_scale:g}")
    for name in ("seeds", "prompts", "arms", "steps", "group_size", "workers"):
        value, least = getattr(arguments, name), 2 if name in ("seeds", "arms", "group_size") else 1
        if value is not None and value < least:
            raise UsageError(f"--{name.replace('_', '-')}: expected at least {least}, got {value}")
    check_output_file("--figure", arguments.figure, ".png")
    check_output_file("--results", arguments.results, ".json")
    if not arguments.methods:
        return ()
    methods = tuple(name.strip() for name in arguments.methods.split(","))
    if len(set(methods)) < len(methods):
        raise UsageError(f"--methods: expected each once, got {','.join(methods)}")
    if "PSR" not in methods or "NSR" not in methods:
        raise UsageError(
            f"--methods: expected PSR and NSR among them, since their gap is what is explained, got {','.join(methods)}"
        )
    return methods


def _check_method(method: str, policy: str) -> None:
    """UsageError for a method that is not an objective, or not one that every cell can run."""
    import torch

    from toy_models.messages import nearest

    from ..objectives import get, names
    from ..objectives.rules import is_own
    from .cells import BASELINES, METHODS

    if method not in names() and not is_own(method):
        known = [*METHODS, *BASELINES]
        raise UsageError(
            f"--methods: expected one of {', '.join(known)}, another objective or file.py:name, got "
            f"{method!r} ({nearest(method, [*known, *names()])})"
        )
    try:
        objective = get(method)
        objective.check_use(f"--policy {policy}")
        objective.limit_advantages(torch.tensor([0.5]))
    except UsageError as error:
        raise UsageError(f"--methods: {error}") from error
    if objective.coupling != "token":
        raise UsageError(
            f"--methods: expected objectives that weigh each token by itself, got {method}, which weighs it by its "
            "whole response; the exact expectations cannot follow that"
        )


if __name__ == "__main__":
    sys.exit(main())
