"""The task `verifiers`: tasks and rewards of a single-turn text environment of the package verifiers.

An environment is a module that exports one `Taskset` (verifiers from version 0.4, `verifiers.v1`). Its tasks give the
prompts; the `@vf.reward` methods of a task score a response, each with its weight, and their weighted sum is the score.
The environment is loaded, and scores, in a child process: verifiers brings web servers, clients of model providers and
thousands of modules, which a training process does not need.

A response becomes a trace of one turn: the prompt, then the assistant's message. What needs more than that is refused
before anything is trained: tools, a container, a simulated user, a judge, set-up or clean-up of a runtime, rewards that
ask for one, and images in prompts. So are environments of the older interface (`load_environment`, verifiers below 0.4,
"v0"), whose rollout loop asks a model server for completions: the policy of a run here has none.

Source: verifiers 0.4.0, `verifiers/v1/task.py`, `taskset.py`, `trace.py` and `utils/loaders.py` (MIT).
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import user_functions
from ..verifiers.verifier import Verdict, VerifierError
from ..verifiers.worker_pool import Failure, StartError, WorkerPool
from .text_task import TextItem

__all__ = ["VERIFIERS_TASK", "VerifiersTask", "environment_digest", "module_name", "verifiers_version"]

VERIFIERS_TASK = "verifiers"
SECONDS = 60  # processor time of one score
_WALL = 12  # wall-clock limit over that of processor time: other load on the machine stretches it
_START_SECONDS = 1800.0  # an environment may download its data when it is loaded
_INSTALL = "pip install verifiers"


class VerifiersTask:
    """The tasks of one environment, as a `TextTask`.

    Splits are held out of the tasks by a hash of their tokens, as for files: an environment has one list of tasks.

    Args:
        environment: Module of the environment, or the folder or file that it lies in.
        config: Fields of its taskset's configuration.
        most: The greatest number of tasks that are read; an environment may have infinitely many.
        workers: Number of processes that score.

    Raises:
        ValueError: verifiers is not installed, there is no such environment, it is of the older interface, or it needs
            more than a single turn of text.
    """

    name = VERIFIERS_TASK

    def __init__(
        self, environment: str, config: Mapping[str, Any] | None = None, *, most: int = 100_000, workers: int = 1
    ) -> None:
        version, source = verifiers_version(), environment_digest(environment)
        arguments = [environment, json.dumps(dict(config or {}), default=list), str(most), str(SECONDS)]
        self._pool = WorkerPool(
            f"{__package__}.verifiers_env_worker", arguments, workers, SECONDS * _WALL, _START_SECONDS
        )
        try:
            loaded = self._pool.start()
        except StartError as error:
            text = str(error) if error.told else f"environment {environment} cannot be loaded: {error}"
            raise ValueError(text) from error
        self._items = [
            TextItem(f"{environment}/{i}", prompt, answer) for i, (prompt, answer) in enumerate(loaded["items"])
        ]
        self._places = {item.id: i for i, item in enumerate(self._items)}
        self.verifier = _Identity(
            {
                "name": VERIFIERS_TASK,
                "version": version,
                "environment": environment,
                "config": json.loads(arguments[1]),
                "rewards": loaded["rewards"],
                "source": source,
            }
        )

    def items(self, split: str) -> list[TextItem] | None:
        """All tasks for "train", from which the other splits are held out."""
        return self._items if split == "train" else None

    def score(self, item: TextItem, text: str) -> Verdict:
        """The weighted sum of the rewards of one response."""
        return self.score_many([item], [text])[0]

    def score_many(self, items: Sequence[TextItem], texts: Sequence[str]) -> list[Verdict]:
        """The weighted sum of the rewards of one response to each item.

        Raises:
            VerifierError: A reward raises or is no finite number; `index` is the case.
        """
        try:
            answers = self._pool.ask(
                [[self._places[item.id], str(text)] for item, text in zip(items, texts, strict=True)]
            )
        except StartError as error:
            raise VerifierError(f"the environment cannot be started again: {error}") from error
        verdicts = []
        for index, answer in enumerate(answers):
            if isinstance(answer, Failure):
                verdicts.append(Verdict(False, answer.reason, 0.0))
            elif isinstance(answer, str):
                raise VerifierError(f"the environment's rewards fail with {answer}", index)
            else:
                verdicts.append(Verdict(answer >= 1, "correct" if answer >= 1 else f"score {answer:.4g}", answer))
        return verdicts

    def close(self) -> None:
        """End the processes that score; they are started again when needed."""
        self._pool.close()


def verifiers_version() -> str:
    """The version of the installed verifiers.

    Raises:
        ValueError: It is not installed, or its environments are of the older interface.
    """
    try:
        version = importlib.metadata.version("verifiers")
    except importlib.metadata.PackageNotFoundError:
        raise ValueError(f"expected the package verifiers, got none; {_INSTALL}") from None
    if tuple(int(part) for part in version.split(".")[:2]) < (0, 4):
        raise ValueError(
            f"expected verifiers 0.4 or later, got {version}: its environments (v0) ask a model server for "
            f"completions, which a policy in training is not; {_INSTALL} --upgrade"
        )
    return version


def environment_digest(environment: str) -> str:
    """SHA-256 of the source of an environment: its file, or the Python files of its folder; the file of a module.

    Raises:
        ValueError: There is none.
    """
    path = Path(environment).expanduser()
    if not path.exists():
        name = module_name(environment)
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError):
            spec = None
        if spec is None or spec.origin is None:
            raise ValueError(
                f"environment {environment}: expected a module that can be imported, or the path of one, got none "
                f"named {name}; install the environment, or name its folder"
            )
        path = Path(spec.origin)
        path = path.parent if path.name == "__init__.py" else path
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path, *user_functions.helper_files(path)]
    content = hashlib.sha256()
    for file in files:
        content.update(f"{file.name} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return content.hexdigest()


def module_name(environment: str) -> str:
    """The module of an environment that is named as on the Environments Hub: owner/name@version."""
    return environment.rsplit("/", 1)[-1].split("@", 1)[0].replace("-", "_")


class _Identity:
    """What scores depend on, as the `verifier` of a task has it."""

    def __init__(self, identity: dict[str, Any]) -> None:
        self.identity = identity
