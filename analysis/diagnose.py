"""`python -m analysis.diagnose`: what is wrong with a run, in sentences, with an exit status for pipelines."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from .common.command import command_line, run_command, say
from .errors import UsageError
from .records.shared_storage import folder_or_url

if TYPE_CHECKING:
    from .diagnosis import Diagnosis

__all__ = ["main"]

_ABOUT = """\
Say what carried the updates of a run and what its records show to be wrong: a verifier that never says yes, dead
groups, a clip that takes one sign away, a normaliser by length, a sampler of another temperature, and more. Works on
training runs, runs of attach, traces of recorded rollouts, experiments (each run in turn), and bare files of rollouts
(what needs no model). docs/how_to/diagnose.md explains every finding and its thresholds."""

_MANUAL = """\
examples:
  python -m analysis.diagnose runs/mine                          all findings, the worst first
  python -m analysis.diagnose rollouts.jsonl                     verdicts, groups, duplicates, rewards
  python -m analysis.diagnose runs/traced --objective grpo       assume weights where none were measured
  python -m analysis.diagnose runs/mine --fail-on alarm          in a pipeline
  python -m analysis.diagnose runs/mine --fail-on verifier,dead-groups

exit status:
  0    done; with --fail-on no finding meets it
  1    a finding meets --fail-on, or a fault of the program
  2    invalid request; with --fail-on NAME also a finding that is not recorded, and so cannot be judged
  130  stopped by Ctrl-C or SIGTERM
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.diagnose",
        description=_ABOUT,
        epilog=_MANUAL,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "source",
        type=folder_or_url,
        metavar="RUN|ROLLOUTS",
        help="folder of a run or an experiment (or its URL), or a file of rollouts",
    )
    add("--objective", metavar="NAME", help="assume the weights of this objective instead of measured ones")
    add(
        "--columns",
        metavar="ROLE=NAME,…",
        help="of a file of rollouts: columns of other names than the known ones, as of `analysis.trace`",
    )
    add("--fail-on", metavar="notice|alarm|NAME,…", help="exit status 1 if such a finding is there")
    add("--json", action="store_true", help="all findings as JSON on standard output")
    arguments = parser.parse_args(argv)
    return run_command(lambda: _run(arguments), again=command_line("python -m analysis.diagnose", argv))


def _run(arguments: argparse.Namespace) -> int:
    conditions = [part.strip() for part in (arguments.fail_on or "").split(",") if part.strip()]
    if arguments.fail_on is not None and not conditions:
        raise UsageError("--fail-on: expected notice, alarm or names of findings, got nothing; leave the option out")
    diagnoses = _diagnoses(arguments)
    failing = [(one, finding) for one in diagnoses for finding in one.failing(conditions)]
    if arguments.json:
        data = [one.to_json() for one in diagnoses]
        print(json.dumps(data[0] if len(data) == 1 else data, indent=1, ensure_ascii=False, allow_nan=False))
    else:
        for one in diagnoses:
            _show(one)
    if failing:
        named = ", ".join(f"{finding.name} ({finding.severity}) in {one.source}" for one, finding in failing)
        return say(f"--fail-on {arguments.fail_on}: {named}", 1)
    return 0


def _diagnoses(arguments: argparse.Namespace) -> list[Diagnosis]:
    """One of a run or a file; of an experiment one for each run."""
    from .diagnosis import diagnose
    from .offline.columns import parse_mapping
    from .records.folders import EXPERIMENT_FILE
    from .records.shared_storage import is_url

    columns = None if arguments.columns is None else parse_mapping(arguments.columns)
    source = arguments.source
    if is_url(source) or (source / EXPERIMENT_FILE).exists():
        from .records import load_trace
        from .report.sources import runs_of

        runs = runs_of(load_trace(source))
        if not runs:
            raise UsageError(f"source: expected an experiment with records, got {source}, in which none are committed")
        return [diagnose(run, objective=arguments.objective, columns=columns) for run in runs]
    return [diagnose(source, objective=arguments.objective, columns=columns)]


def _show(diagnosis: Diagnosis) -> None:
    """The table of findings, the tokens that carried most in their context, then a sentence for each finding."""
    from rich.console import Console
    from rich.markup import escape

    console = Console()
    table = diagnosis.table()
    console.print(replace(table, title=escape(table.title)).to_rich(console.width))
    tokens = diagnosis.token_table()
    if tokens is not None:
        rows = tuple(tuple(escape(str(cell)) for cell in row) for row in tokens.rows)
        console.print(replace(tokens, rows=rows).to_rich(console.width))
    console.print(diagnosis.to_text(), highlight=False, markup=False)


if __name__ == "__main__":
    sys.exit(main())
