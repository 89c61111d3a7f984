"""Reference answers as files hold them: a text, a number, or a list of accepted answers of which any is right.

An answer is text throughout. A list keeps its texts beside its JSON, so that a built-in verifier is asked about each of
them; a function of the user's own is handed the JSON, since only it knows what the list means.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from .built_in import VERIFIERS
from .verifier import Case, Verdict, Verifier, VerifierError

__all__ = ["AcceptedAnswers", "accepted_answer", "judge_accepted"]


class AcceptedAnswers(str):
    """Several answers of which any is right, as the JSON list of them.

    Attributes:
        texts: The answers.
    """

    __slots__ = ("texts",)
    texts: tuple[str, ...]

    def __new__(cls, texts: Sequence[str]) -> AcceptedAnswers:
        answers = super().__new__(cls, json.dumps(list(texts), ensure_ascii=False))
        answers.texts = tuple(texts)
        return answers

    def __reduce__(self) -> tuple[Any, ...]:
        return AcceptedAnswers, (self.texts,)


class AnswerObject(str):
    """An answer that is an object, as JSON, which no built-in verifier can compare."""

    __slots__ = ()


def accepted_answer(value: Any) -> str:
    """A reference answer as text: strings as they are, a list as `AcceptedAnswers`, anything else as JSON.

    >>> accepted_answer(["2", "two"]), accepted_answer(["2", "two"]).texts, accepted_answer(5)
    ('["2", "two"]', ('2', 'two'), '5')
    """
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value:
        return AcceptedAnswers([str(accepted_answer(entry)) for entry in value])
    text = json.dumps(value, ensure_ascii=False)
    return AnswerObject(text) if isinstance(value, Mapping) else text


def judge_accepted(verifier: Verifier, cases: Sequence[Case]) -> list[Verdict]:
    """One verdict for each case; of several accepted answers the first that is right decides, else the first.

    Raises:
        VerifierError: The verifier fails, or a built-in one is asked to compare an object; its index is that of the
            case.
    """
    built_in = verifier.identity.get("name") in VERIFIERS
    asked: list[Case] = []
    owners: list[int] = []
    for index, case in enumerate(cases):
        if built_in and isinstance(case.answer, AnswerObject):
            raise VerifierError(
                "answer: expected a text, a number or a list of accepted answers for the verifier "
                f"{verifier.identity['name']}, got the object {case.answer}; name the entry that holds the answer, "
                "such as COLUMN.target",
                index,
            )
        texts = case.answer.texts if isinstance(case.answer, AcceptedAnswers) and built_in else (case.answer,)
        asked += [case._replace(answer=text) for text in texts]
        owners += [index] * len(texts)
    try:
        verdicts = verifier.judge(asked)
    except VerifierError as error:
        if error.index is None:
            raise
        raise VerifierError(str(error), owners[error.index]) from error
    best: list[Verdict | None] = [None] * len(cases)
    for index, verdict in zip(owners, verdicts, strict=True):
        known = best[index]
        if known is None or (verdict.correct and not known.correct):
            best[index] = verdict
    return [verdict for verdict in best if verdict is not None]
