"""`python -m toy_models.verifiers FILE`: does a verifier accept the worked solutions of a file?"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..table_files import read_table
from .accepted_answers import accepted_answer, judge_accepted
from .built_in import get_verifier
from .scores import THRESHOLD, scored_verdict
from .verifier import Case, VerifierError

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 2 for an invalid request, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="python -m toy_models.verifiers",
        description="Judge the responses in a file by its answers. Prints the fraction that is accepted, the reasons "
        "for rejecting the others, and the time per response. Reference solutions should nearly always be accepted; "
        "with --shuffle, which gives each response the answer of another row, hardly ever.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("file", type=Path, metavar="FILE", help="JSON Lines or Parquet")
    add("--verifier", default="math", help="exact, math, file.py:function or package.module:function (default: math)")
    add(
        "--response-column",
        default="solution",
        metavar="NAME",
        help="(default: solution); a.b is the entry b of column a",
    )
    add("--answer-column", default="answer", metavar="NAME", help="(default: answer)")
    add("--prompt-column", metavar="NAME", help="for functions that use the prompt")
    add("--threshold", type=float, default=THRESHOLD, metavar="X", help="least score that is correct (default: 1)")
    add("--seconds", type=_at_least(1), metavar="N", help="processor time of one call of a function (default: 60)")
    add("--errors", choices=("stop", "zero"), default="stop", help="what a function that fails does (default: stop)")
    add("--workers", type=_at_least(1), default=1, metavar="N", help="processes of the verifier math (default: 1)")
    add("--limit", type=_at_least(0), metavar="N", help="judge the first N rows only")
    add("--shuffle", action="store_true", help="give each response the next different answer in the file")
    add("--show", type=_at_least(0), default=5, metavar="N", help="examples of each reason (default: 5)")
    arguments = parser.parse_args(argv)
    try:
        return _measure(arguments)
    except (ValueError, VerifierError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _measure(arguments: argparse.Namespace) -> int:
    options = {"seconds": arguments.seconds, "errors": arguments.errors}
    verifier = get_verifier(arguments.verifier, workers=arguments.workers, **options)
    columns = [arguments.response_column, arguments.answer_column, *filter(None, [arguments.prompt_column])]
    further = getattr(verifier, "required", ()), getattr(verifier, "optional", ())
    rows = read_table(arguments.file, [*columns, *further[0]], further[1])[: arguments.limit]
    if not rows:
        raise ValueError(
            f"{arguments.file}: expected at least one row to judge, got none; add rows with the columns "
            f"{' and '.join(columns)}, or raise --limit"
        )
    references = [row.values[arguments.answer_column] for row in rows]
    if arguments.shuffle:
        references = _next_different(references)
    cases = []
    for row, reference in zip(rows, references, strict=True):
        name = arguments.prompt_column
        cases.append(
            Case(
                row.text(name) if name else "",
                row.text(arguments.response_column),
                accepted_answer(reference),
                given=row.values[name] if name else None,
                reference=reference,
                columns=row.values | {arguments.answer_column: reference},
            )
        )
    if arguments.verifier == "math":
        verifier.judge(cases[:1] * 2)  # starts its processes
    started, verdicts = time.perf_counter(), []
    for low in range(0, len(cases), 256):
        try:
            judged = judge_accepted(verifier, cases[low : low + 256])
        except VerifierError as error:
            where = "" if error.index is None else f"{rows[low + error.index].where}: "
            raise VerifierError(f"{where}{error}") from error
        verdicts += [scored_verdict(verdict, arguments.threshold) for verdict in judged]
        if sys.stderr.isatty():
            print(f"\r{len(verdicts)} of {len(cases)}", end="", file=sys.stderr)
    seconds = time.perf_counter() - started
    if sys.stderr.isatty():
        print("\r", end="", file=sys.stderr)
    accepted = sum(verdict.correct for verdict in verdicts)
    print(f"accepted  {accepted} of {len(cases)} ({accepted / len(cases):.2%})")
    print(f"time      {1e3 * seconds / len(cases):.2f} ms per response, {arguments.workers} worker(s)")
    print(f"verifier  {verifier.identity}")
    for reason, count in Counter(verdict.reason for verdict in verdicts).most_common():
        print(f"{reason}: {count}")
        if reason != "correct" or arguments.shuffle:
            shown = [case for case, verdict in zip(cases, verdicts, strict=True) if verdict.reason == reason]
            for case in shown[: arguments.show]:
                text = f"    {case.answer!r}  against  …{case.response[-100:]!r}"
                print(text.encode(sys.stdout.encoding or "utf-8", "backslashreplace").decode(sys.stdout.encoding))
    return 0


def _next_different(references: list[Any]) -> list[Any]:
    """For each reference answer the next one, cyclically, that reads differently."""
    texts = [accepted_answer(reference) for reference in references]
    places = [
        next((j % len(texts) for j in range(i + 1, i + len(texts)) if texts[j % len(texts)] != text), i)
        for i, text in enumerate(texts)
    ]
    return [references[place] for place in places]


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"expected an integer ≥ {least}, got {text!r}")
        return int(text)

    return number


if __name__ == "__main__":
    sys.exit(main())
