"""`python -m toy_models.verifiers FILE`: does a verifier accept a file's own worked solutions?"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ..table_files import read_table
from .built_in import get_verifier
from .verifier import Case

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, or 2 for a request that cannot be met as stated."""
    parser = argparse.ArgumentParser(
        prog="python -m toy_models.verifiers",
        description="Judge the responses of a file by its answers: the share accepted, the reasons of the others and "
        "the time a response. Reference solutions should be accepted nearly always; with --shuffle, which gives each "
        "response another row's answer, hardly ever.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("file", type=Path, metavar="FILE", help="JSON lines or Parquet; a column within a column is written a.b")
    add("--verifier", default="math", help="exact, math, file.py:function or package.module:function (default: math)")
    add("--response-column", default="solution", metavar="NAME", help="(default: solution)")
    add("--answer-column", default="answer", metavar="NAME", help="(default: answer)")
    add("--prompt-column", metavar="NAME", help="for functions that look at the prompt")
    add("--workers", type=int, default=1, metavar="N", help="processes of the verifier math (default: 1)")
    add("--limit", type=int, metavar="N", help="the first N rows only")
    add("--shuffle", action="store_true", help="give each response the answer of the next row that has another one")
    add("--show", type=int, default=5, metavar="N", help="examples of each reason (default: 5)")
    arguments = parser.parse_args(argv)
    try:
        return _measure(arguments)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _measure(arguments: argparse.Namespace) -> int:
    columns = [arguments.response_column, arguments.answer_column, *filter(None, [arguments.prompt_column])]
    rows = read_table(arguments.file, columns)[: arguments.limit]
    answers = [row.text(arguments.answer_column) for row in rows]
    if arguments.shuffle:
        answers = _of_others(answers)
    prompts = [row.text(arguments.prompt_column) if arguments.prompt_column else "" for row in rows]
    responses = [row.text(arguments.response_column) for row in rows]
    cases = [Case(*of) for of in zip(prompts, responses, answers, strict=True)]
    verifier = get_verifier(arguments.verifier, workers=arguments.workers)
    verifier.judge(cases[:1] * 2)  # its processes start
    started, verdicts = time.perf_counter(), []
    for low in range(0, len(cases), 256):
        verdicts += verifier.judge(cases[low : low + 256])
        if sys.stderr.isatty():
            print(f"\r{len(verdicts)} of {len(cases)}", end="", file=sys.stderr)
    seconds = time.perf_counter() - started
    if sys.stderr.isatty():
        print("\r", end="", file=sys.stderr)
    accepted = sum(verdict.correct for verdict in verdicts)
    print(f"accepted  {accepted} of {len(cases)} ({accepted / len(cases):.2%})")
    print(f"time      {1e3 * seconds / len(cases):.2f} ms a response, {arguments.workers} worker(s)")
    print(f"verifier  {verifier.identity}")
    for reason, count in Counter(verdict.reason for verdict in verdicts).most_common():
        print(f"{reason}: {count}")
        if reason != "correct" or arguments.shuffle:
            shown = [case for case, verdict in zip(cases, verdicts, strict=True) if verdict.reason == reason]
            for case in shown[: arguments.show]:
                print(f"    {case.answer!r}  against  …{case.response[-100:]!r}")
    return 0


def _of_others(answers: list[str]) -> list[str]:
    """For each row the answer of the next one that differs from its own."""
    doubled = answers * 2
    return [next((other for other in doubled[i + 1 :] if other != own), own) for i, own in enumerate(answers)]


if __name__ == "__main__":
    sys.exit(main())
