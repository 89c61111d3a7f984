"""The tests of this folder need verl: where it is not installed each module is skipped, with that reason."""

from __future__ import annotations

from collections.abc import Generator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

HAS_VERL = find_spec("verl") is not None and find_spec("tensordict") is not None


class _Skipped(pytest.Module):
    """A module that is not imported."""

    def collect(self) -> list[pytest.Item]:
        pytest.skip(
            "verl is not installed in this Python; `make test-verl` runs these tests in an environment of theirs"
        )


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> Generator[None, Any, Any]:
    """Stand one skipped module in the place of each test module, as a test and as a doctest, where verl is missing."""
    collectors = yield
    if HAS_VERL or not file_path.name.startswith("test_"):
        return collectors if HAS_VERL else []
    return [_Skipped.from_parent(parent, path=file_path)]
