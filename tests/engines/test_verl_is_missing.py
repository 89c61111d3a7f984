"""Without verl its engine says what to install; with it, the tests are in `tests/engines/verl/`."""

from __future__ import annotations

import importlib
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(find_spec("verl") is not None, reason="verl is installed in this Python")
MESSAGE = "expected verl 0.9.1, got none; install the extra `verl` into an environment of its own"


def test_the_import_says_what_to_install() -> None:
    with pytest.raises(ImportError, match=MESSAGE.replace(".", r"\.")):
        importlib.import_module("analysis.engines.verl")


def test_the_command_says_it_in_one_line() -> None:
    command = [sys.executable, "-m", "analysis.engines.verl", "check"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"error: analysis.engines.verl: {MESSAGE}")
    assert ended.stderr.count("\n") == 1
