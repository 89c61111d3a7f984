"""S1: the exact part against sums written out, and each verdict from planted projections."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from analysis.claims import Evidence
from analysis.claims.measurements import identity
from analysis.claims.measurements.identity import Projections, exact_differences, projections
from analysis.claims.registry import all_claims


def test_the_identity_is_exact_on_tables_and_trees_and_not_with_length_means() -> None:
    found = exact_differences(seed=3)
    assert found["table"] < 1e-12
    assert found["tree"] < 1e-12
    assert found["tree, length mean"] > 0.1


def test_a_single_context_by_hand() -> None:
    """Two arms, π = (¼, ¾), the first correct: PSR and NSR both give π₀(1 − π₀)·(1, −1)."""
    from toy_models import Bandit

    bandit = Bandit(torch.tensor([0.25, 0.75], dtype=torch.float64).log())
    psr = bandit.expected_score(torch.tensor([1.0, 0.0], dtype=torch.float64))
    nsr = bandit.expected_score(torch.tensor([0.0, -1.0], dtype=torch.float64))
    torch.testing.assert_close(psr, torch.tensor([0.1875, -0.1875], dtype=torch.float64))
    torch.testing.assert_close(nsr, psr)


def _decided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nsr: float, spread: float) -> str:
    def planted(base: str, seeds: int, progress: object) -> Projections:
        around = spread * np.array([-1.0, 1.0, -0.5, 0.5])
        flat = np.full(4, 0.5)
        return Projections(base, flat, 1 + 0.01 * around, nsr + around, {"PSR": flat, "NSR": flat}, flat)

    monkeypatch.setattr(identity, "projections", planted)
    return all_claims()["S1"].decide(Evidence(tmp_path)).verdict


@pytest.mark.parametrize(
    ("nsr", "spread", "verdict"), [(1.0, 0.02, "holds"), (0.5, 0.02, "depends"), (1.0, 0.5, "undecided")]
)
def test_each_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nsr: float, spread: float, verdict: str) -> None:
    """An NSR estimate that projects with a factor of ½ fails while PSR holds: the ledger says on what it depends."""
    assert _decided(tmp_path, monkeypatch, nsr, spread) == verdict


def test_a_broken_identity_stops_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "exact_differences", lambda: {"table": 1e-3, "tree": 0.0, "tree, length mean": 1.0})
    with pytest.raises(RuntimeError, match="not what the exact policies give"):
        all_claims()["S1"].decide(Evidence(tmp_path))


@pytest.mark.slow  # pretrains or loads a base, and samples
def test_projections_of_a_small_base() -> None:
    seen: list[int] = []
    found = projections("tiny", 1, lambda what, done, total: seen.append(done), prompts=4, group_size=4, replicates=6)
    assert found.psr.shape == (1,)
    assert 0 < found.p[0] < 1
    assert seen == list(range(1, 7))
