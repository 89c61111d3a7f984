"""The digest of an object of the user follows everything that its code depends on, and nothing else."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest

from analysis.training.object_digest import object_digest
from analysis.training.user_objects import _policy_identity
from tests.offline.byte_models import byte_tokenizer, small_model
from toy_models import Policy

CELL = """
import helpers
from helpers import near
TOLERANCE = 1
ANSWERS = {"a": [1, 2]}
cache = {}
def close(a, b):
    return abs(a - b) <= TOLERANCE
class Rule:
    def holds(self, a):
        return a in ANSWERS
class Task:
    limit = 3
    def __init__(self, scale=1.0):
        self.scale, self._memory = scale, object()
    def verify(self, a, b):
        cache[a] = b
        return close(a, b) and Rule().holds(a) and near(a) and helpers.other(b)
    @property
    def longest(self):
        return [close(i, 0) for i in range(3)]
"""
HELPERS = (
    "def near(a):\n    return inner(a)\ndef inner(a):\n    return a > 0\ndef other(a):\n    return a\nUNUSED = 1\n"
)


def digest(folder: Path, cell: str = CELL, helpers: str = HELPERS, *, fill: bool = False, **arguments: Any) -> str:
    """The digest of the task of a notebook cell beside a module."""
    (folder / "helpers.py").write_text(helpers)
    sys.modules.pop("helpers", None)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.setattr(sys, "dont_write_bytecode", True)
        scope: dict[str, Any] = {"__name__": "__main__"}
        exec(cell, scope)
        if fill:
            scope["cache"]["a"] = 1
        found = object_digest(scope["Task"](**arguments))
    sys.modules.pop("helpers", None)
    return found


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("TOLERANCE = 1", "TOLERANCE = 2", False),
        ('"a": [1, 2]', '"a": [1, 3]', False),
        ("abs(a - b)", "abs(b - a)", False),
        ("a in ANSWERS", "a not in ANSWERS", False),
        ("limit = 3", "limit = 4", False),
        ("range(3)", "range(4)", False),
        ("cache = {}", "cache = {}\nunused = 5", True),
        ("cache = {}", "cache = {}  # filled later", True),
    ],
)
def test_follows_what_the_class_uses(tmp_path: Path, old: str, new: str, same: bool) -> None:
    assert old in CELL
    assert (digest(tmp_path, CELL.replace(old, new)) == digest(tmp_path)) is same


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [("a > 0", "a > 1", False), ("    return a\n", "    return -a\n", False), ("UNUSED = 1", "UNUSED = 2", True)],
)
def test_follows_modules_beside_it(tmp_path: Path, old: str, new: str, same: bool) -> None:
    assert (digest(tmp_path, helpers=HELPERS.replace(old, new)) == digest(tmp_path)) is same


def test_follows_the_numbers_of_the_object_and_no_cache(tmp_path: Path) -> None:
    assert digest(tmp_path, scale=2.0) != digest(tmp_path)
    assert digest(tmp_path, fill=True) == digest(tmp_path)


@pytest.fixture(scope="module")
def policy() -> Policy:
    tokenizer = byte_tokenizer("{{ messages }}")
    return Policy(small_model(len(tokenizer) + 4), tokenizer)


@pytest.mark.parametrize(
    "change",
    [
        lambda policy: policy.model.lm_head.weight.data.mul_(2),
        lambda policy: setattr(policy.model.config, "rms_norm_eps", 0.1),
        lambda policy: setattr(policy.model.generation_config, "eos_token_id", [3]),
        lambda policy: setattr(policy.tokenizer, "chat_template", "{{ 'other' }}"),
        lambda policy: policy.tokenizer.add_tokens(["11"]),
        lambda policy: policy.model.set_attn_implementation("eager"),
    ],
    ids=["weights", "configuration", "end tokens", "chat template", "added token", "attention"],
)
def test_of_a_policy_whatever_changes_its_numbers(policy: Policy, change: Any) -> None:
    before, other = _policy_identity(policy), copy.deepcopy(policy)
    assert _policy_identity(other) == before
    change(other)
    assert _policy_identity(other) != before
