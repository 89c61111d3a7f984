"""The data of the figures, against numbers worked out from what the records were made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.records import Experiment
from analysis.records.token_text import decoder
from analysis.report import curves
from analysis.report.bands import band, ratio
from analysis.report.token_pictures import FlowData, token_picture
from tests.report.by_hand import STEPS, make_experiment, panel_after, panel_distributions, success


def test_band_over_units_of_one_seed() -> None:
    data = pd.DataFrame({"label": "PSR", "seed": 0, "step": 3, "value": [1.0, 2.0, 6.0, 7.0] * 5})
    (row,) = band(data, ["step"]).to_dict("records")
    half = stats.t.ppf(0.975, 19) * np.std([1, 2, 6, 7] * 5, ddof=1) / np.sqrt(20)  # symmetric: Student's
    assert row["value"] == pytest.approx(4.0)
    assert row["low"] == pytest.approx(4.0 - half)
    assert row["high"] == pytest.approx(4.0 + half)
    (row,) = band(data.iloc[:3], ["step"]).to_dict("records")
    assert np.isnan(row["low"])
    assert row["reason"] == "fewer than 16 prompts (3)"


def test_band_over_seeds_uses_their_means() -> None:
    data = pd.DataFrame(
        {
            "label": "PSR",
            "seed": [0, 0, 1, 1, 2, 2],
            "step": 0,
            "value": [1.0, 3.0, 2.0, 4.0, 3.0, 5.0],
        }
    )
    (row,) = band(data, ["step"]).to_dict("records")
    half = 1.07 * stats.t.ppf(0.975, 2) * 1.0 / np.sqrt(3)  # means 2, 3, 4; wider for three seeds
    assert row["value"] == pytest.approx(3.0)
    assert row["high"] == pytest.approx(3.0 + half)


def test_band_of_a_yes_or_no_stays_in_range() -> None:
    data = pd.DataFrame({"label": "PSR", "seed": 0, "step": 0, "value": [False] * 12})
    (row,) = band(data, ["step"]).to_dict("records")
    assert row["value"] == row["low"] == 0.0
    assert row["high"] == pytest.approx(1 - 0.025 ** (1 / 12))  # 0 of 12: Clopper and Pearson


def test_a_ratio_beside_the_jackknife_over_units() -> None:
    """Of whole units, 60 of them: the jackknife's standard error agrees to first order in 1/units."""
    rng = np.random.default_rng(0)
    units = rng.integers(60, size=600)
    below = rng.gamma(2.0, size=600)
    above = below * (0.3 + 0.2 * rng.random(60))[units]
    found = ratio(units, above, below)
    without = [above[units != u].sum() / below[units != u].sum() for u in range(60)]
    half = stats.t.ppf(0.975, 59) * np.sqrt(59 / 60 * ((np.array(without) - np.mean(without)) ** 2).sum())
    assert found.estimate == pytest.approx(above.sum() / below.sum())
    assert found.estimate - found.low == pytest.approx(half, rel=0.1)
    assert found.high - found.estimate == pytest.approx(half, rel=0.1)
    parts = ratio(np.arange(20), np.full(20, 0.98) + 0.02 * (np.arange(20) % 2), np.ones(20))
    assert parts.high <= 1.0


def test_band_leaves_out_missing_values_and_intervals_of_single_ones() -> None:
    data = pd.DataFrame({"label": "PSR", "seed": 0, "step": [0, 0, 1], "value": [2.0, np.nan, np.nan]})
    (row,) = band(data, ["step"]).to_dict("records")
    assert (row["step"], row["value"]) == (0, 2.0)
    assert np.isnan(row["low"])


def test_a_column_against_pass_at_1_of_the_same_evaluation(experiment: Experiment) -> None:
    found = curves.against_pass_at_1(list(experiment.runs.values()), "entropy_fixed").set_index(["label", "step"])
    assert found.loc[("PSR", 2), "value"] == pytest.approx(0.8)
    assert found.loc[("NSR", 1), "reached"] == pytest.approx(np.mean([success("NSR", 1, i, 1.0) for i in range(6)]))


def test_groups_of_rollouts(experiment: Experiment) -> None:
    found = curves.rollout_groups([experiment.runs["nsr-seed0"]]).groupby("step")[["correct", "solved"]].mean()
    assert found.loc[1].tolist() == pytest.approx([0.75, 0.5])


