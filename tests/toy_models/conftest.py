from __future__ import annotations

import pytest

from toy_models import Policy, load_policy


@pytest.fixture(scope="session")
def tiny() -> Policy:
    return load_policy("tiny")
