"""Methods beside each other over training: what is drawn equals what is recorded."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from analysis import UsageError
from analysis.records import Experiment
from analysis.report import NothingToDraw, compare_figure, compared_curves
from tests.report.by_hand import success


def runs(experiment: Experiment) -> list:
    return list(experiment.runs.values())


def test_pass_at_k_of_each_method_at_each_step(experiment: Experiment) -> None:
    data = compared_curves(runs(experiment), "pass@8").set_index(["label", "step"])["value"]
    for label in ("PSR", "NSR"):
        for step in range(3):
            p = np.array([success(label, step, i, 1.0) for i in range(6)])
            assert data[label, step] == pytest.approx(np.mean(1 - (1 - p) ** 8))


def test_intervals_are_over_the_seeds(three_seeds: Experiment) -> None:
    data = compared_curves(runs(three_seeds), "entropy_fixed")
    last = data[(data["label"] == "NSR") & (data["step"] == 2)].iloc[0]
    means = []
    for seed in (0, 1, 2):
        rows = three_seeds.runs[f"nsr-seed{seed}"].table("evals")
        rows = rows[(rows["split"] == "test") & (rows["temperature"] == 1.0) & (rows["step"] == 2)]
        means.append(rows["entropy_fixed"].mean())
    half = stats.t.ppf(0.975, 2) * np.std(means, ddof=1) / np.sqrt(3)
    assert (last["value"], last["low"], last["high"]) == pytest.approx(
        (np.mean(means), np.mean(means) - half, np.mean(means) + half)
    )


def test_against_updates_the_values_are_the_same(experiment: Experiment) -> None:
    by_step = compared_curves(runs(experiment), "pass@1")
    by_update = compared_curves(runs(experiment), "pass@1", x="update")
    assert by_update["value"].tolist() == by_step["value"].tolist()
    made = experiment.runs["psr-seed0"].table("evals").groupby("step")["update"].first()
    assert by_update[by_update["label"] == "PSR"]["update"].tolist() == made.tolist()


def test_the_figure_draws_these_numbers(experiment: Experiment) -> None:
    figure = compare_figure(experiment, ["pass@1", "entropy_fixed"], x="update")
    assert [ax.get_ylabel() for ax in figure.axes] == ["Pass@1", "entropy (nats)"]
    assert figure.axes[-1].get_xlabel() == "optimiser update"
    for ax, metric in zip(figure.axes, ("pass@1", "entropy_fixed"), strict=True):
        data = compared_curves(runs(experiment), metric, x="update")
        for label, rows in data.groupby("label"):
            line = next(line for line in ax.lines if line.get_label() == label)
            np.testing.assert_allclose(line.get_xydata(), rows[["update", "value"]].to_numpy(float))
        assert {text.get_text() for text in ax.texts} == {"PSR", "NSR"}
    assert not compare_figure(experiment.runs["psr-seed0"]).axes[0].texts  # one line needs no name


def test_what_cannot_be_compared_is_refused(experiment: Experiment) -> None:
    with pytest.raises(UsageError, match="metric"):
        compare_figure(experiment, ["pass@one"])
    with pytest.raises(UsageError, match="expected a mean over prompts, got p_std; choose one of pass@1"):
        compare_figure(experiment, ["p_std"])
    with pytest.raises(UsageError, match="x: expected step or update, got 'time'"):
        compare_figure(experiment, x="time")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="at least one metric"):
        compare_figure(experiment, [])
    with pytest.raises(NothingToDraw, match="no evaluation recorded pass@1, entropy_fixed, pass@8"):
        compare_figure([])
