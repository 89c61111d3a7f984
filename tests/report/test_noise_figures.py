"""The figures of gradient noise: which points they draw, and that every text is inside."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from analysis.report import noise_dynamics_figure, noise_figure
from analysis.report.figures import NothingToDraw

P = (0.2, 0.5, 0.9)
RATIO = (20.0, 4.0, 0.25)


def frame(tasks: tuple[str, ...]) -> pd.DataFrame:
    rows = [
        {
            "task": task,
            "estimator": name,
            "p": p,
            "replicates": 16,
            "noise_ratio": value,
            "noise_ratio_se": 0.05 * value,
            "noise_to_signal": 300 * value,
            "noise_to_signal_se": 20 * value,
        }
        for task in tasks
        for p, ratio in zip(P, RATIO, strict=True)
        for name, value in (("PSR", 1.0), ("NSR", ratio), ("W-REINFORCE", ratio), ("GRPO", 2.0))
    ]
    return pd.DataFrame(rows)


def assert_texts_are_inside(figure: Figure) -> None:
    FigureCanvasAgg(figure).draw()
    box = figure.get_tightbbox()  # in inches
    assert -0.01 <= box.x0 <= box.x1 <= figure.get_figwidth() + 0.01
    assert -0.01 <= box.y0 <= box.y1 <= figure.get_figheight() + 0.01


@pytest.mark.parametrize("tasks", [("path",), ("path", "countdown")])
def test_panels_points_and_texts(tasks):
    figure = noise_figure(frame(tasks))
    assert len(figure.axes) == 2 * len(tasks)
    ratio, noise = figure.axes[0], figure.axes[len(tasks)]
    assert ratio.get_title(loc="left").startswith("path: NSR is the noisier one up to p = 0.")
    np.testing.assert_array_equal(ratio.containers[0][0].get_xydata(), list(zip(P, RATIO, strict=True)))
    assert [one.get_label() for one in noise.containers] == ["PSR", "NSR", "GRPO"]
    segment = ratio.containers[0][2][0].get_segments()[0][:, 1]  # 95%, on the logarithm
    np.testing.assert_allclose(np.log(segment / 20.0), [-0.10657, 0.10657], rtol=1e-3)  # t(15) · 0.05
    x = np.log(P) - np.log1p(-np.array(P))
    slope, height = np.polyfit(x, np.log(RATIO), 1)  # equal errors
    assert [text.get_text() for text in ratio.texts] == [f"p* = {1 / (1 + np.exp(height / slope)):.2f}"]
    assert_texts_are_inside(figure)


def test_points_without_a_value_are_left_out():
    rows = frame(("path",))
    rows.loc[rows.p == 0.9, ["noise_ratio", "noise_ratio_se"]] = np.nan
    figure = noise_figure(rows)
    assert len(figure.axes[0].containers[0][0].get_xdata()) == 2
    with pytest.raises(NothingToDraw, match="both PSR and NSR"):
        noise_figure(rows.assign(noise_ratio=np.nan))


def run(label: str, seed: int, scale: float = 1.0, steps: tuple[int, ...] = (0, 8)) -> SimpleNamespace:
    """What the figure asks of a run, with the noise of NSR `scale` times 20 and 10 that of PSR."""
    rows = pd.concat([frame(("path",))[lambda f, i=i: f.p == P[i]].assign(step=step) for i, step in enumerate(steps)])
    numbers = [name for name in rows if name.startswith("noise")]
    rows.loc[rows.estimator == "NSR", numbers] *= scale
    return SimpleNamespace(
        label=label, seed=seed, rows=lambda name: len(rows) if name == "noise" else 0, table=lambda name: rows
    )


def test_over_steps_one_seed():
    figure = noise_dynamics_figure([run("PSR", 0), run("NSR", 0, 2.0)])
    assert [ax.get_title(loc="left") for ax in figure.axes] == [
        "variance, NSR / PSR",
        "noise / signal, PSR",
        "noise / signal, NSR",
    ]
    psr, nsr = figure.axes[0].lines
    np.testing.assert_allclose(psr.get_xydata(), [[0, 20.0], [8, 4.0]])
    np.testing.assert_allclose(nsr.get_ydata(), [40.0, 8.0])
    band = figure.axes[0].collections[0].get_paths()[0].vertices[:, 1]
    np.testing.assert_allclose([band.max(), band.min()], [20 * np.exp(0.10657), 4 * np.exp(-0.10657)], rtol=1e-3)
    assert "one seed" in figure._supxlabel.get_text()
    assert_texts_are_inside(figure)


def test_over_steps_several_seeds():
    """The geometric mean, and a t interval of the logarithms: 12.7 standard errors for two seeds."""
    figure = noise_dynamics_figure([run("PSR", 0), run("PSR", 1, 4.0)])
    (line,) = figure.axes[0].lines
    np.testing.assert_allclose(line.get_ydata(), [40.0, 8.0])
    band = figure.axes[0].collections[0].get_paths()[0].vertices[:, 1]
    np.testing.assert_allclose(band.max(), 40 * np.exp(1.07 * 12.7062 * np.log(4) / 2), rtol=1e-3)
    assert "over 2 seeds" in figure._supxlabel.get_text()


def test_runs_without_noise_have_no_such_figure():
    with pytest.raises(NothingToDraw, match=r"no run measured gradient noise \(record.noise_every\)"):
        noise_dynamics_figure([SimpleNamespace(rows=lambda name: 0)])
