"""`python -m analysis.claims`: the ledger, every claim decided by a command."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..common.command import command_line, run_command
from ..errors import UsageError

if TYPE_CHECKING:
    from ..common.tables import Table

__all__ = ["main"]

_ABOUT = """\
Decide the claims of "The Surprising Effectiveness of Negative Reinforcement in LLM Reasoning" (arXiv 2506.01347) and
of the papers that followed it. Each claim has a statistic, a margin and a rule that are part of the code; the verdict
is holds, fails, depends (with on what) or undecided (with what was missing)."""

_MANUAL = """\
examples:
  python -m analysis.claims --list                 all claims, with what each costs
  python -m analysis.claims --run G3,P2            decide these
  python -m analysis.claims --quick                the cheapest ones: at most 5 minutes on 2 cores
  python -m analysis.claims --full                 everything; the same command continues after an interruption
  python -m analysis.claims --show P2              one claim with its numbers and its figure
  python -m analysis.claims --on runs/mine         judge your own runs by every claim that their records can decide

exit status:
  0  done      1  a fault of the program      2  invalid request      130  stopped by Ctrl-C or SIGTERM
"""

LEDGER = Path("runs/ledger")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    arguments = _parser().parse_args(argv)
    command = command_line("python -m analysis.claims", argv)
    return run_command(lambda: _run(arguments, command), again=command, folder=arguments.out)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.claims",
        description=_ABOUT,
        epilog=_MANUAL,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--list", action="store_true", help="the claims as a table, with the cost of each")
    what.add_argument("--run", metavar="IDS", help="decide these claims, separated by commas")
    what.add_argument(
        "--quick",
        action="store_true",
        help="decide what fits into 5 minutes on 2 cores, claims that need no training run first",
    )
    what.add_argument("--full", action="store_true", help="decide all claims")
    what.add_argument(
        "--show", metavar="ID", help="one claim: rule, verdict and numbers; its figure is drawn into a file"
    )
    what.add_argument("--on", type=Path, metavar="RUN", help="judge an experiment or a run of your own")
    add = parser.add_argument
    add("--out", type=Path, default=LEDGER, metavar="DIR", help="folder of runs and decisions (default: %(default)s)")
    add("--figures", type=Path, metavar="DIR", help="write ledger.md, ledger.json and the figures there")
    add("--executor", default="local", metavar="NAME", help="where runs are trained: local or ray (default: local)")
    add("--workers", type=int, metavar="N", help="training runs at a time (default: as many as cores)")
    add("--json", action="store_true", help="what is printed as JSON")
    add("--quiet", action="store_true", help="no progress on standard error")
    return parser


def _run(arguments: argparse.Namespace, command: str) -> None:
    if arguments.workers is not None and arguments.workers < 1:
        raise UsageError(f"--workers: expected 1 or more, got {arguments.workers}; leave it out for one on each core")
    if arguments.list:
        _list(arguments)
    elif arguments.show is not None:
        _show(arguments)
    elif arguments.on is not None:
        _judge(arguments)
    else:
        _decide(arguments, command)


def _list(arguments: argparse.Namespace) -> None:
    from .registry import all_claims
    from .results import verdicts_of
    from .tables import claims_table

    claims = list(all_claims().values())
    verdicts = verdicts_of(claims, arguments.out)
    _print(claims_table(claims, verdicts), as_json=arguments.json)


def _show(arguments: argparse.Namespace) -> None:
    from .pages import claim_page
    from .registry import chosen
    from .results import committed_or_made, draw_claim

    claims = chosen([arguments.show], option="--show")
    if not claims:
        raise UsageError("--show: expected the id of a claim, got none; python -m analysis.claims --list shows all")
    (claim,) = claims
    entry, origin = committed_or_made(claim, arguments.out)
    if arguments.json:
        print(json.dumps(entry.to_json() if entry else {"id": claim.id}, indent=1, ensure_ascii=False))
        return
    print(claim_page(claim, entry, origin))
    if entry is not None:
        for path in draw_claim(claim, entry, arguments.figures or arguments.out / "figures"):
            print(f"\nfigure   {path}")


def _judge(arguments: argparse.Namespace) -> None:
    from .own_runs import judge
    from .tables import verdict_table

    claims, entries, skipped = judge(arguments.on)
    if arguments.json:
        table = verdict_table(claims, entries).to_json()
        decided = [entry.to_json() for entry in entries]
        print(json.dumps(table | {"entries": decided, "not_judged": skipped}, indent=1, ensure_ascii=False))
        return
    _print(verdict_table(claims, entries), as_json=False)
    for entry in entries:
        print(f"{entry.id}: {entry.decision.reason}")
        if entry.decision.missing:
            print(f"  What was missing: {entry.decision.missing}.")
    if skipped:
        print("\nNot judged:")
    for name, reason in skipped.items():
        print(f"  {name}: {reason}")


def _decide(arguments: argparse.Namespace, command: str) -> None:
    from .ledger import Ledger, results
    from .registry import all_claims, chosen, with_needed
    from .tables import verdict_table

    ledger = Ledger(arguments.out)
    left_out: dict[str, float] = {}
    if arguments.run is not None:
        claims = list(chosen(arguments.run.split(",")))
        if not claims:
            raise UsageError("--run: expected at least one id, got none; python -m analysis.claims --list shows all")
    elif arguments.full:
        claims = list(all_claims().values())
    else:
        from .quick import quick_claims

        claims, left_out = quick_claims(list(all_claims().values()), ledger)
    claims = with_needed(claims)
    entries = ledger.make(claims, executor=arguments.executor, workers=arguments.workers, quiet=arguments.quiet)
    if arguments.json:
        print(json.dumps(results(entries, command, claims), indent=1, ensure_ascii=False, allow_nan=False))
    else:
        _print(verdict_table(claims, entries), as_json=False)
        if left_out:
            print(f"left out {', '.join(left_out)}: they do not fit into the time of --quick; name them with --run")
        print(f"records  {shlex.quote(str(arguments.out))}")
    if arguments.figures is not None:
        from .results import write_ledger

        for path in write_ledger(list(all_claims().values()), entries, command, arguments.figures):
            if not arguments.json:
                print(f"wrote    {path}")


def _print(table: Table, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(table.to_json(), indent=1, ensure_ascii=False, allow_nan=False))
        return
    from rich.console import Console

    from .tables import for_terminal

    Console(highlight=False).print(for_terminal(table))


if __name__ == "__main__":
    sys.exit(main())
