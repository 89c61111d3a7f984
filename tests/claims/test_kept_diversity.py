"""X1: the rule that chooses the recipe, the stages that train what it chose, and the verdict of the test."""

from __future__ import annotations

from typing import Any

import pytest

from analysis.claims import Decision
from analysis.claims.entries import kept_diversity
from analysis.claims.entries.kept_diversity import (
    CHOSEN,
    CLIPPING,
    RIVALS,
    SCREENING,
    chosen_fields,
    decide_tests,
    final_studies,
    tuning_studies,
)
from analysis.claims.studies import PATH_B
from analysis.claims.study import Study
from tests.claims.fake_runs import FakeRun, straight_run

FACTORS = ("noise", "drop", "reuse", "optimizer")


def falling_run(loss: float, gain: float = 0.1) -> FakeRun:
    """Validation Pass@1 rises as in `straight_run`. The p of every test prompt, 0.006 at the start, falls by this share
    of it to the end, and Pass@256 with it."""
    evals = straight_run(gain, -1.0).tables["evals"].copy()
    test = 0.006 * (1 - loss * evals["step"] / 8)
    return FakeRun({"evals": evals.assign(p=evals["p"].where(evals["split"] == "validation", test))})


def _runs(losses: dict[str, float], seeds: int = 4) -> dict[str, dict[int, Any]]:
    return {
        name: {seed: falling_run(loss * (1 + 0.02 * seed)) for seed in range(seeds)} for name, loss in losses.items()
    }


def _kept(**signs: int) -> dict[str, list[Any]]:
    """Table "kept" of S2 with intervals that exclude 0 where a sign is given."""
    values = [0.02 * signs.get(name, 0) for name in FACTORS]
    return {
        "factor": list(FACTORS),
        "value": values,
        "low": [value - 0.01 for value in values],
        "high": [value + 0.01 for value in values],
        "n": [16] * 4,
    }


OBJECTIVES = {"PSR": 0.5, "NSR": 0.5, "W-REINFORCE": 0.5, "GRPO": 0.5, "MaxRL": 0.1, "REINFORCE": 0.5}
CLIPS = {"clip both": 0.5, "clip low alone": 0.2, "clip high alone": 0.5, "clip none": 0.5}


def test_the_rule_takes_what_kept_the_most_and_otherwise_the_default() -> None:
    fields = chosen_fields(_kept(), _runs(OBJECTIVES), _runs(CLIPS))
    assert fields == {
        "objective.name": "maxrl",
        "objective.form": "ratio",
        "objective.clip_low": 0.2,
        "objective.clip_high": "unset",
    }


def test_the_rule_follows_the_signs_of_the_decomposition() -> None:
    kept = _kept(noise=-1, drop=1, reuse=1, optimizer=-1)
    fields = chosen_fields(kept, _runs({**OBJECTIVES, "PSR": 0.05}), _runs({**CLIPS, "clip both": 0.1}))
    assert fields["objective.name"] == "psr"
    assert (fields["rollout.group_size"], fields["rollout.prompts"]) == (16, 64)
    assert (fields["update.rows"], fields["update.minibatch_size"]) == ("drop", 256)
    assert fields["update.epochs"] == 4
    assert fields["optimizer.name"] == "sgd"
    assert kept_diversity.rate_of(fields) == pytest.approx(0.06 / 4)  # four passes share it
    assert (fields["objective.clip_low"], fields["objective.clip_high"]) == (0.2, 0.2)
    small = chosen_fields(_kept(noise=1, drop=-1), _runs(OBJECTIVES), _runs(CLIPS))
    assert small["rollout.group_size"] * small["rollout.prompts"] == 1024
    assert small["update.rows"] == "keep"
    unknown = {**_kept(noise=1), "low": [None] * 4, "high": [None] * 4}  # effects without an interval
    assert "rollout.group_size" not in chosen_fields(unknown, _runs(OBJECTIVES), _runs(CLIPS))


def test_a_method_that_shares_no_pass_at_1_is_not_chosen() -> None:
    runs = _runs(OBJECTIVES)
    runs["MaxRL"] = {seed: straight_run(-0.2, -1.0) for seed in range(4)}
    assert chosen_fields(_kept(), runs, _runs(CLIPS))["objective.name"] != "maxrl"


