"""The part of verifiers.v1 that the task `verifiers` calls, for tests where the package, with its many dependencies, is
not installed. Names and behaviour are those of verifiers 0.4.0; `test_verifiers_env.py` also runs with the real one.
"""

from __future__ import annotations

import inspect
from pathlib import Path

__all__ = ["write_stand_in"]

_V1 = """
import asyncio
import copy
import hashlib
import json
from types import SimpleNamespace

class _Model:
    model_fields = {}
    def __init_subclass__(cls):
        own = [name for name in getattr(cls, "__annotations__", {})]
        cls.model_fields = {**cls.model_fields, **dict.fromkeys(own)}
    def __init__(self, **values):
        for name in self.model_fields:
            setattr(self, name, values.pop(name, getattr(type(self), name, None)))
        assert not values, values
    @classmethod
    def model_validate(cls, values):
        return cls(**values)
    def model_copy(self, update):
        clone = copy.copy(self)
        for name, value in update.items():
            setattr(clone, name, value)
        return clone
    def model_dump(self, **options):
        return {name: value for name in self.model_fields if (value := getattr(self, name)) is not None}

class TaskConfig(_Model):
    judges: list = ()
class TasksetConfig(_Model):
    id: str = ""
    task: object = TaskConfig()
    system_prompt: object = None
class TaskData(_Model):
    idx: int = None
    prompt: object = None
    system_prompt: str = None
    image: str = None
    skills: list = ()
class UserMessage(_Model):
    role: str = "user"
    content: object = None
class SystemMessage(UserMessage):
    role: str = "system"
class AssistantMessage(UserMessage):
    role: str = "assistant"
class MessageNode(_Model):
    parent: int = None
    message: object = None
    sampled: bool = False
class TraceTask(_Model):
    type: str = ""
    data: object = None
    key: str = None
    hash: str = None
class AgentConfig(_Model): ...
class AgentInfo(_Model):
    config: object = None
class Trace(_Model):
    task: object = None
    agent: object = None
    nodes: list = ()
    def __init__(self, **values):
        super().__init__(**values)
        self.rewards = {}
    @property
    def last_reply(self):
        return (self.nodes[-1].message.content or "").strip()
    @property
    def reward(self):
        return sum(reward.score * reward.weight for reward in self.rewards.values())
class Runtime: ...
class Env: ...
class Toolset: ...

def reward(function=None, weight=1.0):
    def mark(f):
        f.reward, f._vf_weight = True, weight
        return f
    return mark if function is None else mark(function)
def stop(function):
    function.stop = True
    return function

class Task:
    NEEDS_CONTAINER = False
    def __class_getitem__(cls, kinds):
        return cls
    def __init__(self, data, config=None):
        self.data, self.config = data, config or TaskConfig()
    key = hash = "0"
    def with_data(self, **update):
        clone = copy.copy(self)
        clone.data = self.data.model_copy(update)
        return clone
    async def setup(self, trace, runtime): ...
    async def finalize(self, trace, runtime): ...
    async def stage_verifier(self, trace, runtime): ...
    def hooks(self, attr):
        found = [getattr(self, name) for name in dir(type(self)) if hasattr(getattr(type(self), name), attr)]
        return sorted(found, key=lambda f: f.__name__)
    @classmethod
    def toolsets(cls, config):
        return []
    async def score(self, trace, runtime=None):
        functions = self.hooks("reward")
        for f, value in zip(functions, await asyncio.gather(*(f(trace=trace) for f in functions))):
            trace.rewards[f.__name__] = SimpleNamespace(score=float(value), weight=f._vf_weight)

class Taskset:
    def __class_getitem__(cls, kinds):
        config = next((kind for kind in kinds if issubclass(kind, TasksetConfig)), TasksetConfig)
        return type("Taskset", (cls,), {"config_kind": config})
    def __init__(self, config):
        self.config = config
    def __iter__(self):
        return (task.with_data(idx=i) for i, task in enumerate(self.load()))
    @classmethod
    def toolsets(cls, config):
        return []
"""
_GENERIC = """
def concrete_type(kind, base, **options):
    return kind.config_kind
"""


def write_stand_in(folder: Path) -> None:
    """Write a package `verifiers` and its metadata into a folder."""
    package = folder / "verifiers" / "v1"
    (package / "utils").mkdir(parents=True)
    (folder / "verifiers" / "__init__.py").write_text("")
    (package / "__init__.py").write_text(inspect.cleandoc(_V1) + "\n")
    (package / "utils" / "__init__.py").write_text("")
    (package / "utils" / "generic.py").write_text(_GENERIC)
    metadata = folder / "verifiers-0.4.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: verifiers\nVersion: 0.4.0\n")
