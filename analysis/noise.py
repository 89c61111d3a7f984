"""`python -m analysis.noise`: the noise of gradient estimators around the exact gradient, for one policy or several."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common.command import command_line, run_command
from .errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

    from .evaluation.crossings import Crossing

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

what the table shows, each with its standard error over replicates (title: replicates × prompts × group size):
  projection       of the mean estimate on the exact gradient ∇p: 1 for PSR and NSR, 1 + λ for W-REINFORCE, 2 for
                   REINFORCE. Off by more than chance it says that rollouts come from another law than the one that
                   is differentiated.
  variance         trace of the covariance, per rollout
  noise/signal     so many rollouts make the signal as large as the noise
  vs PSR           times the rollouts of PSR for an estimate as good; for NSR the ratio of the two variances
  cosine           of the expected estimate with ∇p, freed of noise (it may come out above 1)
  of a batch       cosine of the estimate from one replicate with ∇p

  Prompts are fixed: what a training step adds by drawing other prompts each time is not in these numbers. Several
  policies on one task also get the success probability at which NSR's variance passes PSR's, with its interval.

exit status:
  0  done      1  a fault of the program      2  a request that cannot be met as stated      130  stopped by Ctrl-C
"""

_QUANTITIES = {
    "projection": "projection",
    "variance": "variance",
    "noise_to_signal": "noise/signal",
    "noise_ratio": "vs PSR",
    "cosine": "cosine",
    "cosine_batch": "of a batch",
}
_ALARM = 4.0  # standard errors between a projection and its expectation; by chance 1 in 16,000 for many replicates


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    arguments = _parser().parse_args(argv)
    return run_command(lambda: _run(arguments), again=command_line("python -m analysis.noise", argv))


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
        help="measurements that --out wrote; may be repeated, and joins those of --base",
    )
    add("--task", metavar="TASK", help="the task of folders (default: path); a built-in base has its own")
    add("--split", default="validation", choices=("train", "validation", "test"), help="(default: %(default)s)")
    add("--prompts", type=int, default=64, metavar="N", help="the first N of the split (default: %(default)s)")
    add("--group-size", type=int, default=8, metavar="N", help="responses per prompt (default: %(default)s)")
    add("--replicates", type=int, default=16, metavar="N", help="independent batches (default: %(default)s)")
    add("--temperature", type=float, default=1.0, metavar="T", help="of the law (default: %(default)s)")
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
    if not arguments.bases and not arguments.read:
        raise UsageError("nothing to do: expected --base BASE or --read FILE; --help explains them")
    for option, path, suffix in (("--out", arguments.out, ".parquet"), ("--figure", arguments.figure, ".png")):
        if path is not None and path.suffix != suffix:
            raise UsageError(f"{option}: expected a file ending in {suffix}, got {path}")
    if arguments.threads < 1:
        raise UsageError(f"--threads: expected at least 1, got {arguments.threads}")
    import pandas as pd

    from .evaluation.crossings import crossing_by_task

    frame = pd.concat([*map(_read, arguments.read), *_measure(arguments)], ignore_index=True)
    crossed = crossing_by_task(frame)
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        frame.to_parquet(arguments.out, index=False)
    if arguments.figure is not None:
        from .report import noise_figure, save_figure
        from .report.figures import NothingToDraw

        try:
            save_figure(noise_figure(frame), arguments.figure)
        except NothingToDraw as reason:
            raise UsageError(f"--figure: {reason}") from reason
    if arguments.json:
        rows = [{name: _plain(value) for name, value in row.items()} for row in frame.to_dict("records")]
        found = {task: vars(one) for task, one in crossed.items()}
        print(json.dumps({"measurements": rows, "crossings": found}, indent=1, ensure_ascii=False, allow_nan=False))
        return
    _show(frame, crossed)
    for what, path in (("records", arguments.out), ("figure", arguments.figure)):
        if path is not None:
            print(f"{what:<8}{path}")


