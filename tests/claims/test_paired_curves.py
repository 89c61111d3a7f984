"""Values of pairs of runs against `evaluation.matched`, which reads them by another route."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from analysis.claims.comparisons import MATCHINGS
from analysis.claims.paired_curves import paired_values
from analysis.errors import UsageError
from analysis.evaluation.matching import EmptyRangeError, matched
from tests.claims.planted import World, planted


@pytest.mark.parametrize("at", MATCHINGS)
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_values_are_those_of_matched(at: str, temperature: float) -> None:
    worlds = {"NSR": World(), "PSR": World(accuracy=lambda t: 0.35 + 0.4 * t, updates=3)}
    nsr, psr = (runs[0] for runs in planted(worlds, 1).values())
    metrics = ["pass@8", "entropy_fixed"]
    found = paired_values(nsr, psr, metrics, at, temperature=temperature)  # type: ignore[arg-type]
    oracle = matched({"a": nsr, "b": psr}, metrics, at, temperature=temperature, resamples=2)  # type: ignore[arg-type]
    levels = sorted(set(oracle.table["level"]))
    assert len(levels) == (4 if at == "pass@1" else 1)
    for metric in metrics:
        expected = np.mean([oracle.values(x, "a", metric) - oracle.values(x, "b", metric) for x in levels], axis=0)
        np.testing.assert_allclose(found[metric], expected, rtol=0, atol=1e-14)


def test_prompts_that_one_run_lacks_are_left_out() -> None:
    (nsr,) = planted({"NSR": World()}, 1)["NSR"].values()
    psr = replace(nsr, label="PSR", tables={})
    evals = psr.table("evals")
    psr.tables["evals"] = evals[~evals["prompt_id"].isin(["testprompt03", "validationprompt05"])]
    found = paired_values(nsr, psr, ["pass@8"], "step")  # type: ignore[arg-type]
    assert len(found["pass@8"]) == 59


def test_what_cannot_be_paired_is_refused() -> None:
    runs = planted({"NSR": World(), "PSR": World(accuracy=lambda t: 0.9)}, 1)
    nsr, psr = runs["NSR"][0], runs["PSR"][0]
    with pytest.raises(EmptyRangeError):
        paired_values(nsr, psr, ["pass@8"], "pass@1")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="expected test prompts at temperature 2 without truncation"):
        paired_values(nsr, psr, ["pass@8"], "step", temperature=2.0)  # type: ignore[arg-type]
    lacking = replace(nsr, tables={"evals": nsr.table("evals").assign(mode_mass=float("nan"))})
    with pytest.raises(UsageError, match="mode_mass is missing"):
        paired_values(lacking, psr, ["mode_mass"], "step")  # type: ignore[arg-type]
