r"""Prompts and answers in verl's layout, with the chat messages of the paper's fork.

    python recipes/full_scale/prepare_data.py TianHongZXY/MATH --split train --out data/math/train.parquet
    python recipes/full_scale/prepare_data.py TianHongZXY/MATH --split test --out data/math/test.parquet
    python recipes/full_scale/prepare_data.py TianHongZXY/AIME2025 --split test --out data/aime2025/test.parquet
    python recipes/full_scale/prepare_data.py TianHongZXY/amc23 --split test --out data/amc23/test.parquet

SOURCE is a data set on the Hugging Face Hub, a folder of `save_to_disk`, or a file (Parquet, JSON Lines, JSON, CSV). A
row has one of these layouts:

    problem, answer                                 AIME, AMC
    problem, solution                               MATH: the answer is in the last \boxed{} of the solution
    prompt, reward_model.ground_truth               of the paper's fork: target, and solution where it has one

The user message is the problem, a line break, and "Please reason step by step, and put your final answer within
\boxed{}."; the system message is "You are a helpful assistant.". Rows without an answer are left out. math-verify reads
every answer once, since an answer that it cannot read is correct only where a response repeats it to the letter.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from analysis.common.command import command_line, run_command
from analysis.errors import UsageError
from toy_models.table_files import raw_rows
from toy_models.tasks.dataset_task import dataset_rows
from toy_models.verifiers.math_verify_pool import MathVerify, last_boxed
from toy_models.verifiers.verifier import Case

SYSTEM = "You are a helpful assistant."
INSTRUCTION = "\nPlease reason step by step, and put your final answer within \\boxed{}."
_UNBRACED = re.compile(r"\\boxed\s+([^\s${}]+?)[.,]?(?=[\s$]|\Z)")  # \boxed 2
_OTHER_NUMBER = r"\boxed{-31415926535}"  # a response that is the answer of no problem
_KEPT = ("level", "type")  # columns of MATH that go along


@dataclass(frozen=True)
class Problem:
    """One row of the source.

    Attributes:
        question: the problem, without template.
        answer: the reference answer.
        more: further columns.
    """

    question: str
    answer: str
    more: dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, 2 for an invalid request, 1 for a fault."""
    parser = argparse.ArgumentParser(
        prog="prepare_data.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", metavar="SOURCE", help="a data set on the Hub, a folder of save_to_disk, or a file")
    parser.add_argument("--split", default="train", help="split of a data set; also noted in each row (train)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the Parquet file to write")
    parser.add_argument("--name", metavar="NAME", help="data_source of each row; unset: SOURCE")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes that read answers (1)")
    parser.add_argument("--no-check", action="store_true", help="do not let math-verify read the answers")
    arguments = parser.parse_args(argv)
    return run_command(lambda: _run(arguments), again=command_line("python recipes/full_scale/prepare_data.py", argv))


def _run(arguments: argparse.Namespace) -> int:
    if arguments.workers < 1:
        raise UsageError(f"--workers: expected a number of processes ≥ 1, got {arguments.workers}")
    if arguments.out.suffix != ".parquet":
        raise UsageError(
            f"--out: expected a file that ends in .parquet, got {arguments.out}; verl reads its kind there"
        )
    rows = source_rows(arguments.source, arguments.split)
    problems: list[tuple[int, Problem]] = []
    for index, (where, row) in enumerate(rows):
        if (found := problem(row, where)) is not None:
            problems.append((index, found))
    if not problems:
        raise UsageError(f"{arguments.source}: expected problems with an answer, got none in {len(rows)} rows")
    unread = [] if arguments.no_check else unreadable([found for _, found in problems], arguments.workers)
    write(arguments.out, problems, arguments.name or arguments.source, arguments.split)
    repeated = sum(count - 1 for count in Counter(found.question for _, found in problems).values())
    print(f"{arguments.out}: {len(problems)} prompts of {len(rows)} rows")
    print(f"left out, without an answer: {len(rows) - len(problems)}")
    print(f"questions that came before: {repeated}")
    if not arguments.no_check:
        print(f"answers that math-verify cannot read: {len(unread)}")
        for found in unread[:5]:
            print(f"    {found.answer!r}  of  {found.question[:80]!r}")
    return 0


