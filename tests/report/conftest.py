from __future__ import annotations

import pytest

from analysis.records import Experiment
from tests.report.by_hand import make_experiment


@pytest.fixture(scope="session")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """PSR and NSR, one seed each."""
    return make_experiment(tmp_path_factory.mktemp("experiment"))


@pytest.fixture(scope="session")
def three_seeds(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """PSR and NSR, three seeds each."""
    return make_experiment(tmp_path_factory.mktemp("three-seeds"), seeds=(0, 1, 2))
