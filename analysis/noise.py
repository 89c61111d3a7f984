"""`python -m analysis.noise`: the noise of gradient estimators around the exact gradient, for one policy or several."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common.command import run_command
from .common.output_files import check_output_file
from .errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

    from .evaluation.crossings import Crossing
    from .evaluation.intervals import Interval

__all__ = ["main"]

_ABOUT = """\
Measure how far PSR, NSR, W-REINFORCE, REINFORCE and GRPO scatter around the exact gradient of the success probability,
per rollout, on fixed prompts of a task whose correct responses can be enumerated."""

_MANUAL = """\
examples:
  python -m analysis.noise --base path
  python -m analysis.noise --base path --replicates 64 --out noise.parquet
  python -m analysis.noise --base runs/default-1a2b3c4d/nsr-seed0/checkpoints/final --task path
  python -m analysis.noise --base 'path*' --figure noise.png        every built-in base of that name
  python -m analysis.noise --read noise.parquet --figure noise.png

what the table shows, each with its 95% interval over replicates, from five of them (title: replicates × prompts ×
group size; docs/intervals.md says how the intervals are made and how often they cover):
  projection       of the mean estimate on the exact gradient ∇p: 1 for PSR and NSR, 1 + λ for W-REINFORCE, 2 for
                   REINFORCE. If it is off by more than chance, the rollouts come from another distribution than the
                   one that is differentiated.
  variance         trace of the covariance, per rollout
  noise / signal   the number of rollouts at which the signal is as large as the noise
  vs PSR           rollouts needed for an estimate as good as that of PSR, as a multiple; for NSR the ratio of variances
  cosine           of the expected estimate with ∇p, corrected for noise and cut at 1; without an interval, since none
                   was found that covers
  of a batch       mean cosine of the estimate from one replicate with ∇p

  Prompts are fixed: the noise that a training step adds by drawing other prompts is not part of these numbers. For
  several policies on one task, the success probability at which NSR's variance exceeds PSR's is printed as well, from
  four policies with its interval. Policies of equal accuracy scatter, and the interval includes that.

exit status:
  0  done      1  a fault of the program      2  invalid request      130  stopped by Ctrl-C or SIGTERM
