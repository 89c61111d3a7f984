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
    mass_flow_figure,
    pass_at_k_figure,
    prediction_figure,
    token_figure,
)
from analysis.report.__main__ import main
from analysis.report.figures import NothingToDraw
from tests.report.by_hand import NOW, make_experiment, success

NAMES = ("dynamics", "pass_at_k", "token_gradient", "mass_flow", "prediction_and_outcome")
DRAW: dict[str, Callable[[Sequence[Run]], Figure]] = dict(
    zip(NAMES, (dynamics_figure, pass_at_k_figure, token_figure, mass_flow_figure, prediction_figure), strict=True)
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
    assert "One seed; bands: 95% intervals over prompts" in " ".join(one.split())
    assert "95% t intervals over 3 seeds" in " ".join(three.split())


def test_lower_row_of_the_dynamics_is_against_pass_at_1_of_the_same_step(experiment: Experiment) -> None:
    axes = dynamics_figure(list(experiment.runs.values())).axes
    titles = [ax.get_title(loc="left") for ax in axes[:5]]
    lower = axes[5 + titles.index("correct ratio")]
    line = next(line for line in lower.lines if line.get_label() == "NSR")
    reached = [np.mean([success("NSR", step, i, 1.0) for i in range(6)]) for step in (0, 1)]
    assert np.asarray(line.get_xdata()) == pytest.approx(reached)
    assert np.asarray(line.get_ydata()) == pytest.approx([0.625, 0.75])


def test_token_figure_shows_a_positive_beside_a_negative_weight(experiment: Experiment) -> None:
    titles = [ax.get_title(loc="left") for ax in token_figure(list(experiment.runs.values())).axes]
    assert [title.split(",")[0] for title in titles if title] == ["PSR: w = +0.1", "NSR: w = −0.1"]


def test_prediction_figure_shows_each_method_its_own_sources(experiment: Experiment) -> None:
    figure = prediction_figure(list(experiment.runs.values()))
    psr, nsr = ({line.get_label(): line.get_ydata() for line in figure.axes[at].lines} for at in (2, 3))
    assert {label for label in psr if not str(label).startswith("_")} == {"rewarded", "history"}
    assert {label for label in nsr if not str(label).startswith("_")} == {"unrewarded", "history"}
    assert np.asarray(psr["rewarded"]) == pytest.approx([1, 1])
    assert np.asarray(nsr["history"]) == pytest.approx([1 - NOW, 1 - NOW])


def test_prediction_figure_of_one_run_has_room_for_every_source(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = experiment.runs["psr-seed0"]
    flows = run.flows()
    rng = np.random.default_rng(0)
    flows["jvp_dlog_prob_shares"] = [known + rng.normal(size=8) for known in flows["jvp_dlog_prob_shares"]]
    monkeypatch.setattr(run, "flows", lambda: flows)
    figure = prediction_figure([run])
    FigureCanvasAgg(figure).draw()
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert set(names) == {"rewarded", "unrewarded", "regularisers", "weight decay", "history"}
    box = legend.get_window_extent()
    assert figure.bbox.x0 <= box.x0
    assert box.x1 <= figure.bbox.x1


def test_without_shares_there_is_no_prediction_figure(experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    run = experiment.runs["psr-seed0"]
    flows = run.flows()
    flows["jvp_dlog_prob_shares"] = [np.full(8, np.nan)] * len(flows)
    monkeypatch.setattr(run, "flows", lambda: flows)
    with pytest.raises(NothingToDraw, match=r"no update recorded its JVP by source .*record.shares_every"):
        prediction_figure([run])


@pytest.mark.slow
def test_report_writes_page_and_figures_of_the_experiment_and_each_run(tmp_path: Path, experiment: Experiment) -> None:
    folder = shutil.copytree(experiment.folder, tmp_path / "e")
    settings = dict(matplotlib.rcParams)
    assert main([str(folder)]) == 0
    assert dict(matplotlib.rcParams) == settings
    assert {path.stem for path in (folder / "figures").iterdir()} == set(NAMES)
    for run_id in experiment.runs:
        assert {path.stem for path in (folder / run_id / "figures").iterdir()} == set(NAMES)
    with Image.open(folder / "figures" / "dynamics.png") as image:
        assert image.width == round(6.9 * 200)
    page = (folder / "summary.md").read_text(encoding="utf-8")
    assert "### at matched steps" in page
    assert [line for line in page.splitlines() if line.startswith("![")] == [
        f"![{name.replace('_', ' ')}](figures/{name}.png)" for name in NAMES
    ]
    assert str(tmp_path) not in page


def test_figures_elsewhere_and_those_that_have_no_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_experiment(tmp_path / "e", contexts=False).folder
    assert main([str(folder), "--figures", str(tmp_path / "f"), "--json"]) == 0
    said = capsys.readouterr()
    data = json.loads(said.out)
    assert data["figures"] == [str(tmp_path / "f" / f"{name}.png") for name in ("dynamics", "pass_at_k")]
    assert sorted(path.name for path in (tmp_path / "f").iterdir()) == ["dynamics.png", "pass_at_k.png"]
    assert not (folder / "psr-seed0" / "figures").exists()
    token, flow, prediction = said.err.splitlines()
    assert "token_gradient.png: no update recorded a context" in token
    assert "mass_flow.png: no contexts were followed" in flow
    assert "prediction_and_outcome.png: no contexts were followed" in prediction


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
    assert re.fullmatch(rf"error: .*cannot write {picture}, .* bytes: No space left on device \(.* are free\)", line)
    assert (picture.read_text(), page.read_text()) == ("old", "old")
    assert not list(folder.rglob("*.tmp"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no complete experiment of the default recipe in runs/"),
        (["missing"], "there is no folder missing"),
        (["e/psr-seed0"], "expected the folder of an experiment, got that of a single run"),
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
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
