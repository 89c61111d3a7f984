"""Figures as files, what is left out and why, and that every text is inside and legible."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from analysis.records import Experiment, Run
from analysis.report import (
    dynamics_figure,
    flow_diagram_figure,
    mass_flow_figure,
    pass_at_k_figure,
    prediction_figure,
    step_shares_figure,
    token_figure,
    token_picture,
)
from analysis.report.__main__ import main
from analysis.report.figures import NothingToDraw
from analysis.report.token_pictures import FlowData
from tests.report.by_hand import NOW, make_experiment, success

NAMES = ("dynamics", "pass_at_k", "token_gradient", "flow_diagram", "mass_flow", "prediction_and_outcome")
DRAW: dict[str, Callable[[Sequence[Run]], Figure]] = dict(
    zip(
        NAMES,
        (
            dynamics_figure,
            pass_at_k_figure,
            token_figure,
            flow_diagram_figure,
            mass_flow_figure,
            prediction_figure,
        ),
        strict=True,
    )
)


def visible_texts(figure: Figure) -> list[Text]:
    return [text for text in figure.findobj(Text) if text.get_visible() and str(text.get_text()).strip()]


@pytest.mark.parametrize("name", NAMES)
def test_every_text_is_inside_and_large_enough(experiment: Experiment, name: str) -> None:
    figure = DRAW[name](list(experiment.runs.values()))
    assert 3.3 <= figure.get_figwidth() <= 6.9
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    page = figure.bbox
    for text in visible_texts(figure):
        box = text.get_window_extent()
        assert text.get_fontsize() >= 7, text.get_text()
        if text.get_clip_on():
            continue
        inside = page.x0 - 1 <= box.x0 and box.x1 <= page.x1 + 1 and page.y0 - 1 <= box.y0 and box.y1 <= page.y1 + 1
        assert inside, (text.get_text(), box, page)


@pytest.mark.parametrize("name", NAMES)
def test_tick_labels_of_an_axis_do_not_overlap(experiment: Experiment, name: str) -> None:
    figure = DRAW[name](list(experiment.runs.values()))
    FigureCanvasAgg(figure).draw()
    for ax in figure.axes:
        for axis, straight in ((ax.xaxis, ax.get_xticklabels()), (ax.yaxis, ax.get_yticklabels())):
            shown = [label for label in straight if label.get_text() and label.get_rotation() == 0]
            low, high = sorted(axis.get_view_interval())
            positions = [label.get_position()[0 if axis is ax.xaxis else 1] for label in shown]
            boxes = [b.get_window_extent() for b, at in zip(shown, positions, strict=True) if low <= at <= high]
            for i, box in enumerate(boxes):
                assert not any(box.overlaps(other) for other in boxes[i + 1 :]), (name, shown[i].get_text())


@pytest.mark.parametrize("name", ["dynamics", "pass_at_k", "mass_flow", "prediction_and_outcome"])
def test_the_caption_says_what_the_bands_are(experiment: Experiment, three_seeds: Experiment, name: str) -> None:
    one, three = (DRAW[name](list(e.runs.values())).get_supxlabel() for e in (experiment, three_seeds))
    single = "One seed; (bars and )?bands: 95% intervals over prompts"
    assert re.search("One seed: no bands" if name == "prediction_and_outcome" else single, " ".join(one.split()))
    assert "95% t intervals over 3 seeds" in " ".join(three.split())


@pytest.mark.parametrize("name", NAMES)
def test_titles_beside_each_other_do_not_overlap(experiment: Experiment, name: str) -> None:
    figure = DRAW[name](list(experiment.runs.values()))
    FigureCanvasAgg(figure).draw()
    titles = [ax._left_title for ax in figure.axes if ax.get_title(loc="left")]
    boxes = [title.get_window_extent() for title in titles]
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[i + 1 :]), titles[i].get_text()


def test_dynamics_at_equal_steps_and_at_equal_pass_at_1(experiment: Experiment) -> None:
    axes = dynamics_figure(experiment).axes
    assert [ax.get_title(loc="left") for ax in axes] == [
        "At step 2 PSR has the highest Pass@1: 0.53",
        "At step 2 NSR and PSR have the same entropy",
        "At equal Pass@1 NSR has 0.10 nats less than PSR",
        "… and as many effective solutions: 8.0 and 8.0",
    ]
    line = next(line for line in axes[2].lines if line.get_label() == "NSR")
    reached = [np.mean([success("NSR", step, i, 1.0) for i in range(6)]) for step in range(3)]
    assert np.asarray(line.get_xdata()) == pytest.approx(reached)
    assert np.asarray(line.get_ydata()) == pytest.approx([1.0, 0.9, 0.8])
    gap = next(line for line in axes[3].lines if line.get_label() == "entropy per token")
    assert np.asarray(gap.get_ydata())[-1] == pytest.approx(-0.1)  # PSR needs one step for what takes NSR two


def test_one_run_is_drawn_against_steps(experiment: Experiment) -> None:
    axes = dynamics_figure(experiment.runs["psr-seed0"]).axes
    assert [ax.get_title(loc="left") for ax in axes] == [
        "Pass@1 rises from 0.33 to 0.53",
        "Entropy falls from 1.00 to 0.80 nats",
    ]


def test_pass_at_k_is_compared_with_psr_or_with_the_base(experiment: Experiment) -> None:
    axes = pass_at_k_figure(experiment).axes
    assert axes[2].get_ylabel() == "Pass@k − PSR"
    assert {line.get_label() for line in axes[2].lines if not str(line.get_label()).startswith("_")} == {"NSR"}
    assert axes[2].get_title(loc="left").startswith("NSR trails PSR at k = 1 (−0.100)")
    assert pass_at_k_figure(experiment.runs["nsr-seed0"]).axes[2].get_ylabel() == "Pass@k − base"


def test_token_figure_shows_a_positive_beside_a_negative_weight(experiment: Experiment) -> None:
    titles = [ax.get_title(loc="left") for ax in token_figure(experiment).axes]
    assert [title.split(":")[0] for title in titles if title] == ["PSR pushes ★ up", "NSR pushes ★ down"]


def test_mass_flow_draws_the_head_over_time_and_all_ranks_at_the_end(experiment: Experiment) -> None:
    flows = FlowData.of(experiment.runs.values()).bucket_flows()
    over_time, by_rank = mass_flow_figure(experiment).axes
    last = flows["update"].max()
    for label, rows in flows.groupby("label", sort=False):
        line = next(line for line in over_time.lines if line.get_label() == label)
        head = rows[rows["bucket"] == "1"]
        np.testing.assert_allclose(line.get_xydata(), head[["update", "value"]].to_numpy(float))
        bars = next(bars for bars in by_rank.containers if bars.get_label() == label)
        at_end = rows[rows["update"] == last]["value"].tolist()
        assert [bar.get_height() for bar in bars] == pytest.approx(at_end)
    assert over_time.get_title(loc="left").startswith("The most probable token gains most under PSR: +")
    (ax,) = mass_flow_figure(experiment.runs["nsr-seed0"]).axes
    assert len({line.get_label() for line in ax.lines if not str(line.get_label()).startswith("_")}) == 4


def test_token_figure_shows_tokens_with_mass_and_their_change(experiment: Experiment) -> None:
    picture = token_picture(experiment.runs["psr-seed0"], 1)
    assert picture is not None
    bars, own, whole = token_figure(experiment.runs["psr-seed0"]).axes
    shown = [label.get_text().removeprefix("★ ") for label in bars.get_yticklabels()]
    rows = picture.tokens.set_index("text").loc[shown]
    assert rows["sampled"].sum() == 1
    hidden = picture.tokens[~picture.tokens["text"].isin(shown)]
    assert (hidden[["before", "after"]].max(axis=1) < 0.005).all()
    change = (rows["after"] - rows["before"]).tolist()
    written = [float(text.get_text().replace("−", "-").replace("±", "")) for text in bars.texts]
    assert written == pytest.approx(change, abs=5.1e-4)
    assert len(own.get_yticks()) == len(whole.get_yticks())


def test_prediction_figure_has_one_line_a_method(experiment: Experiment) -> None:
    (ax,) = prediction_figure(experiment).axes
    assert {line.get_label() for line in ax.lines} == {"PSR", "NSR"}
    assert all(np.asarray(line.get_ydata()).max() < 1e-5 for line in ax.lines)  # the JVP is the whole change here
    assert ax.get_title(loc="left") == "The first order explains at least 99.999% of Δ log π(y)"


def test_step_shares_show_each_method_its_own_sources(experiment: Experiment) -> None:
    figure = step_shares_figure(experiment)
    psr, nsr = ({line.get_label(): line.get_ydata() for line in figure.axes[at].lines} for at in (0, 1))
    assert {label for label in psr if not str(label).startswith("_")} == {"rewarded", "history"}
    assert {label for label in nsr if not str(label).startswith("_")} == {"unrewarded", "history"}
    assert np.asarray(psr["rewarded"]) == pytest.approx([1, 1])
    assert np.asarray(nsr["history"]) == pytest.approx([1 - NOW, 1 - NOW])


def test_step_shares_of_one_run_have_room_for_every_source(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = experiment.runs["psr-seed0"]
    flows = run.flows()
    rng = np.random.default_rng(0)
    flows["jvp_dlog_prob_shares"] = [known + rng.normal(size=8) for known in flows["jvp_dlog_prob_shares"]]
    monkeypatch.setattr(run, "flows", lambda: flows)
    figure = step_shares_figure(run)
    FigureCanvasAgg(figure).draw()
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert set(names) == {"rewarded", "unrewarded", "regularisers", "weight decay", "history"}
    box = legend.get_window_extent()
    assert figure.bbox.x0 <= box.x0
    assert box.x1 <= figure.bbox.x1


def test_without_shares_there_is_no_such_figure(experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    run = experiment.runs["psr-seed0"]
    flows = run.flows()
    flows["jvp_dlog_prob_shares"] = [np.full(8, np.nan)] * len(flows)
    monkeypatch.setattr(run, "flows", lambda: flows)
    with pytest.raises(NothingToDraw, match=r"no update recorded its JVP by source .*record.shares_every"):
        step_shares_figure([run])


@pytest.mark.slow
def test_report_writes_page_and_figures_of_the_experiment_and_each_run(tmp_path: Path, experiment: Experiment) -> None:
    folder = shutil.copytree(experiment.folder, tmp_path / "e")
    settings = dict(matplotlib.rcParams)
    assert main([str(folder), "--each-run"]) == 0
    assert dict(matplotlib.rcParams) == settings
    assert {path.stem for path in (folder / "figures").iterdir()} == set(NAMES)
    for run_id in experiment.runs:
        assert {path.stem for path in (folder / run_id / "figures").iterdir()} == set(NAMES)
    with Image.open(folder / "figures" / "dynamics.png") as image:
        assert image.width == round(6.9 * 200)
    page = (folder / "summary.md").read_text(encoding="utf-8")
    assert "### at equal steps" in page
    assert [line for line in page.splitlines() if line.startswith("![")] == [
        f"![{name.replace('_', ' ')}](figures/{name}.png)" for name in NAMES
    ]
    assert str(tmp_path) not in page


@pytest.mark.slow
def test_figures_elsewhere_and_those_that_have_no_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_experiment(tmp_path / "e", contexts=False).folder
    assert main([str(folder), "--figures", str(tmp_path / "f"), "--json"]) == 0
    said = capsys.readouterr()
    data = json.loads(said.out)
    assert data["figures"] == [str(tmp_path / "f" / f"{name}.png") for name in ("dynamics", "pass_at_k")]
    assert sorted(path.name for path in (tmp_path / "f").iterdir()) == ["dynamics.png", "pass_at_k.png"]
    assert not (folder / "psr-seed0" / "figures").exists()
    token, diagram, flow, prediction = said.err.splitlines()
    assert "flow_diagram.png: no contexts were followed" in diagram
    assert "token_gradient.png: no update recorded a context" in token
    assert "mass_flow.png: no contexts were followed" in flow
    assert "prediction_and_outcome.png: no contexts were followed" in prediction


@pytest.mark.slow
def test_a_full_disk_leaves_the_old_pictures(
    tmp_path: Path, experiment: Experiment, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    folder = shutil.copytree(experiment.folder, tmp_path / "e")
    (folder / "figures").mkdir(exist_ok=True)
    picture, page = folder / "figures" / "dynamics.png", folder / "summary.md"
    for path in (picture, page):
        path.write_text("old")
    monkeypatch.setattr(os, "replace", refuse)
    assert main([str(folder)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(rf"error: .*cannot write {picture}, .* bytes: No space left on device \(.* are free\)", line)
    assert (picture.read_text(), page.read_text()) == ("old", "old")
    assert not list(folder.rglob("*.tmp"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "or a complete experiment of the default recipe in runs/, got neither"),
        (["missing"], "got missing, which does not exist"),
        (["e", "e"], "expected different runs"),
        (["e", "--figures", "e/summary.md"], "--figures: expected a folder, got the file e/summary.md"),
    ],
)
def test_bad_requests_are_told_in_one_message(
    tmp_path: Path,
    experiment: Experiment,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    shutil.copytree(experiment.folder, tmp_path / "e")
    (tmp_path / "e" / "summary.md").touch()
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
