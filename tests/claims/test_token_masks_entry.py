"""F10 from planted runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.claims.conjunctions import judged
from analysis.claims.entries import token_masks
from analysis.claims.entries.token_masks import _LIKELY, _RARE, _REST, _STUDIES, _TOP, _masks
from analysis.claims.registry import all_claims
from analysis.errors import UsageError
from tests.claims.by_hand import hand_runs


def _p(gain: float) -> Any:
    return lambda seed, step, prompts: (
        0.3 + 0.1 * np.tanh(prompts) + gain * step / 10 * (1 + 0.02 * ((-1) ** seed + prompts))
    )


def _runs(top: float, rest: float, rare: float | None = None, likely: float = 0.3) -> Any:
    """All tokens gain 0.3; `rare` and `likely` are the fractions of the norm that the masks by probability keep."""
    methods = {"GRPO": _p(0.3), _TOP: _p(top), _REST: _p(rest)}
    if rare is not None:
        methods |= {_RARE: _p(0.3), _LIKELY: _p(0.3)}
    runs = hand_runs(methods)
    for method, share in ((_RARE, rare), (_LIKELY, likely)):
        for seed, run in runs.get(method, {}).items():
            scale = [1 / (share + 0.01 * seed), 1 / (share + 0.01 * seed), np.nan]
            run._tables["updates"] = pd.DataFrame({"skipped": [False, False, True], "mask_scale": scale})
    return runs


@pytest.mark.parametrize(
    ("top", "rest", "verdict"), [(0.3, 0.1, "holds"), (0.1, 0.1, "fails"), (0.3, 0.3, "fails"), (0.28, 0.1, "open")]
)
def test_the_fifth_suffices_and_is_needed(top: float, rest: float, verdict: str) -> None:
    """Enough and needed; not enough; not needed; on the margin."""
    found = _masks(_runs(top, rest), "path")
    steps = found["path, high entropy, equal steps"]
    assert steps.verdict == ("undecided" if verdict == "open" else verdict)
    assert found["path, high entropy, equal updates"].verdict == steps.verdict
    assert steps.effects[0].value == pytest.approx(top - 0.3, abs=2e-3)
    assert steps.tables["masks"]["kept"] == [_TOP, _TOP, _REST, _REST]
    assert len(found) == 3  # the matching at equal Pass@1 too, and no norm without its runs


@pytest.mark.parametrize(("rare", "likely", "verdict"), [(0.8, 0.4, "holds"), (0.3, 0.9, "fails"), (0.7, 0.9, "fails")])
def test_the_norm_of_improbable_tokens(rare: float, likely: float, verdict: str) -> None:
    decision = _masks(_runs(0.3, 0.1, rare, likely), "path")["path, low probability, gradient norm"]
    assert decision.verdict == verdict
    assert decision.effects[0].value == pytest.approx(rare + 0.015)


def test_users_need_masks_at_equal_norm() -> None:
    runs = _runs(0.3, 0.1, 0.8)
    assert judged(runs, _masks, "GRPO", _TOP, _REST).verdict == "holds"
    for run in runs[_RARE].values():
        run._tables["updates"]["mask_scale"] = np.nan
    with pytest.raises(UsageError, match=r"set update\.mask_norm"):
        judged(runs, _masks, "GRPO", _TOP, _REST)
    with pytest.raises(UsageError, match=f"got none of {_REST}"):
        all_claims()["F10"].judge({name: runs[name] for name in ("GRPO", _TOP)})  # type: ignore[misc]


def test_the_studies_are_valid_and_share_the_unmasked_runs() -> None:
    from analysis.claims.studies import COUNTDOWN_B, PATH_B

    for study, shared in zip(_STUDIES, (PATH_B, COUNTDOWN_B), strict=True):
        main = {run.planned.run_id for run in shared.runs}
        assert {run.method for run in study.runs if run.planned.run_id in main} == {"GRPO"}
        assert len(study.runs) == 4 * (1 + len(token_masks._MASKED))