class FakeEvidence:
    """Runs by the name of their study."""

    def __init__(self, accuracies: dict[float, dict[str, float]]) -> None:
        self.decisions = {"S2": Decision("depends", "It was made.", depends_on="this", tables={"kept": _kept()})}
        self.accuracies = accuracies

    def methods(self, study: Study) -> dict[str, dict[int, Any]]:
        if study in (PATH_B, SCREENING):
            return _runs({name: OBJECTIVES.get(name, 0.5) for name in study.methods})
        if study == CLIPPING:
            return _runs(CLIPS)
        times = float(study.name.split()[1]) if study.name.startswith("countdown") else 1.0
        gains = self.accuracies.get(times, {})
        return {
            name: {} if gains.get(name) is None else {seed: straight_run(gains[name], -1.0) for seed in (100, 101)}
            for name in study.methods
        }


def test_stages_give_every_method_the_same_rates_and_take_the_best_of_each() -> None:
    names = (CHOSEN, *RIVALS)
    accuracies = {
        0.5: dict.fromkeys(names, 0.02),
        1.0: dict.fromkeys(names, 0.05),
        2.0: {**dict.fromkeys(names, 0.01), CHOSEN: 0.2},
    }
    del accuracies[2.0]["NSR"]  # diverged
    evidence: Any = FakeEvidence(accuracies)
    tuned = tuning_studies(evidence)
    rates_of_psr = [study.methods["PSR"]["optimizer.lr"] for study in tuned]
    assert rates_of_psr == pytest.approx([7.5e-5, 1.5e-4, 3e-4] * 2)  # on countdown, then on path
    assert {tuple(study.methods) for study in tuned} == {names}
    assert {run.seed for study in tuned for run in study.runs} == {100, 101}
    study, on_path = final_studies(evidence)
    rates = {name: fields["optimizer.lr"] for name, fields in study.methods.items()}
    assert rates == pytest.approx({**dict.fromkeys(names, 1.5e-4), CHOSEN: 3e-4})
    assert {run.seed for run in study.runs} == set(range(200, 208))
    assert {run.planned.config.policy.seed for run in study.runs} == set(range(8))
    assert {run.planned.config.policy.seed for run in on_path.runs} == set(range(8, 16))  # bases of no other entry
    assert on_path.methods[CHOSEN]["optimizer.lr"] == pytest.approx(7.5e-5)  # tuned on path, where all rates are equal
    assert final_studies(evidence) == (study, on_path)  # the same evidence, the same runs


def test_the_verdict_of_the_tests() -> None:
    others = dict.fromkeys(RIVALS, 0.6)
    better, worse = _runs({CHOSEN: 0.1, **others}, 8), _runs({CHOSEN: 0.7, **others, "GRPO": 0.1}, 8)
    decision = decide_tests({"countdown": better, "path": better})
    assert decision.verdict == "holds"
    assert len(decision.effects) == 2 * 15
    assert decision.effects[0].label == "Pass@256: chosen − PSR, equal Pass@1"
    assert decide_tests({"countdown": worse, "path": worse}).verdict == "fails"
    both = decide_tests({"countdown": better, "path": worse})
    assert (both.verdict, both.depends_on) == ("depends", "holds: countdown; fails: path")
    same = _runs({CHOSEN: 0.3, **dict.fromkeys(RIVALS, 0.3)}, 8)
    assert "within ±0.01" in decide_tests({"countdown": same}).reason


def test_one_rival_that_is_as_good_leaves_it_open() -> None:
    runs = _runs({CHOSEN: 0.1, **dict.fromkeys(RIVALS, 0.6)}, 8)
    wide = [0.4, -0.4, 0.5, -0.5, 0.3, -0.3, 0.2, -0.2]
    runs["GRPO"] = {seed: falling_run(max(0.0, 0.1 + value)) for seed, value in enumerate(wide)}
    decision = decide_tests({"countdown": runs})
    assert decision.verdict == "undecided"
    assert decision.missing.startswith("countdown: GRPO: ")
    assert kept_diversity.CLAIMS[0].after == ("S2",)
