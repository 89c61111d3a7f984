"""A Ray of this machine for the tests."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

import pytest

from analysis import UsageError

START_ATTEMPTS = 3  # Ray gives its own processes 15 seconds to start, which a busy machine may not keep


@contextlib.contextmanager
def local_ray() -> Iterator[str]:
    """The address of a cluster that this process has started and is connected to."""
    ray = pytest.importorskip("ray", reason="Ray is not installed (extra ray)")
    from analysis.experiments.ray_executor import ray_cluster

    before = signal.getsignal(signal.SIGTERM)
    for attempt in range(START_ATTEMPTS):
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("RAY_ADDRESS", raising=False)
            cluster = ray_cluster(None)
            try:
                cluster.__enter__()
            except UsageError as error:
                if attempt == START_ATTEMPTS - 1:
                    pytest.skip(f"Ray does not start here: {error}")
                continue
        break
    assert signal.getsignal(signal.SIGTERM) is before
    assert "RAY_USAGE_STATS_ENABLED" not in os.environ
    yield ray.get_runtime_context().gcs_address
    cluster.__exit__(None, None, None)
    assert not ray.is_initialized()
