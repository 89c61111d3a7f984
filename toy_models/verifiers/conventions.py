"""How functions of reward libraries are called, told apart by the names of their parameters.

our own    f(prompt, response, answer) -> True, False, a number or a `Verdict`; texts, by position
TRL        f(prompts, completions, **columns) -> list of numbers; by name, many responses at once
verl       f(data_source, solution_str, ground_truth, extra_info) -> number, or an object with the entry "score"
verifiers  f(completion, answer, …) -> number, any of prompt, completion, answer, info, state, task, parser by name; or
           f(task, trace), as the reward methods of its v1 tasks are

Any of them may be `async`. Further parameters are columns of the row by their name. Where a prompt is a list of chat
messages, completions of TRL and verifiers are lists of messages too, as these libraries have it.

Sources: TRL 1.16 `GRPOTrainer._calculate_rewards`; verl 0.9.1 `NaiveRewardManager.run_single`; verifiers (commit
a60a606) `legacy/rubrics/rubric.py` `_call_individual_reward_func` and `v1/task.py` `Task.score`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

__all__ = ["KNOWN_SIGNATURES", "Convention", "convention_of"]

KNOWN_SIGNATURES = (
    "f(prompt, response, answer)",
    "f(prompts, completions, **columns) of TRL",
    "f(data_source, solution_str, ground_truth, extra_info) of verl",
    "f(completion, answer, …) or f(task, trace) of verifiers",
)
_VERIFIERS = ("prompt", "completion", "answer", "info", "state", "task", "parser", "trace")
_OF_VERIFIERS_ALONE = {"completion", "state", "trace", "parser"}
_REFUSED = {
    "trainer_state": "the state of TRL's trainer, with which verdicts would change during training",
    "environments": "TRL's environments",
    "runtime": "a runtime of verifiers, in which tools run",
    "judge": "a judge of verifiers, another model",
    "reward_router_address": "verl's reward model",
}
_WORDS = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)

Request = Mapping[str, Any]


@dataclass(frozen=True)
class Convention:
    """How one function is called.

    Attributes:
        name: "own", "trl", "verl" or "verifiers".
        required: Columns of the row that it cannot be called without.
        optional: Columns that it takes where the row has them; None for every column.
        arguments: Makes the arguments (by position, by name) of one request, or for `batch` of several.
        batch: Whether one call scores many responses.
    """

    name: str
    required: tuple[str, ...]
    optional: tuple[str, ...] | None
    arguments: Callable[[Sequence[Request]], tuple[Sequence[Any], dict[str, Any]]]
    batch: bool = False


def convention_of(function: Callable[..., Any], target: str) -> Convention:
    """How a function is called, by the names of its parameters.

    Args:
        function: Any callable.
        target: Its name for messages.

    Raises:
        ValueError: Its signature is none of `KNOWN_SIGNATURES`, or it needs what only its own library has.

    >>> convention_of(lambda prompt, response, answer: True, "f").name
    'own'
    >>> convention_of(lambda completions, solution, **rest: [], "f").required
    ('solution',)
    """
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # of a built-in function it may not be known
        return Convention("own", (), (), _own_arguments)
    names = {name for name, parameter in parameters.items() if parameter.kind in _WORDS}
    needed = {name for name in names if parameters[name].default is inspect.Parameter.empty}
    for name in sorted(needed & _REFUSED.keys()):
        raise ValueError(f"verifier {target}: it needs {name}, {_REFUSED[name]}, which is not there; leave it out")
    everything = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    if names & {"completions", "completion_ids"}:
        given = {"prompts", "completions", "completion_ids", "log_extra", "log_metric", *_REFUSED}
        return _named("trl", _trl_arguments, names, needed, given, everything=everything, batch=True)
    if "solution_str" in names:
        given = {"solution_str", "ground_truth", "extra_info", *_REFUSED}
        return _named("verl", _verl_arguments, names, needed, given, also={"extra_info"})
    if names & _OF_VERIFIERS_ALONE:
        also = {"info", "task"} if names & {"info", "task", "state"} else set()
        every = everything or "trace" in names  # the task of v1 holds the whole row
        arguments = partial(_verifiers_arguments, v1="trace" in names)
        given = {*_VERIFIERS, *_REFUSED}
        return _named("verifiers", arguments, names, needed, given, also=also, everything=every, rest=everything)
    if not _takes(parameters, 3):
        listed = ", ".join(map(str, parameters.values())) or "no parameters"
        raise ValueError(
            f"verifier {target}: expected a signature such as {'; '.join(KNOWN_SIGNATURES)}; got ({listed})"
        )
    further = [name for name in list(parameters)[3:] if name in names]
    return _named("own", _own_arguments, set(further), needed & set(further), set())


def _named(
    convention: str,
    arguments: Callable[[Sequence[Request], frozenset[str] | None], tuple[Sequence[Any], dict[str, Any]]],
    names: set[str],
    needed: set[str],
    given: set[str],
    *,
    also: Collection[str] = (),
    everything: bool = False,
    batch: bool = False,
    rest: bool | None = None,
) -> Convention:
    """The convention of a function with these parameters.

    `given` come from the convention itself, some of them (`also`) from a column where the row has it. `everything`
    reads every column, `rest` says whether the function takes all of them by name, which follows from it where unset.
    """
    columns = names - given
    accepted = None if (everything if rest is None else rest) else frozenset(names)
    return Convention(
        convention,
        tuple(sorted(columns & needed)),
        None if everything else tuple(sorted({*(columns - needed), *also})),
        lambda requests: arguments(requests, accepted),
        batch,
    )


def _takes(parameters: Mapping[str, inspect.Parameter], count: int) -> bool:
    """Whether a function can be called with so many arguments by position; any further ones must be named."""
    kinds = [p.kind for p in parameters.values()]
    by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return inspect.Parameter.VAR_POSITIONAL in kinds or sum(kind in by_position for kind in kinds) >= count


def _kept(values: Mapping[str, Any], accepted: frozenset[str] | None) -> dict[str, Any]:
    return {name: value for name, value in values.items() if accepted is None or name in accepted}


def _own_arguments(
    requests: Sequence[Request], accepted: frozenset[str] | None = frozenset()
) -> tuple[Sequence[Any], dict[str, Any]]:
    (request,) = requests
    return (request["prompt"], request["response"], request["answer"]), _kept(request["columns"], accepted)


def _trl_arguments(
    requests: Sequence[Request], accepted: frozenset[str] | None
) -> tuple[Sequence[Any], dict[str, Any]]:
    columns = {name for request in requests for name in request["columns"]} - {"prompt", "completion", "completion_ids"}
    values: dict[str, Any] = {name: [request["columns"].get(name) for request in requests] for name in columns}
    values |= {
        "prompts": [request["given"] for request in requests],
        "completions": [_completion(request) for request in requests],
        "completion_ids": [list(request["token_ids"]) for request in requests],
        "log_extra": _ignore,
        "log_metric": _ignore,
    }
    return (), _kept(values, accepted)


def _verl_arguments(
    requests: Sequence[Request], accepted: frozenset[str] | None
) -> tuple[Sequence[Any], dict[str, Any]]:
    (request,) = requests
    values = {
        **request["columns"],
        "solution_str": request["response"],
        "ground_truth": request["reference"],
        "extra_info": dict(request["columns"].get("extra_info") or {}),
    }
    return (), _kept(values, accepted)


def _verifiers_arguments(
    requests: Sequence[Request], accepted: frozenset[str] | None, *, v1: bool
) -> tuple[Sequence[Any], dict[str, Any]]:
    (request,) = requests
    columns, completion = dict(request["columns"]), _completion(request)
    info = columns.get("info") or {}
    state = {
        "prompt": request["given"],
        "completion": completion,
        "answer": request["reference"],
        "info": info,
        "task": columns.get("task", "default"),
    }
    values = {
        **columns,
        **state,
        "state": dict(state),
        "parser": _Parser(),
        "trace": SimpleNamespace(
            last_reply=request["response"], assistant_messages=_messages(request), num_turns=1, is_completed=True
        ),
    }
    if v1:
        values["task"] = SimpleNamespace(**(columns | {"prompt": request["given"], "answer": request["reference"]}))
    return (), _kept(values, accepted)


def _messages(request: Request) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": request["response"]}]


def _completion(request: Request) -> Any:
    """The response as the libraries give it: a text for a text, a list of messages for chat messages."""
    return request["response"] if isinstance(request["given"], str) else _messages(request)


def _ignore(*arguments: Any, **named: Any) -> None:
    """In place of TRL's `log_extra` and `log_metric`: the records keep the score alone."""


class _Parser:
    """The plain parser of verifiers: the answer is the text of the last message."""

    def parse(self, text: str) -> str:
        return text

    def parse_answer(self, completion: Any) -> str | None:
        if isinstance(completion, str):
            return completion
        texts = [message["content"] for message in completion if message.get("role") == "assistant"]
        return texts[-1] if texts else None
