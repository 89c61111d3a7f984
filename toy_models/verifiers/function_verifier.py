"""A Python function as a verifier: ours, or a reward function of TRL, verl or verifiers (`conventions`)."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from .. import user_functions
from .scores import scored_verdict
from .verifier import NOT_JUDGED, VERIFIERS, Case, Verdict, VerifierError
from .worker_pool import Failure, StartError, WorkerPool

__all__ = ["FunctionVerifier", "source_file"]

_SHOWN = 200  # characters of a prompt or response in a message
_WALL = 10  # wall-clock limit of a call over the limit of processor time
_START_SECONDS = 600.0  # a function may load a model when it is imported
_ALL_ENDED = 8  # so many first calls without a verdict are the function's fault, not that of the responses
_BATCH = 64  # responses in one call of a function that scores many


class FunctionVerifier:
    """A Python function as a verifier, such as `function(prompt, response, answer)`.

    It returns whether the response is correct, a number (1 or more is correct, unless a task sets a threshold), or a
    `Verdict` with a reason. Reward functions of TRL, verl and verifiers are called as these libraries call them
    (`conventions`), and any of them may be `async`.

    It runs in a child process of its own, which is started here, put back after each call (`function_worker`), and
    replaced where a call ends it. A response is wrong, with the reason in words, where the call exits, is ended by a
    signal, or runs out of memory or stack. A call that raises, gives no finite score, or takes more than its limit of
    processor time (or ten times as much of waiting) is an error. What the call prints is kept out of the output of this
    process.

    Args:
        target: The function as "file.py:name" or "package.module:name".
        seconds: Processor time of one call; unset: the attribute `seconds` of the function, else a minute.
        errors: What an error does: "stop" raises; "zero": the response is wrong with the score 0 and a reason that
            begins with `NOT_JUDGED`.

    Attributes:
        convention: "own", "trl", "verl" or "verifiers".
        required: Columns of the row that the function cannot be called without.
        optional: Columns that it takes where the row has them; None for every column.

    Raises:
        ValueError: The file, module or function does not exist, it cannot be imported, or its signature is not known.
    """

    def __init__(self, target: str, *, seconds: int | None = None, errors: str = "stop") -> None:
        self.target, self.seconds, self.errors = target, seconds, errors
        path = source_file(target)
        arguments = [target, *([] if seconds is None else [str(seconds)])]
        self._pool = WorkerPool(f"{__package__}.function_worker", arguments, 1, 0.0, start_seconds=_START_SECONDS)
        try:
            ready = self._pool.start()
        except StartError as error:
            raise ValueError(str(error) if error.told else f"verifier: {path} cannot be imported: {error}") from None
        self._seconds, self._batch = ready["seconds"], ready["batch"]
        self._pool.seconds = self._seconds * _WALL
        self.convention: str = ready["convention"]
        self.required = tuple(ready["columns"]["required"])
        self.optional = None if (optional := ready["columns"]["optional"]) is None else tuple(optional)
        self.identity: dict[str, Any] = {"name": target, "sha256": _digest(path)}
        helpers = user_functions.helper_files(path)
        if helpers:
            folder = path.resolve().parent
            self.identity["helpers"] = {os.path.relpath(file, folder): _digest(file) for file in helpers}
        self._judged, self._ended = 0, 0

    def __reduce__(self) -> tuple[Any, ...]:
        # the copy starts a process of its own
        return partial(FunctionVerifier, seconds=self.seconds, errors=self.errors), (self.target,)

    def judge(self, cases: Sequence[Case]) -> list[Verdict]:
        """One verdict for each case.

        A function that scores many responses at once gets up to 64 in a call. Where such a call fails, it is asked for
        each of them alone, so that the one at fault is known.

        Raises:
            VerifierError: The function fails, unless errors count as zero; or each of its first eight calls has ended
                its process, which is then a fault of its own.
        """
        size = _BATCH if self._batch else 1
        verdicts: list[Verdict] = []
        for low in range(0, len(cases), size):
            part = list(cases[low : low + size])
            answer = self._ask(part, low) if len(part) > 1 else {}
            if "values" in answer:
                self._judged += len(part)
                verdicts += [_verdict(value) for value in answer["values"]]
            else:
                verdicts += [self._judge(case, low + index) for index, case in enumerate(part)]
        return verdicts

    def close(self) -> None:
        """End its process; it is started again when needed."""
        self._pool.close()

    def _ask(self, cases: Sequence[Case], index: int) -> dict[str, Any]:
        try:
            (answer,) = self._pool.ask([[self._request(case, index + at) for at, case in enumerate(cases)]])
        except StartError as error:
            raise VerifierError(f"verifier {self.target} cannot be started again: {error}", index) from error
        if not isinstance(answer, Failure):
            return dict(answer)
        if answer.reason == "timeout":
            return {
                "error": f": expected an answer within {self._seconds} s of processor time (or {self._pool.seconds} s "
                "of waiting), got none; raise task.verifier_seconds or the attribute seconds of the function"
            }
        return {"ended": answer.reason}

    def _judge(self, case: Case, index: int) -> Verdict:
        answer = self._ask([case], index)
        if "error" in answer:
            if self.errors == "zero":
                return Verdict(False, f"{NOT_JUDGED}the verifier{answer['error']}", 0.0)
            raise VerifierError(f"verifier {self.target}{answer['error']}; {_described(case)}", index)
        self._judged += 1
        if "values" in answer:
            return _verdict(answer["values"][0])
        self._ended += 1
        if self._ended == self._judged == _ALL_ENDED:
            raise VerifierError(
                f"verifier {self.target}: expected a verdict, but each of its first {_ALL_ENDED} calls ended without "
                f"one, the last as {answer['ended']!r}; {_described(case)}",
                index,
            )
        return Verdict(False, answer["ended"])

    def _request(self, case: Case, index: int) -> dict[str, Any]:
        """The case as a JSON object, with the columns that the function takes."""
        reference = case.answer if case.reference is None else case.reference
        row, columns = {"answer": reference, **case.columns}, {}
        for name in (*self.required, *(row if self.optional is None else self.optional)):
            if name in row:
                columns[name] = row[name]
            elif name in self.required:
                raise VerifierError(
                    f"verifier {self.target}: it needs the column {name!r}, got a row with "
                    f"{', '.join(row)}; add the column, or give the parameter a default",
                    index,
                )
        for name, value in {**columns, "prompt": case.given, "answer": reference}.items():
            try:
                json.dumps(value)
            except (TypeError, ValueError) as error:
                raise VerifierError(
                    f"verifier {self.target}: the column {name!r} cannot be passed to it ({error}); write it as text, "
                    "numbers, lists or objects",
                    index,
                ) from error
        return {
            "prompt": case.prompt,
            "response": case.response,
            "answer": case.answer,
            "given": case.prompt if case.given is None else case.given,
            "reference": reference,
            "columns": columns,
            "token_ids": [int(i) for i in case.token_ids],
        }


def source_file(target: str) -> Path:
    """The file that holds the function of a verifier.

    Args:
        target: The function as "file.py:name" or "package.module:name".

    Raises:
        ValueError: The target has another form, or its file or module does not exist.
    """
    return user_functions.source_file(target, "verifier", VERIFIERS)


def _verdict(value: dict[str, Any]) -> Verdict:
    return scored_verdict(Verdict(value["correct"], value["reason"], value["score"]))


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _described(case: Case) -> str:
    prompt, response = (text if len(text) <= _SHOWN else text[:_SHOWN] + " …" for text in (case.prompt, case.response))
    return f"prompt {prompt!r}, response {response!r}, answer {case.answer!r}"