def test_pass_at_1_is_that_of_validation_prompts_at_the_first_temperature(experiment: Experiment) -> None:
    found = curves.pass_at_1(list(experiment.runs.values())).set_index(["label", "step"])["value"]
    expected = np.mean([success("PSR", 2, i, 1.0) for i in range(6)])
    assert found["PSR", 2] == pytest.approx(expected)


def test_only_prompts_of_every_evaluation_count(tmp_path: Path) -> None:
    folder = tmp_path / "e"
    whole = make_experiment(folder, labels=("PSR",))
    run = whole.runs["psr-seed0"]
    rows = run.table("evals")
    part = rows[(rows["step"] != 1) | rows["prompt_id"].isin(["t0", "t1", "v0", "v1"])]
    run.table = lambda name, *_, **__: part[part["split"] == "test"] if name == "evals" else None  # type: ignore[method-assign]
    assert set(curves.evaluations([run], "test")["prompt_id"]) == {"t0", "t1"}


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_pass_at_k_of_base_and_last_policies(experiment: Experiment, temperature: float) -> None:
    found = curves.pass_at_k_curves(list(experiment.runs.values()))
    found = found[found["sampling"] == f"T = {temperature:g}"].set_index(["quantity", "label", "k"])
    for label, step in (("base", 0), ("NSR", STEPS)):
        p = np.array([success("NSR", step, i, temperature) for i in range(6)])
        assert found.loc[("value", label, 8), "value"] == pytest.approx(np.mean(1 - (1 - p) ** 8))
    gain = found.loc[("difference", "PSR", 1)]
    assert gain["value"] == pytest.approx(0.2)
    assert np.isnan(gain["low"])
    assert gain["reason"] == "fewer than 32 prompts (6)"
    assert found.loc[("value", "PSR", 1), "reason"] == "fewer than 10 prompts (6)"


def test_pass_at_k_over_seeds(three_seeds: Experiment) -> None:
    found = curves.pass_at_k_curves(list(three_seeds.runs.values()))
    row = found.set_index(["sampling", "quantity", "label", "k"]).loc[("T = 1", "value", "PSR", 1)]
    assert row["value"] == pytest.approx(np.mean([success("PSR", STEPS, i, 1.0) for i in range(6)]))
    assert row["high"] == pytest.approx(row["low"])  # the seeds are equal here


def test_bucket_flow_is_summed_over_updates(experiment: Experiment) -> None:
    data = FlowData.of(experiment.runs.values())
    found = data.bucket_flows().set_index(["label", "bucket", "update"])
    distributions = panel_distributions()
    head = np.mean([panel_after(probs, 1).max() - probs.max() for probs in distributions])
    for update in range(2 * STEPS):
        assert found.loc[("PSR", "1", update), "value"] == pytest.approx((update + 1) * head, rel=1e-5)
    assert found.loc[("PSR", "1", 0), "reason"] == "fewer than 16 prompts (2)"
    assert "129–1024" not in found.index.get_level_values("bucket")
    total = found.loc["NSR"].groupby("update")["value"].sum()
    assert total.abs().max() < 1e-6  # mass is conserved


def test_token_picture_follows_its_rule(experiment: Experiment) -> None:
    run = experiment.runs["nsr-seed0"]
    picture = token_picture(run, -1)
    assert picture is not None
    rows = run.flows()
    chosen = rows.loc[rows["tv"].where(rows["weight"] < 0).idxmax()]
    assert picture.update == chosen["update"]
    assert picture.weight == pytest.approx(-0.1)
    assert picture.entropy_nats == pytest.approx(chosen["entropy_before"])
    tokens = picture.tokens.set_index("text")
    assert tokens["sampled"].sum() == 1
    assert tokens.index[tokens["sampled"]][0] == picture.token
    y = tokens[tokens["sampled"]].iloc[0]
    assert y["gradient"] == pytest.approx(-(1 - y["before"]))
    others = tokens[~tokens["sampled"]]
    assert others["gradient"].to_numpy() == pytest.approx(others["before"].to_numpy())
    assert tokens["before"].is_monotonic_decreasing
    # the free constant of Δz drops out of differences
    dlog = np.log(tokens["after"] / tokens["before"])
    assert np.diff(tokens["dlogit"]) == pytest.approx(np.diff(dlog), abs=1e-4)


def test_token_picture_of_a_sign_that_had_no_weight(experiment: Experiment) -> None:
    assert token_picture(experiment.runs["nsr-seed0"], 1) is None


def test_words_from_records_without_a_checkpoint(experiment: Experiment) -> None:
    decode = decoder(experiment.runs["psr-seed0"])
    assert decode([1, 4, 9]) == "w1 w4 #9"