"""

_QUANTITIES = {
    "projection": "projection",
    "variance": "variance",
    "noise_to_signal": "noise / signal",
    "noise_ratio": "vs PSR",
    "cosine": "cosine",
    "cosine_batch": "of a batch",
}
_MEANS = ("projection", "cosine_batch")  # over replicates; the others are positive and have theirs on the logarithm
_ALARM = 4.0  # standard errors between a projection and its expectation; by chance 1 in 16,000 for many replicates
# option, its least value, and whether the least itself is refused
_LEAST = (
    ("threads", 1, False),
    ("prompts", 1, False),
    ("replicates", 3, False),  # standard errors come from leaving one out
    ("group_size", 1, False),
    ("temperature", 0, True),
    ("top_k", 0, False),
    ("top_p", 0, True),
    ("lambda_", 0, False),
    ("base_seed", 0, False),
)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    arguments = _parser().parse_args(argv)
    return run_command(lambda: _run(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.noise",
        description=_ABOUT,
        epilog=_MANUAL,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--base",
        action="append",
        default=[],
        metavar="BASE",
        dest="bases",
        help="a built-in base, a pattern such as 'path*' for several, or a folder with a Hugging Face causal LM and "
        "its tokenizer, such as a run's checkpoints/final; may be repeated",
    )
    add(
        "--read",
        action="append",
        default=[],
        metavar="FILE",
        type=Path,
        help="measurements written by --out; may be repeated, and combined with --base",
    )
    add("--task", metavar="TASK", help="the task of folders (default: path); a built-in base has its own")
    add("--split", default="validation", choices=("train", "validation", "test"), help="(default: %(default)s)")
    add("--prompts", type=int, default=64, metavar="N", help="the first N of the split (default: %(default)s)")
    add("--group-size", type=int, default=8, metavar="N", help="responses per prompt (default: %(default)s)")
    add("--replicates", type=int, default=16, metavar="N", help="independent batches (default: %(default)s)")
    add("--temperature", type=float, default=1.0, metavar="T", help="of the distribution (default: %(default)s)")
    add("--top-k", type=int, default=0, metavar="K", help="draw from the K most probable tokens; 0: from all (default)")
    add("--top-p", type=float, default=1.0, metavar="P", help="draw from the nucleus of that mass (default: 1)")
    add("--lambda", type=float, default=0.1, metavar="L", dest="lambda_", help="of W-REINFORCE (default: %(default)s)")
    add("--base-seed", type=int, default=0, metavar="N", help="seed of built-in bases (default: %(default)s)")
    add("--seed", type=int, default=0, metavar="N", help="seed of the rollouts (default: %(default)s)")
    add("--device", default="auto", metavar="DEVICE", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    add("--threads", type=int, default=1, metavar="N", help="threads of the computation (default: %(default)s)")
    add("--out", type=Path, metavar="FILE", help="write the measurements as Parquet")
    add("--figure", type=Path, metavar="FILE", help="draw noise against success probability as PNG")
    add("--json", action="store_true", help="the measurements as JSON on standard output")
    add("--quiet", action="store_true", help="no progress")
    return parser


def _run(arguments: argparse.Namespace) -> None:
    _check(arguments)
    import pandas as pd

    from .evaluation.crossings import crossing_by_task

    frame = pd.concat([*map(_read, arguments.read), *_measure(arguments)], ignore_index=True)
    crossings = crossing_by_task(frame)
    if arguments.out is not None:
        frame.to_parquet(arguments.out, index=False)
    if arguments.json:
        rows = [{name: _plain(value) for name, value in row.items()} for row in frame.to_dict("records")]
        data = {"measurements": rows, "crossings": {task: vars(crossing) for task, crossing in crossings.items()}}
        print(json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False))
    else:
        _show(frame, crossings)
    if arguments.figure is not None:
        _draw(frame, arguments.figure)
    if not arguments.json:
        for what, path in (("records", arguments.out), ("figure", arguments.figure)):
            if path is not None:
                print(f"{what:<8} {path}")


def _check(arguments: argparse.Namespace) -> None:
    """Refuse what is invalid before anything is loaded."""
    if not arguments.bases and not arguments.read:
        raise UsageError("nothing to do: expected --base BASE or --read FILE; --help explains them")
    for name, least, exclusive in _LEAST:
        value = getattr(arguments, name)
        if not math.isfinite(value) or value < least or (exclusive and value == least):
            option = name.strip("_").replace("_", "-")
            expected = f"a number above {least}" if exclusive else f"at least {least}"
            raise UsageError(f"--{option}: expected {expected}, got {value:g}")
    if arguments.top_p > 1:
        raise UsageError(f"--top-p: expected at most 1, got {arguments.top_p:g}")
    check_output_file("--out", arguments.out, ".parquet")
    check_output_file("--figure", arguments.figure, ".png")


def _draw(frame: pd.DataFrame, path: Path) -> None:
    from .report import noise_figure, save_figure
    from .report.figures import NothingToDraw

    try:
        save_figure(noise_figure(frame), path)
    except NothingToDraw as reason:
        raise UsageError(f"--figure: {reason}") from reason


def _read(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"--read: expected a Parquet file that --out wrote, got {path} ({error})") from error
    if missing := {"base", "task", "estimator", "noise_ratio_se"} - set(frame.columns):
        raise UsageError(
            f"--read: expected measurements written by --out, got {path}, in which columns are missing: "
            f"{', '.join(sorted(missing))}"
        )
    return frame


def _measure(arguments: argparse.Namespace) -> Iterator[pd.DataFrame]:
    """The measurements of each --base, in turn."""
    if not arguments.bases:
        return
    bases = _named(arguments.bases)
    tasks = [_task_of(base, arguments.task) for base in bases]
    import torch

    from toy_models import BASES, ensure_base, get_task, load_policy

    from .common.batching import check_batching
    from .common.devices import pick_device
    from .common.progress import Progress
    from .gradient_noise.measurement import gradient_noise, standard_estimators

    torch.set_num_threads(arguments.threads)
    device = pick_device(arguments.device)
    with Progress(quiet=arguments.quiet) as progress:
        for base, name in zip(bases, tasks, strict=True):

            def show(done: int, total: int, *_: float, base: str = base) -> None:
                progress.show((base, total), base, done=done, total=total)

            try:
                if base in BASES:
                    ensure_base(base, arguments.base_seed, progress=show)
                policy = load_policy(base, seed=arguments.base_seed, device=device)
                task = get_task(name, policy.tokenizer)
            except ValueError as error:
                raise UsageError(f"--base {base}: {error}") from error
            prompts = task.prompts(arguments.split)
            if not 1 <= arguments.prompts <= len(prompts):
                raise UsageError(
                    f"--prompts: expected 1 to {len(prompts)}, the {arguments.split} prompts of "
                    f"{task.name}, got {arguments.prompts}"
                )
            prompts = prompts[: arguments.prompts]
            check_batching(policy, prompts, task.max_new_tokens, f"--base {base}")
            noise = gradient_noise(
                policy,
                task,
                prompts,
                batch_checked=True,
                generator=torch.Generator().manual_seed(arguments.seed),
                group_size=arguments.group_size,
                replicates=arguments.replicates,
                temperature=arguments.temperature,
                top_k=arguments.top_k,
                top_p=arguments.top_p,
                estimators=standard_estimators(arguments.group_size, arguments.lambda_),
                progress=show,
            )
            frame = noise.frame()
            for place, (column, value) in enumerate({"base": base, "task": task.name, "seed": arguments.seed}.items()):
                frame.insert(place, column, value)
            yield frame


def _named(bases: Sequence[str]) -> list[str]:
    """The bases and folders in their order, once each; a pattern stands for the built-in bases that match it."""
    from toy_models import BASES

    names: dict[str, None] = {}
    for base in bases:
        pattern = any(sign in base for sign in "*?[")
        matching = [name for name in BASES if fnmatchcase(name, base)] if pattern else [base]
        if not matching:
            raise UsageError(
                f"--base {base}: expected a pattern that a built-in base matches; known: {', '.join(BASES)}"
            )
        names |= dict.fromkeys(matching)
    return list(names)


def _task_of(base: str, task: str | None) -> str:
    from toy_models import BASES

    if base not in BASES:
        return task or "path"
    expected = BASES[base].task
    if task not in (None, expected):
        raise UsageError(f"--task: expected {expected}, the task of the base {base}, got {task}; leave --task out")
    return expected


def _show(frame: pd.DataFrame, crossings: dict[str, Crossing]) -> None:
    from rich.console import Console

    from .common.tables import Cell, Table

    console = Console()
    for (base, task), rows in frame.groupby(["base", "task"], sort=False):
        first = rows.iloc[0]
        title = (
            f"{base} on {task}: p = {first.p:.3f}, ‖∇p‖ = {first.gradient_norm:.3g}, T = {first.temperature:g}; "
            f"{first.replicates}×{first.prompts}×{first.group_size} rollouts"
        )
        off = rows[(rows.projection - rows.expected).abs() > _ALARM * rows.projection_se]
        note = "± or in brackets: 95% intervals over replicates, prompts fixed." + (
            f" The projection of {', '.join(off.estimator)} is more than {_ALARM:g} standard errors off: the rollouts "
            "are not drawn from the distribution that is differentiated."
            if len(off)
            else ""
        )
        cells = [
            (row["estimator"], *(Cell.of(_interval(row, name)) for name in _QUANTITIES))
            for row in rows.to_dict("records")
        ]
        console.print(Table(title, ("", *_QUANTITIES.values()), tuple(cells), note).to_rich(console.width))
    for task, crossing in crossings.items():
        console.print(f"{task}: {crossing.words()}", highlight=False)


def _interval(row: dict[Any, Any], name: str) -> Interval:
    """One quantity of one estimator with its interval."""
    from .evaluation.intervals import mean_over_replicates, no_interval, over_replicates

    value, error, replicates = float(row[name]), float(row[f"{name}_se"]), int(row["replicates"])
    if name == "cosine":
        value = max(-1.0, min(1.0, value)) if not math.isnan(value) else value
        return no_interval(value, "for the cosine of an expectation none was found that covers")
    if name not in _MEANS:
        return over_replicates(value, error, replicates)
    found = mean_over_replicates(value, error, replicates)
    if name == "projection":
        return found
    return replace(found, low=max(-1.0, found.low), high=min(1.0, found.high))


def _plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and math.isnan(value) else value


if __name__ == "__main__":
    sys.exit(main())
