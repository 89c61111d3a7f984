"""The child process of `VerifiersTask`: [place of a task, response] in, the weighted sum of its rewards out.

The first value that it sends is {"items": [[prompt, answer], …], "rewards": …}, or {"error": …} for an
environment that cannot be loaded or needs more than one turn of text. An answer is a number, or the name and text of
the error that a reward raised.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import itertools
import json
import math
import os
import resource
import sys
from pathlib import Path
from typing import Any

from ..child_process import Send
from .verifiers_env_task import module_name

__all__ = ["main"]

_SHOWN = 200  # characters of an error


class _Refused(Exception):
    """An environment that cannot be a task here."""


def main(send: Send, environment: str, config: str, most: str, seconds: str) -> None:
    """Answer each pair on standard input until it ends, with `seconds` of processor time for each."""
    requests = os.fdopen(os.dup(0), encoding="utf-8")
    sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115  the environment must not read the requests
    try:
        module = _module(environment)
        tasks = _tasks(module, environment, json.loads(config), int(most))
        items = [[_prompt(task, environment), _answer(task)] for task in tasks]
        rewards = {
            function.__name__: float(getattr(function, "_vf_weight", 1.0)) for function in tasks[0].hooks("reward")
        }
    except _Refused as error:
        send({"error": f"environment {environment}: {error}"})
        return
    except BaseException as error:
        send({"error": f"environment {environment} cannot be loaded: {type(error).__name__}: {str(error)[:_SHOWN]}"})
        return
    send({"items": items, "rewards": rewards})
    for line in requests:
        used = resource.getrusage(resource.RUSAGE_SELF)
        limit = math.ceil(used.ru_utime + used.ru_stime) + int(seconds)
        resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.getrlimit(resource.RLIMIT_CPU)[1]))
        place, response = json.loads(line)
        try:
            score = asyncio.run(_score(tasks[place], response))
            send(score if math.isfinite(score) else f"the score {score}, which is not finite")
        except Exception as error:  # whatever the environment's own code raises
            cause = error.__cause__ or error
            send(f"{type(cause).__name__}: {str(cause)[:_SHOWN]}")


def _module(environment: str) -> Any:
    """The environment's module: by name, or from the file or folder that it lies in."""
    path = Path(environment).expanduser()
    if path.exists():
        sys.path.insert(0, str(path.resolve().parent))
        name = path.stem
    else:
        name = module_name(environment)
    return importlib.import_module(name)


def _tasks(module: Any, environment: str, config: dict[str, Any], most: int) -> list[Any]:
    vf: Any = importlib.import_module("verifiers.v1")
    exported = [getattr(module, name, None) for name in getattr(module, "__all__", ())]
    kinds = [kind for kind in exported if inspect.isclass(kind)]
    tasksets = [kind for kind in kinds if issubclass(kind, vf.Taskset) and kind is not vf.Taskset]
    if not tasksets and hasattr(module, "load_environment"):
        raise _Refused(
            "expected a Taskset of verifiers.v1, got load_environment, the older interface (v0), whose rollout loop "
            "asks a model server for completions; use a version of the environment for verifiers 0.4 or later"
        )
    if len(tasksets) != 1:
        raise _Refused(f"expected one Taskset among the names in __all__, got {len(tasksets)}; export exactly one")
    if own := [kind.__name__ for kind in kinds if issubclass(kind, vf.Env)]:
        raise _Refused(f"it brings a rollout loop of its own ({own[0]}); only one turn of one policy can be trained on")
    taskset = _made(tasksets[0], environment, config)
    if type(taskset).toolsets(taskset.config):
        raise _Refused("it needs tools; only a single turn of text can be trained on")
    tasks = list(itertools.islice(iter(taskset), most))
    if not tasks:
        raise _Refused("expected at least one task, got none")
    for kind in {type(task) for task in tasks}:
        _check(kind, vf.Task)
    for task in tasks:
        _check_task(task)
    return tasks


