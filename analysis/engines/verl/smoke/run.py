"""`python -m analysis.engines.verl --smoke`: a whole run of verl on a CPU, from a new model to the page."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ....common.command import command_line, run_command
from ....common.progress import Progress
from .child import Child, fault
from .settings import METHODS, Settings, overrides
from .summary import pass_at_k, recorded_steps

__all__ = ["main"]

PROGRAM = "python -m analysis.engines.verl --smoke"

_ABOUT = """\
Trains a tiny model with verl on a CPU, by the same path as on GPUs: verl.trainer.main_ppo with Ray, TransferQueue,
FSDP2 on gloo, a rollout server, math-verify rewards, validation and checkpoints, watched by the engine that records.
It takes about two minutes of processor time and 4 GB of memory, and needs no network.
"""

_FOLDER = """\
the folder:
  model/ data/       the model that training starts from, and the task
  run/               the records; read them with analysis.load_trace
  run/report.html    the page
  rollouts/ validation/ samples/   verl's dumps, and what the rollout servers drew
  checkpoints/       verl's checkpoints; a run that was stopped goes on from the last one when called again
  verl.log           what verl and its workers printed
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command line, without `--smoke`; returns the exit status.

    Exit status: 0 complete, 1 a fault of the run (its traceback is shown), 2 an invalid request, 130 stopped.
    """
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description=_ABOUT,
        epilog=_FOLDER,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--out", type=Path, default=Path("runs/verl-smoke"), metavar="DIR", help="its folder (runs/verl-smoke)")
    add("--method", default="w-reinforce", metavar="NAME", help=f"one of {', '.join(METHODS)} (w-reinforce)")
    add("--ranks", type=int, default=1, metavar="N", help="processes that train (1)")
    add("--steps", type=int, default=4, metavar="N", help="training steps (4)")
    add("--seed", type=int, default=0, metavar="N", help="of the model, the data and the samples (0)")
    add("--quiet", action="store_true", help="no progress")
    add("overrides", nargs="*", metavar="OVERRIDE", help="overrides of verl's configuration, after those of the run")
    arguments = parser.parse_intermixed_args(argv)
    return run_command(lambda: _run(arguments), again=command_line(PROGRAM, argv), folder=arguments.out)


def _run(arguments: argparse.Namespace) -> int:
    settings = Settings(
        out=arguments.out,
        method=arguments.method,
        ranks=arguments.ranks,
        steps=arguments.steps,
        seed=arguments.seed,
        extra=tuple(arguments.overrides),
    )
    settings.claim()
    if not _is_complete(settings):
        with Progress(quiet=arguments.quiet) as progress:
            status = _train(settings, progress)
        if status != 0:
            return status
    from ....records import load_trace
    from ....report import report

    page = report(load_trace(settings.records), tell=lambda _: None).page
    _say(settings, page)
    return 0


def _is_complete(settings: Settings) -> bool:
    from ....records import load_trace

    return (settings.records / "run.json").is_file() and load_trace(settings.records).status == "complete"


def _train(settings: Settings, progress: Progress) -> int:
    title = f"{settings.method}, {settings.ranks} rank{'s' if settings.ranks > 1 else ''}"
    model, data = _prepared(settings, progress, title)
    ray_folder = Path(tempfile.mkdtemp(prefix="rlvr-", dir="/tmp"))  # a short path: see `overrides`
    log = settings.out / "verl.log"
    attempt = len(list(settings.out.glob("metrics-*.jsonl"))) + 1
    metrics = settings.out / f"metrics-{attempt}.jsonl"
    command = ["-m", "analysis.engines.verl", "train", "--out", str(settings.records), "--tokens", "1"]
    progress.show(0, title, done=0, total=settings.steps, phase="verl starts", always=True)
    place = log.stat().st_size if log.is_file() else 0
    child = Child([*command, *overrides(settings, data, model, ray_folder)], log, metrics)
    try:
        status = child.wait(lambda step, row: _tell(progress, title, settings, step, row))
    finally:
        child.stop()
        shutil.rmtree(ray_folder, ignore_errors=True)
    if status == 0:
        return 0
    with log.open("rb") as file:
        file.seek(place)
        said = fault(file.read().decode(errors="replace"))
    print(said, file=sys.stderr)
    if status == 2:
        return 2
    print(f"error: verl ended with status {status}; all that it printed is in {log}", file=sys.stderr)
    return 1


def _prepared(settings: Settings, progress: Progress, title: str) -> tuple[Path, tuple[Path, Path]]:
    """The model and the data; those of an earlier call are kept, since its checkpoints belong to them."""
    from .model import make_model
    from .task import write_data

    model, data = settings.out / "model", settings.out / "data"
    if not (model / "tokenizer_config.json").is_file():  # the last file of the model
        progress.show(0, title, phase="makes the model", always=True)
        shutil.rmtree(model, ignore_errors=True)
        make_model(model, settings.seed)
    return model, write_data(data)


def _tell(progress: Progress, title: str, settings: Settings, step: int, row: Mapping[str, Any]) -> None:
    numbers = {
        "reward": row.get("critic/score/mean"),
        "entropy": row.get("actor/entropy"),
        "validation": next(
            (value for name, value in row.items() if name.startswith("val-core/") and "mean@" in name), None
        ),
    }
    detail = ", ".join(f"{name} {value:.3f}" for name, value in numbers.items() if value is not None)
    phase = "trains" if step else "validation"
    progress.show(0, title, done=step, total=settings.steps, phase=phase, detail=detail, always=True)


def _say(settings: Settings, page: Path | None) -> None:
    from rich.console import Console

    console = Console()
    console.print(recorded_steps(settings).to_rich(console.width))
    if said := pass_at_k(settings):
        print(said)
    print(f"records  {settings.records}")
    print(f"page     {page}")
