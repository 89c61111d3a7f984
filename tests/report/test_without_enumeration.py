"""Experiments on tasks that cannot list their solutions: what is estimated, from how many samples, and what is left."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.errors import UsageError
from analysis.evaluation import matched
from analysis.records import Experiment
from analysis.report import Summary, pass_at_k_figure, summarize
from analysis.report.__main__ import main
from analysis.report.figures import NothingToDraw, dynamics_figure
from tests.report.by_hand import STEPS, make_experiment, sampled_correct


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """PSR and NSR with four samples a prompt."""
    return make_experiment(tmp_path_factory.mktemp("sampled"), samples=4)


@pytest.fixture(scope="module")
def summary(sampled: Experiment) -> Summary:
    return summarize(sampled)


def rows(summary: Summary, start: str) -> dict[str, dict[str, Any]]:
    (found,) = [one for one in summary.to_json()["tables"] if one["title"].startswith(start)]
    return {row["method"]: row for row in found["rows"]}


def drawn_at_random(correct: Sequence[int], k: int) -> float:
    """Mean over prompts of the probability that k of the 4 samples, drawn without replacement, hold a correct one."""
    return float(np.mean([1 - math.comb(4 - c, k) / math.comb(4, k) for c in correct]))


def test_the_tables_hold_what_there_is(summary: Summary) -> None:
    found = rows(summary, "at equal steps")
    assert list(found["PSR"]) == [
        *("method", "step", "updates", "pass_at_1", "pass_at_2", "pass_at_4", "entropy_nats", "correct_rollouts")
    ]
    correct = [sampled_correct("PSR", STEPS, i) for i in range(6)]
    for k in (1, 2, 4):
        assert found["PSR"][f"pass_at_{k}"]["value"] == pytest.approx(drawn_at_random(correct, k))
    note = next(table.note for table in summary.tables if table.title.startswith("at equal steps"))
    assert "effective solutions" not in note


def test_matched_at_the_estimate_and_says_so(summary: Summary) -> None:
    found = rows(summary, "at equal Pass@1 = 0.417 on validation prompts, estimated from 4 samples each")
    assert found["PSR"]["step"]["value"] == pytest.approx(1.0)  # c = 10 of 24 there
    assert found["NSR"]["step"]["value"] == pytest.approx(2.0)
    assert found["PSR"]["entropy_nats"]["value"] == pytest.approx(0.9)
    note = next(table.note for table in summary.tables if table.title.startswith("at equal Pass@1"))
    # 1, 1, 2, 2, 3, 3 of four: √(Σ p(1 − p)/3) / 6
    error = math.sqrt(sum(c / 4 * (1 - c / 4) / 3 for c in (1, 1, 2, 2, 3, 3))) / 6
    assert f"too early, by a part of its standard error ({error:.3f} at the end of the first run)" in note


def test_every_level_without_effective_solutions(summary: Summary) -> None:
    found = rows(summary, "entropy and effective solutions")
    assert list(found["PSR"])[1:] == [f"entropy_nats_at_level_{i}" for i in (1, 2, 3, 4)]


def test_matching_at_estimates_is_asked_for(sampled: Experiment) -> None:
    with pytest.raises(UsageError, match=r"got missing ones in run psr-seed0; .* which estimated=True allows"):
        matched(sampled.runs, "pass@1")
    assert matched(sampled.runs, "pass@2", estimated=True).table["reached"].any()


def test_one_sample(tmp_path: Path) -> None:
    found = summarize(make_experiment(tmp_path, contexts=False, samples=1))
    assert [name for name in rows(found, "at equal steps")["PSR"] if name.startswith("pass")] == ["pass_at_1"]
    assert "estimated from 1 sample each" in found.to_markdown()


def test_no_sample(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, contexts=False, samples=0)
    with pytest.raises(UsageError, match="got neither p nor samples in run psr-seed0"):
        summarize(experiment)
    with pytest.raises(NothingToDraw, match="no evaluation with Pass@1 was recorded"):
        dynamics_figure(list(experiment.runs.values()))


class TestFigures:
    def test_pass_at_k_up_to_the_samples(self, sampled: Experiment) -> None:
        figure = pass_at_k_figure(list(sampled.runs.values()))
        assert len(figure.axes) == 2  # one temperature
        (line,) = [line for line in figure.axes[0].lines if line.get_label() == "PSR"]
        assert list(line.get_xdata()) == [1, 2, 4]
        correct = [sampled_correct("PSR", STEPS, i) for i in range(6)]
        assert list(line.get_ydata()) == pytest.approx([drawn_at_random(correct, k) for k in (1, 2, 4)])
        assert any("estimated from 4 samples a prompt" in text.get_text().replace("\n", " ") for text in figure.texts)

    def test_one_sample_gives_no_curve(self, tmp_path: Path) -> None:
        runs = list(make_experiment(tmp_path, contexts=False, samples=1).runs.values())
        with pytest.raises(NothingToDraw, match="or with several samples a prompt"):
            pass_at_k_figure(runs)

    def test_dynamics_name_the_estimate(self, sampled: Experiment) -> None:
        figure = dynamics_figure(list(sampled.runs.values()))
        assert {ax.get_xlabel() for ax in figure.axes} == {"step", "Pass@1, estimated"}
        assert figure.axes[0].get_ylabel() == "Pass@1, estimated"
        assert all(len(np.asarray(line.get_xdata())) for ax in figure.axes for line in ax.lines)

    @pytest.mark.slow
    def test_all_of_them_and_the_page(self, sampled: Experiment, capsys: pytest.CaptureFixture[str]) -> None:
        assert main([str(sampled.folder), "--figures", str(sampled.folder / "pictures"), "--json"]) == 0
        out, err = capsys.readouterr()
        assert "NaN" not in out
        assert err == ""  # no figure was left out
        assert len(list((sampled.folder / "pictures").glob("*.png"))) == 6