def source_rows(source: str, split: str) -> Sequence[tuple[Any, Mapping[str, Any]]]:
    """The place and the columns of each row.

    Raises:
        UsageError: the file or the data set cannot be read, or has no such split.
    """
    try:
        if Path(source).expanduser().is_file():
            return raw_rows(Path(source).expanduser())
        loaded = dataset_rows(source, {}, {"train": split})["train"]
    except ValueError as error:
        raise UsageError(f"SOURCE: {error}") from error
    return [(row["where"], row["row"]) for row in loaded[:]]


def problem(row: Mapping[str, Any], where: Any = "row") -> Problem | None:
    r"""The question and the answer of a row; None where its solution has no \boxed answer.

    >>> problem({"problem": "1+1?", "solution": r"It is $\boxed 2$.", "level": "Level 1"})
    Problem(question='1+1?', answer='2', more={'level': 'Level 1'})

    Raises:
        UsageError: columns of another layout.
    """
    more = {name: str(row[name]) for name in _KEPT if row.get(name) is not None}
    truth = (row.get("reward_model") or {}).get("ground_truth")
    if "problem" in row and (row.get("answer") is not None or row.get("solution") is not None):
        question, answer, solution = row["problem"], row.get("answer"), row.get("solution")
    elif isinstance(truth, Mapping) and row.get("prompt"):
        question, answer, solution = row["prompt"][-1]["content"], truth.get("target"), truth.get("solution")
        if solution is not None:  # the fork's target has lost words and spaces of the answer
            answer = boxed_answer(solution) or answer
    else:
        raise UsageError(
            f"{where}: expected problem with answer or solution, or prompt with reward_model.ground_truth.target, got "
            f"the columns {', '.join(row)}; rename them"
        )
    answer = boxed_answer(solution) if answer is None else str(answer)
    return Problem(str(question), answer, more) if answer else None


def boxed_answer(solution: str) -> str | None:
    r"""The content of the last \boxed{…} of a solution, also without braces; None where there is none.

    >>> boxed_answer(r"so $\boxed{\frac{1}{2}}$"), boxed_answer(r"is $\boxed 9.$"), boxed_answer("9")
    ('\\frac{1}{2}', '9', None)
    """
    inner = last_boxed(solution)
    if inner is None and (bare := _UNBRACED.findall(solution)):
        inner = bare[-1]
    return inner.strip() if inner else None


def unreadable(problems: Sequence[Problem], workers: int = 1) -> list[Problem]:
    """Those whose answer math-verify cannot read."""
    try:
        verifier = MathVerify(workers=workers)
    except ValueError as error:
        raise UsageError(f"{error}; or leave the check out with --no-check") from error
    verdicts = verifier.judge([Case("", _OTHER_NUMBER, found.answer) for found in problems])
    verifier.close()
    return [
        found
        for found, verdict in zip(problems, verdicts, strict=True)
        if verdict.reason not in ("correct", "wrong answer")
    ]


def write(path: Path, problems: Sequence[tuple[int, Problem]], name: str, split: str) -> None:
    """The rows in verl's layout, by way of a temporary file."""
    rows = [
        {
            "data_source": name,
            "prompt": [
                {"role": "system", "content": SYSTEM},
                {"role": "user", "content": found.question + INSTRUCTION},
            ],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": found.answer},
            "extra_info": {"split": split, "index": index, **found.more},
        }
        for index, found in problems
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".parquet.tmp")
    pq.write_table(pa.Table.from_pylist(rows), temporary)
    temporary.replace(path)


if __name__ == "__main__":
    sys.exit(main())
