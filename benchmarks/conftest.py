"""Puts with what it was measured into the JSON of pytest-benchmark, for `docs.generators.measure benchmarks`."""

from __future__ import annotations

from typing import Any

import pytest

from analysis.common.provenance import measured_with
from docs.generators.benchmark_files import MADE
from docs.generators.timing import Others

_others = pytest.StashKey[Others]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_others] = Others()


def pytest_benchmark_update_json(config: pytest.Config, benchmarks: list[Any], output_json: dict[str, Any]) -> None:
    output_json[MADE] = measured_with("make bench") | {"others": config.stash[_others].share()}
