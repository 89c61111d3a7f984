"""The task `verifiers`: prompts, weighted rewards, and which environments are refused. With the package itself where it
is installed, else with a stand-in for the part of it that is called."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.toy_models.tasks.verifiers_stand_in import write_stand_in
from toy_models.tasks.text_task import ResponseText
from toy_models.tasks.verifiers_env_task import VerifiersTask, environment_digest
from toy_models.verifiers import VerifierError

REAL = importlib.util.find_spec("verifiers") is not None

HEAD = """
import verifiers.v1 as vf

class SumData(vf.TaskData):
    answer: str = ""

class SumConfig(vf.TasksetConfig):
    size: int = 12

class SumTask(vf.Task[SumData]):
    @vf.reward(weight=0.75)
    async def exact(self, trace: vf.Trace) -> float:
        return float(trace.last_reply == self.data.answer)

    @vf.reward(weight=0.25)
    async def short(self, trace: vf.Trace) -> float:
        if trace.last_reply == "boom":
            raise RuntimeError("no score")
        return float(len(trace.last_reply) <= 2)
"""
TASKSET = """
class Sums(vf.Taskset[KIND, SumConfig]):
    def load(self):
        for i in range(self.config.size):
            yield KIND(SumData(prompt=f"{i} + {i} =", answer=str(2 * i)EXTRA), self.config.task)

__all__ = ["Sums"]
"""


def taskset(kind: str = "SumTask", extra: str = "") -> str:
    return TASKSET.replace("KIND", kind).replace("EXTRA", extra)


@pytest.fixture(autouse=True, scope="module")
def _package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    if REAL:
        yield
        return
    folder = tmp_path_factory.mktemp("stand-in")
    write_stand_in(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield


def environment(folder: Path, source: str, name: str = "sums_env") -> str:
    path = folder / f"{name}.py"
    path.write_text(HEAD + source)
    return str(path)


def test_prompts_and_weighted_rewards(tmp_path: Path) -> None:
    task = VerifiersTask(environment(tmp_path, taskset()), {"size": 5})
    items = task.items("train")
    assert items is not None
    assert [(item.prompt, item.reference) for item in items][:2] == [("0 + 0 =", "0"), ("1 + 1 =", "2")]
    assert (len(items), task.items("test")) == (5, None)
    verdicts = task.score_many([items[3]] * 4, ["6", "7", "about 6", "six!"])
    assert [verdict.score for verdict in verdicts] == [1.0, 0.25, 0.0, 0.0]
    assert [verdict.correct for verdict in verdicts] == [True, False, False, False]
    identity = task.verifier.identity
    assert (identity["rewards"], identity["config"]) == ({"exact": 0.75, "short": 0.25}, {"size": 5})
    task.close()


def test_messages(tmp_path: Path) -> None:
    task = VerifiersTask(environment(tmp_path, taskset(extra=', system_prompt="Add."')))
    items = task.items("train")
    assert items is not None
    assert items[1].prompt == [{"role": "system", "content": "Add."}, {"role": "user", "content": "1 + 1 ="}]
    assert task.score(items[1], ResponseText("2")).correct
    task.close()


def test_a_reward_that_raises_names_its_case(tmp_path: Path) -> None:
    task = VerifiersTask(environment(tmp_path, taskset()))
    items = task.items("train")
    assert items is not None
    with pytest.raises(VerifierError, match="the environment's rewards fail with RuntimeError: no score") as error:
        task.score_many(items[:3], ["0", "2", "boom"])
    assert error.value.index == 2
    task.close()


TOOLS = "\n    @classmethod\n    def toolsets(cls, config):\n        return [vf.Toolset]\n"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def load_environment(): ...", r"expected a Taskset of verifiers.v1, got load_environment, .* \(v0\)"),
        ("", "expected one Taskset among the names in __all__, got 0; export exactly one"),
        (taskset() + "raise OSError('no data')", "cannot be loaded: OSError: no data"),
        (taskset().replace("yield", "1; continue\n            yield"), "expected at least one task, got none"),
        (taskset().replace("    def load", TOOLS + "    def load"), "it needs tools; only a single turn"),
        ("class Own(SumTask):" + TOOLS + taskset("Own"), "it needs tools; only a single turn"),
        ("class Own(SumTask):\n    NEEDS_CONTAINER = True\n" + taskset("Own"), "it needs a container"),
        (
            "class Own(SumTask):\n    async def setup(self, trace, runtime): ...\n" + taskset("Own"),
            "have the hook setup",
        ),
        ("class Own(vf.Task[SumData]): ...\n" + taskset("Own"), "expected at least one @vf.reward, got none"),
        (
            "class Own(SumTask):\n    @vf.reward\n    async def ran(self, runtime: vf.Runtime) -> float:\n"
            "        return 1.0\n" + taskset("Own"),
            r"its reward ran asks for a runtime \(a sandbox\)",
        ),
        (
            "class Own(SumTask):\n    @vf.stop\n    async def over(self, trace): ...\n" + taskset("Own"),
            "stop a dialogue",
        ),
        (taskset(extra=', image="python:3"'), "its tasks name an image or skills, so they need a sandbox"),
        (taskset().replace('prompt=f"{i} + {i} ="', "prompt=None"), "no prompt, so a simulated user begins"),
        ("class Loop(vf.Env): ...\n" + taskset().replace('["Sums"]', '["Sums", "Loop"]'), "a rollout loop of its own"),
    ],
)
def test_refused(tmp_path: Path, source: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VerifiersTask(environment(tmp_path, source))


def test_an_unknown_field_and_an_unknown_module(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"task.config.siz: expected one of .*size"):
        VerifiersTask(environment(tmp_path, taskset()), {"siz": 3})
    with pytest.raises(
        ValueError, match="expected a module that can be imported, or the path of one, got none named no_"
    ):
        VerifiersTask("owner/no-such-env@1")


def test_older_or_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from toy_models.tasks import verifiers_env_task as module

    path = environment(tmp_path, taskset())
    monkeypatch.setattr(module.importlib.metadata, "version", lambda name: "0.1.9")
    with pytest.raises(ValueError, match=r"expected verifiers 0.4 or later, got 0.1.9: its environments \(v0\) ask"):
        VerifiersTask(path)

    def absent(name: str) -> Any:
        raise module.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(module.importlib.metadata, "version", absent)
    with pytest.raises(ValueError, match="expected the package verifiers, got none; pip install verifiers"):
        VerifiersTask(path)


def test_the_digest_is_that_of_the_source(tmp_path: Path) -> None:
    path = environment(tmp_path, taskset())
    before = environment_digest(path)
    Path(path).write_text(Path(path).read_text() + "\nTHRESHOLD = 1\n")
    assert environment_digest(path) != before