def _read(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"--read {path}: no Parquet file that can be read ({error})") from error
    if missing := {"base", "task", "estimator", "noise_ratio_se"} - set(frame.columns):
        raise UsageError(
            f"--read {path}: expected measurements written by --out, but columns are missing: "
            f"{', '.join(sorted(missing))}"
        )
    return frame


def _measure(arguments: argparse.Namespace) -> Iterator[pd.DataFrame]:
    """The measurements of each --base, in turn."""
    if not arguments.bases:
        return
    import torch
    from rich.console import Console
    from rich.progress import Progress

    from toy_models import BASES, ensure_base, get_task, load_policy

    from .common.devices import pick_device
    from .gradient_noise.measurement import gradient_noise, standard_estimators

    torch.set_num_threads(arguments.threads)
    device = pick_device(arguments.device)
    console = Console(stderr=True)
    with Progress(console=console, disable=arguments.quiet or not console.is_terminal, transient=True) as progress:
        for base in _named(arguments.bases):
            bar = progress.add_task(base, total=None)

            def show(done: int, total: int, *_: float, bar: Any = bar) -> None:
                progress.update(bar, completed=done, total=total)

            name = _task_of(base, arguments.task)
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
            noise = gradient_noise(
                policy,
                task,
                prompts[: arguments.prompts],
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
            for at, (column, value) in enumerate({"base": base, "task": task.name, "seed": arguments.seed}.items()):
                frame.insert(at, column, value)
            yield frame


def _named(bases: Sequence[str]) -> list[str]:
    """Bases and folders as given, once each, patterns replaced by the built-in bases that match them."""
    from toy_models import BASES

    found: dict[str, None] = {}
    for base in bases:
        matching = [name for name in BASES if fnmatchcase(name, base)] if any(c in base for c in "*?[") else [base]
        if not matching:
            raise UsageError(f"--base {base}: no built-in base has such a name; known: {', '.join(BASES)}")
        found |= dict.fromkeys(matching)
    return list(found)


def _task_of(base: str, asked: str | None) -> str:
    from toy_models import BASES

    if base not in BASES:
        return asked or "path"
    own = BASES[base].task
    if asked not in (None, own):
        raise UsageError(f"--task {asked} with --base {base}: that base speaks {own}; leave --task out")
    return own


def _show(frame: pd.DataFrame, crossed: dict[str, Crossing]) -> None:
    from rich.console import Console

    from .common.tables import Table

    console = Console()
    for (base, task), rows in frame.groupby(["base", "task"], sort=False):
        first = rows.iloc[0]
        title = (
            f"{base} on {task}: p = {first.p:.3f}, ‖∇p‖ = {first.gradient_norm:.3g}, T = {first.temperature:g}; "
            f"{first.replicates}×{first.prompts}×{first.group_size} rollouts"
        )
        off = rows[(rows.projection - rows.expected).abs() > _ALARM * rows.projection_se]
        note = (
            f"The projection of {', '.join(off.estimator)} is more than {_ALARM:g} standard errors off: rollouts "
            "are not drawn from the law that is differentiated."
        )
        cells = [(words, *map(_with_error, rows[name], rows[f"{name}_se"])) for name, words in _QUANTITIES.items()]
        table = Table(title, ("", *rows.estimator), tuple(cells), note if len(off) else "")
        console.print(table.to_rich(console.width))
    for task, one in crossed.items():
        console.print(f"{task}: {one.words()}", highlight=False)


def _with_error(value: float, error: float) -> str:
    """`value` and its standard error, to as many decimals as show the error's first digit, or two if that is a 1.

    >>> _with_error(18.71, 1.334), _with_error(0.994, 0.027), _with_error(float("nan"), 1.0), _with_error(1.0, 0.0)
    ('18.7±1.3', '0.99±0.03', '–', '1')
    """
    if math.isnan(value):
        return "–"
    if not error > 0:
        return f"{value:.3g}"
    first = math.floor(math.log10(error))
    digits = max(0, (error < 2 * 10.0**first) - first)
    return f"{value:.{digits}f}±{error:.{digits}f}"


def _plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and math.isnan(value) else value


if __name__ == "__main__":
    sys.exit(main())
