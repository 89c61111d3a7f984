"""F6: counts of changed parameters, the choice of rates, and the verdicts from planted runs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from analysis.claims import Evidence
from analysis.claims.entries import optimizers
from analysis.claims.measurements import changed_parameters as measured
from analysis.claims.measurements.changed_parameters import Changed, changed_parameters
from analysis.claims.registry import all_claims
from analysis.errors import UsageError
from tests.claims.by_hand import hand_runs


def _folder(path: Path, **weights: torch.Tensor) -> Path:
    path.mkdir()
    save_file(weights, path / "model.safetensors")
    return path


def test_small_changes_are_lost_in_bfloat16(tmp_path: Path) -> None:
    """Of four weights at 1, three change: by 2⁻²⁰, by 2⁻¹⁰, which bfloat16 does not see, and by 2⁻⁶."""
    steps = torch.tensor([0.0, 2.0**-20, 2.0**-10, 2.0**-6])
    before = _folder(tmp_path / "before", w=torch.ones(4))
    after = _folder(tmp_path / "after", w=torch.ones(4) + steps)
    assert changed_parameters(before, after) == Changed(0.75, 0.25, 4)
    with pytest.raises(UsageError, match=r"set record\.checkpoint = true"):
        changed_parameters(before, tmp_path)
    with pytest.raises(UsageError, match="names and shapes"):
        changed_parameters(before, _folder(tmp_path / "other", w=torch.ones(5)))


def test_a_run_is_held_against_its_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bases = {("path", 3): _folder(tmp_path / "base", w=torch.ones(4))}
    monkeypatch.setattr(measured, "ensure_base", lambda name, seed: bases[name, seed])
    run: Any = SimpleNamespace(run_id="a", recipe={"policy": {"base": "path", "seed": 3}}, folder=tmp_path)
    (tmp_path / "checkpoints").mkdir()
    _folder(tmp_path / "checkpoints" / "final", w=torch.tensor([1.0, 1.0, 1.0, 2.0]))
    assert measured.changed_in(run) == Changed(0.25, 0.25, 4)
    run.recipe = None
    with pytest.raises(UsageError, match="its base is not known"):
        measured.changed_in(run)


def _p(gain: float) -> Any:
    return lambda seed, step, prompts: (
        0.3 + 0.05 * np.tanh(prompts) + (gain + 0.001 * ((seed + round(100 * gain)) % 3 - 1)) * step / 10
    )


def _entropy(seed: int, step: int, prompts: np.ndarray) -> np.ndarray:
    return 0.9 - 0.01 * step + 0.01 * prompts


def _methods(gain_of_sgd: float) -> Any:
    gains = {name: gain_of_sgd if name.endswith("SGD") else 0.2 for name in optimizers.tuning_studies()[0].methods}
    return hand_runs({name: _p(gain) for name, gain in gains.items()}, entropy_fixed=_entropy)


@pytest.mark.parametrize(
    ("gain", "share", "verdict"), [(0.205, 0.001, "holds"), (0.05, 0.001, "depends"), (0.205, 0.5, "depends")]
)
def test_sgd_beside_adamw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gain: float, share: float, verdict: str
) -> None:
    runs = _methods(gain)
    monkeypatch.setattr(Evidence, "methods", lambda self, study: runs)
    monkeypatch.setattr(Evidence, "diverged", lambda self, study: {})

    def changed(run: Any) -> Changed:
        seed = int(run.run_id[-1])
        return Changed(1.0, (share if "SGD" in run.run_id else 0.4) * (1 + 0.1 * seed), 1000)

    monkeypatch.setattr(measured, "changed_in", changed)
    decision = all_claims()["F6"].decide(Evidence(tmp_path))
    assert decision.verdict == verdict
    assert len(decision.tables["parameters"]["seed"]) == 32
    monkeypatch.setattr(Evidence, "diverged", lambda self, study: {"PSR, SGD": [0]})
    assert all_claims()["F6"].decide(Evidence(tmp_path)).verdict == "depends"  # a quarter of one objective's runs


def test_rates_are_chosen_by_validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice the rate is best for all but one method, whose runs diverged there."""
    gains = {0.5: 0.1, 1.0: 0.2, 2.0: 0.3}

    def methods(self: Any, study: Any) -> Any:
        times = next(t for t in gains if f", {t:g} times" in study.name)
        found = hand_runs({name: _p(gains[times]) for name in study.methods}, seeds=2)
        return found | ({"PSR, SGD": {}} if times == 2.0 else {})

    monkeypatch.setattr(Evidence, "methods", methods)
    (study,) = optimizers.final_study(Evidence(tmp_path))
    rates = {name: fields["optimizer.lr"] for name, fields in study.methods.items()}
    assert rates["PSR, SGD"] == 0.06
    assert rates["NSR, SGD"] == 0.12
    assert rates["GRPO, AdamW"] == 3e-4
    assert len(study.runs) == 32
    assert all(run.planned.config.record.checkpoint for run in study.runs)
