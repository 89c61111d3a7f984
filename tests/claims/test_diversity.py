"""F7: slope and divergence against their definitions, and the verdicts from planted runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from analysis.claims import Evidence
from analysis.claims.entries import diversity
from analysis.claims.entries.diversity import _WEIGHTS, _narrows
from analysis.claims.measurements import correct_responses
from analysis.claims.measurements.correct_responses import Shift, check_conservation, shift_of, shift_of_run
from analysis.claims.registry import all_claims
from analysis.errors import UsageError
from tests.claims.by_hand import hand_run


def _run(method: str, seed: int, change: float) -> Any:
    """The log effective number of correct responses starts near log 5 and changes by `change`."""
    run = hand_run(
        method,
        seed,
        lambda _seed, step, prompts: 0.4 + 0.02 * step + 0.01 * prompts,
        effective_solutions=lambda seed, step, prompts: (
            5 * np.exp(0.1 * prompts + step / 10 * (change + 0.01 * ((-1) ** seed + prompts)))
        ),
    )
    run.folder = Path(f"{method}-{seed}")
    return run


def _runs(changes: dict[str, float], seeds: int = 4) -> Any:
    return {name: {seed: _run(name, seed, change) for seed in range(seeds)} for name, change in changes.items()}


@pytest.mark.parametrize(("change", "verdict"), [(-0.3, "holds"), (0.1, "fails"), (-0.05, "undecided")])
def test_the_effective_number_falls_or_not(change: float, verdict: str) -> None:
    found = _narrows(_runs({"PSR": change, "NSR": -0.3, "other": 0.0}), "path")
    assert list(found) == ["path, PSR", "path, NSR"]
    assert found["path, PSR"].verdict == verdict
    assert found["path, NSR"].verdict == "holds"
    own, *gaps = found["path, NSR"].effects
    assert own.value == pytest.approx(-0.3, abs=0.005)
    assert [effect.value for effect in gaps[:2]] == pytest.approx([change + 0.3] * 2, abs=1e-9)
    assert len(gaps) == 3


def test_other_methods_alone_are_refused() -> None:
    with pytest.raises(UsageError, match="labelled PSR, NSR, GRPO"):
        all_claims()["F7"].judge(_runs({"other": 0.0}))  # type: ignore[misc]


@pytest.mark.parametrize(("slope", "verdict"), [(0.5, "holds"), (0.0, "depends")])
def test_both_parts_make_the_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slope: float, verdict: str
) -> None:
    def methods(self: Evidence, study: Any) -> Any:
        return _runs(dict.fromkeys(study.methods, -0.3))

    def shift(folder: Path, base: str, seed: int) -> Shift:
        return Shift(0.1 + 0.01 * seed, slope + 0.001 * seed)

    monkeypatch.setattr(Evidence, "methods", methods)
    monkeypatch.setattr(Evidence, "diverged", lambda self, study: {"NSR": [3]} if study is _WEIGHTS[1] else {})
    monkeypatch.setattr(correct_responses, "shift_of_run", shift)
    monkeypatch.setattr(diversity, "MAIN", diversity.MAIN[:1])
    decision = all_claims()["F7"].decide(Evidence(tmp_path))
    assert decision.verdict == verdict
    assert "Diverged and left out: 1 of NSR in path, SGD" in decision.reason
    assert len(decision.tables["correct responses"]["slope"]) == 8 * 4
    assert decision.tables["table"]["optimizer"] == ["adam", "sgd"]


def test_slope_and_divergence_are_their_definitions() -> None:
    """Against a weighted least-squares fit with an intercept for each prompt, and the sum over responses."""
    generator = torch.Generator().manual_seed(0)
    before = [torch.randn(n, generator=generator, dtype=torch.float64) - 4 for n in (3, 5)]
    after = [row + 0.4 * row + 0.1 * torch.randn(len(row), generator=generator, dtype=torch.float64) for row in before]
    found = shift_of(before, after)
    rows, targets, kl = [], [], 0.0
    for index, (old, new) in enumerate(zip(before, after, strict=True)):
        q0, q = (part.exp().numpy() / float(part.exp().sum()) for part in (old, new))
        kl += float((q * np.log(q / q0)).sum()) / 2
        root = np.sqrt(q0)
        rows += [root * old.numpy(), root * (index == 0), root * (index == 1)]
        targets.append(root * (new - old).numpy())
    design = np.concatenate([np.stack(rows[:3], 1), np.stack(rows[3:], 1)])
    fitted = np.linalg.lstsq(design, np.concatenate(targets), rcond=None)[0]
    assert found.slope == pytest.approx(fitted[0], rel=1e-9)
    assert found.kl == pytest.approx(kl, rel=1e-9)
    same = shift_of(before, [row + 2 for row in before])
    assert (same.kl, same.slope) == (pytest.approx(0.0, abs=1e-12), pytest.approx(0.0, abs=1e-12))
    with pytest.raises(UsageError, match="two correct responses"):
        shift_of([torch.zeros(1)], [torch.zeros(1)])


def test_adam_conserves_and_sgd_narrows_on_tables() -> None:
    table = check_conservation()
    assert float(table["greatest"][0]) < 1e-5
    assert float(table["mean"][1]) < -0.1


def test_a_run_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"set record\.checkpoint"):
        shift_of_run(tmp_path, "path", 0)


def test_the_studies_are_valid_recipes() -> None:
    assert [len(study.runs) for study in _WEIGHTS] == [24, 12, 8]


@pytest.mark.slow  # loads a base twice and enumerates
def test_a_saved_base_has_not_moved(tmp_path: Path) -> None:
    from toy_models import load_policy

    load_policy("tiny").save(tmp_path / "checkpoints" / "final")
    found = shift_of_run(tmp_path, "tiny", 0, prompts=4)
    assert (found.kl, found.slope) == (pytest.approx(0.0, abs=1e-12), pytest.approx(0.0, abs=1e-12))
