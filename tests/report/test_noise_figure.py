"""The figure of gradient noise: which points it draws, and that every text is inside."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from analysis.report import noise_figure
from analysis.report.compose import NothingToDraw
from tests.report.test_figures import visible_texts

P = (0.2, 0.5, 0.9)
RATIO = (20.0, 4.0, 0.25)


def frame(tasks: tuple[str, ...]) -> pd.DataFrame:
    rows = [
        {"task": task, "estimator": name, "p": p, "noise_ratio": value, "noise_ratio_se": 0.05 * value,
         "noise_to_signal": 300 * value, "noise_to_signal_se": 20 * value}
        for task in tasks for p, ratio in zip(P, RATIO, strict=True)
        for name, value in (("PSR", 1.0), ("NSR", ratio), ("W-REINFORCE", ratio), ("GRPO", 2.0))
    ]  # fmt: skip
    return pd.DataFrame(rows)


@pytest.mark.parametrize("tasks", [("path",), ("path", "countdown")])
def test_panels_points_and_texts(tasks):
    figure = noise_figure(frame(tasks))
    assert len(figure.axes) == 2 * len(tasks)
    ratio, noise = figure.axes[0], figure.axes[len(tasks)]
    assert ratio.get_title(loc="left") == "path"
    np.testing.assert_array_equal(ratio.containers[0][0].get_xydata(), list(zip(P, RATIO, strict=True)))
    assert [one.get_label() for one in noise.containers] == ["PSR", "NSR", "GRPO"]
    segment = ratio.containers[0][2][0].get_segments()[0][:, 1]  # 95%, on the logarithm
    np.testing.assert_allclose(np.log(segment / 20.0), [-0.098, 0.098], rtol=1e-3)
    at = 0.5 + 0.4 * np.log(4) / np.log(16)
    assert [text.get_text() for text in ratio.texts] == [f"p* = {at:.2f}"]
    FigureCanvasAgg(figure).draw()
    for text in visible_texts(figure):
        box = text.get_window_extent()
        assert figure.bbox.x0 - 1 <= box.x0 <= box.x1 <= figure.bbox.x1 + 1
        assert figure.bbox.y0 - 1 <= box.y0 <= box.y1 <= figure.bbox.y1 + 1


def test_points_without_a_value_are_left_out():
    rows = frame(("path",))
    rows.loc[rows.p == 0.9, ["noise_ratio", "noise_ratio_se"]] = np.nan
    figure = noise_figure(rows)
    assert len(figure.axes[0].containers[0][0].get_xdata()) == 2
    with pytest.raises(NothingToDraw, match="both PSR and NSR"):
        noise_figure(rows.assign(noise_ratio=np.nan))
