"""`python -m docs.generators.measure NAME [SOURCE …]`: measure what the pages say, into docs/results/NAME.json.

main_job FOLDER     from the experiment of `make figures`
noise FILE          from the Parquet file of `make noise`
false_alarms FOLDER alarms of `analysis.diagnose` on healthy runs, which are trained in the folder or resumed there
offline FOLDER      sizes and times from the folder of an offline trace with all columns
bases               every built-in base; one that is not cached is pretrained
smollm2 FOLDER      from the runs of docs/smollm2.md; writes their figures into figures/
real_models FOLDER  peaks of memory, and what bfloat16 hides, with the Hugging Face folder of SmolLM2-135M-Instruct
trl                 the same training by TRL and by our own loop
verl                the same training by verl and by our own loop, in the environment of `make test-verl`
full_scale          writer, statistics and queries at the size of the paper's steps
token_statistics    the accuracy of token statistics and of other libraries that are installed
benchmarks FILE     from the file that `make bench` writes, into docs/results/performance.json
performance JOB …   run commands one after the other and time them, into docs/results/performance.json; on a machine
                    that does nothing else. Without a job their names are listed
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from analysis.errors import UsageError

from . import results
from .benchmark_files import benchmarks

__all__ = ["main"]

_NOISE = ("base", "task", "estimator", "p", "replicates", "noise_ratio", "noise_ratio_se")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; exit status 0."""
    parser = argparse.ArgumentParser(
        prog="python -m docs.generators.measure",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=(*_FROM_SOURCE, *_MEASURES, "performance"))
    parser.add_argument("sources", metavar="SOURCE", nargs="*", help="the folder, file or jobs, where some are needed")
    options = parser.parse_args(argv)
    name, sources = options.name, options.sources
    if name == "performance":
        return _performance(sources)
    if len(sources) != (expected := int(name in _FROM_SOURCE)):
        parser.error(f"{name}: expected {('no source', 'a source')[expected]}, got {len(sources)}")
    if name == "benchmarks":
        path = results.merge("performance", "benchmarks", benchmarks(Path(sources[0])))
    else:
        command, data = _FROM_SOURCE[name](Path(sources[0])) if sources else _MEASURES[name]()
        path = results.write(name, command, data)
    print(f"wrote {path}")
    return 0


def _performance(names: Sequence[str]) -> int:
    """Run the jobs one after the other; one that fails does not stop the others, and makes the exit status 2."""
    from .timing import PACKAGES, jobs, run_job

    if not names:
        print("\n".join([f"{name:<24} {job.shown}" for name, job in jobs().items()] + [PACKAGES]))
    status = 0
    for name in names:
        print(f"{name} …", file=sys.stderr)
        try:
            measured = run_job(name)
        except UsageError as error:
            print(f"error: {error}", file=sys.stderr)
            status = 2
        else:
            path = results.merge("performance", "commands", {name: measured})
            print(f"{name}: {measured.get('seconds', '–')} s, wrote {path}")
    return status


def _main_job(folder: Path) -> tuple[str, dict[str, Any]]:
    from .main_job import main_job

    return "make figures", main_job(folder)


def _noise(path: Path) -> tuple[str, dict[str, Any]]:
    command = [sys.executable, "-m", "analysis.noise", "--read", str(path), "--json", "--quiet"]
    measured = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    kept = [{name: row[name] for name in _NOISE} for row in measured["measurements"] if row["estimator"] == "NSR"]
    return "make noise", {"measurements": kept, "crossings": measured["crossings"]}


def _false_alarms(folder: Path) -> tuple[str, dict[str, Any]]:
    from .false_alarms import false_alarms

    return f"python -m docs.generators.measure false_alarms {folder.name}", false_alarms(folder)


def _offline(folder: Path) -> tuple[str, dict[str, Any]]:
    from .offline_costs import offline_costs

    return f"python -m docs.generators.measure offline {folder.name}", offline_costs(folder)


def _smollm2(folder: Path) -> tuple[str, dict[str, Any]]:
    import shutil

    from .smollm2 import FIGURES, TASKS, smollm2
    from .smollm2_figure import write as write_figure

    figures = results.FOLDER.parents[1] / "figures"
    data = smollm2(folder)
    for source, name in FIGURES.items():
        shutil.copyfile(folder / source, figures / name)
    for task in TASKS:
        write_figure(folder / f"smollm2_{task}", figures / f"smollm2_{task}.png")
    return f"python -m docs.generators.measure smollm2 {folder.name}", data


def _real_models(folder: Path) -> tuple[str, dict[str, Any]]:
    from .real_model_peaks import measure

    return f"python -m docs.generators.measure real_models {folder.name}", measure(folder)


def _bases() -> tuple[str, dict[str, Any]]:
    from rich.console import Console

    from .bases_page import measure

    with Console(stderr=True).status("bases") as status:
        return "python -m docs.generators.measure bases", measure(status.update)


def _trl() -> tuple[str, dict[str, Any]]:
    from .trl_runs import measure

    return "python -m docs.generators.measure trl", measure(lambda line: print(line, file=sys.stderr))


def _full_scale() -> tuple[str, dict[str, Any]]:
    from .full_scale import measure

    return "python -m docs.generators.measure full_scale", measure(lambda line: print(line, file=sys.stderr))


def _verl() -> tuple[str, dict[str, Any]]:
    from .verl_runs import measure

    return "python -m docs.generators.measure verl", measure(lambda line: print(line, file=sys.stderr))


def _token_statistics() -> tuple[str, dict[str, Any]]:
    from .token_statistics_page import measure

    return "python -m docs.generators.measure token_statistics", measure(results.read("token_statistics"))


_FROM_SOURCE: dict[str, Callable[[Path], Any]] = {
    "main_job": _main_job,
    "noise": _noise,
    "false_alarms": _false_alarms,
    "benchmarks": benchmarks,
    "offline": _offline,
    "smollm2": _smollm2,
    "real_models": _real_models,
}
_MEASURES: dict[str, Callable[[], tuple[str, dict[str, Any]]]] = {
    "bases": _bases,
    "full_scale": _full_scale,
    "token_statistics": _token_statistics,
    "trl": _trl,
    "verl": _verl,
}


if __name__ == "__main__":
    sys.exit(main())