def _made(kind: Any, environment: str, config: dict[str, Any]) -> Any:
    base: Any = importlib.import_module("verifiers.v1").TasksetConfig
    generic: Any = importlib.import_module("verifiers.v1.utils.generic")
    config_kind = generic.concrete_type(kind, base) or base
    if unknown := [name for name in config if name not in config_kind.model_fields]:
        known = sorted(set(config_kind.model_fields) - {"id", "task"})
        raise _Refused(f"task.config.{unknown[0]}: expected one of {', '.join(known)}")
    return kind(config_kind.model_validate(config | {"id": Path(environment).stem}))


def _check(kind: Any, base: Any) -> None:
    """Refuse tasks of a class that needs more than a prompt and a response."""
    if kind.NEEDS_CONTAINER:
        raise _Refused("it needs a container; only a single turn of text can be trained on")
    for hook in ("setup", "finalize", "stage_verifier"):
        if getattr(kind, hook) is not getattr(base, hook):
            raise _Refused(f"its tasks have the hook {hook}, which prepares a runtime; only text can be trained on")


def _check_task(task: Any) -> None:
    data = task.data
    if type(task).toolsets(task.config):
        raise _Refused("it needs tools; only a single turn of text can be trained on")
    if task.config.judges:
        raise _Refused("it needs a judge, a second model; only rewards that are code can be used")
    if data.image is not None or data.skills:
        raise _Refused("its tasks name an image or skills, so they need a sandbox; only text can be trained on")
    if data.prompt is None:
        raise _Refused("its tasks have no prompt, so a simulated user begins; only a single turn can be trained on")
    if task.hooks("stop"):
        raise _Refused("it has conditions that stop a dialogue; only a single turn can be trained on")
    rewards = task.hooks("reward")
    if not rewards:
        raise _Refused("expected at least one @vf.reward, got none; a task without rewards cannot be trained on")
    for function in rewards:
        parameter = inspect.signature(function).parameters.get("runtime")
        if parameter is not None and parameter.default is inspect.Parameter.empty:
            raise _Refused(f"its reward {function.__name__} asks for a runtime (a sandbox); only text can be judged")


def _prompt(task: Any, environment: str) -> str | list[dict[str, Any]]:
    """The prompt as text, or as chat messages where there is a system prompt or a list of messages."""
    data = task.data
    if isinstance(data.prompt, str):
        messages = [{"role": "user", "content": data.prompt}]
        if data.system_prompt is None:
            return str(data.prompt)
    else:
        messages = [message.model_dump(mode="json", exclude_none=True) for message in data.prompt]
    for message in messages:
        content = message.get("content")
        if isinstance(content, list) and any(part.get("type") != "text" for part in content):
            raise _Refused("its prompts hold images; only text can be trained on")
    system = [] if data.system_prompt is None else [{"role": "system", "content": data.system_prompt}]
    return [*system, *messages]


def _answer(task: Any) -> str | None:
    """What the task names `answer`, for the records."""
    answer = getattr(task.data, "answer", None)
    return None if answer is None else str(answer)


async def _score(task: Any, response: str) -> float:
    """The reward of a trace of one turn, as the environment scores it."""
    trace = _trace(task, response)
    await task.score(trace)
    return float(trace.reward)


def _trace(task: Any, response: str) -> Any:
    vf: Any = importlib.import_module("verifiers.v1")
    prompt = task.data.prompt
    given = [vf.UserMessage(content=prompt)] if isinstance(prompt, str) else list(prompt)
    system = [] if task.data.system_prompt is None else [vf.SystemMessage(content=task.data.system_prompt)]
    messages = [*system, *given, vf.AssistantMessage(content=response)]
    nodes = [
        vf.MessageNode(parent=i - 1 if i else None, message=message, sampled=i == len(messages) - 1)
        for i, message in enumerate(messages)
    ]
    made = vf.TraceTask(type=type(task).__name__, data=task.data, key=task.key, hash=task.hash)
    return vf.Trace(task=made, agent=vf.AgentInfo(config=vf.AgentConfig()), nodes=nodes)
