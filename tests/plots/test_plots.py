"""What the plots put on their axes: positions, colours, bands, arrows."""

from __future__ import annotations

import subprocess
import sys

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from analysis import plots
from analysis.plots.appearance import BUCKET_COLORS

METHODS = ("base", "PSR", "NSR", "W-REINFORCE", "GRPO", "REINFORCE")


@pytest.fixture
def ax() -> Axes:
    with plots.style():
        return Figure(figsize=(3, 2)).subplots()


def series(label: str, values: list[float], **columns: list[float]) -> pd.DataFrame:
    half = 0.1
    return pd.DataFrame(
        {"label": label, "value": values, "low": np.array(values) - half, "high": np.array(values) + half, **columns}
    )


def arrows(ax: Axes) -> list[Annotation]:
    return [artist for artist in ax.texts if isinstance(artist, Annotation) and artist.arrow_patch is not None]


def test_style_leaves_settings_as_they_were() -> None:
    before = dict(matplotlib.rcParams)
    with plots.style():
        assert matplotlib.rcParams["font.size"] >= 7
        assert matplotlib.rcParams["xtick.labelsize"] >= 7
    assert dict(matplotlib.rcParams) == before


@pytest.mark.slow
def test_importing_and_drawing_leaves_pyplot_alone() -> None:
    code = (
        "import sys, analysis.plots as p, pandas as pd\n"
        "assert 'matplotlib' not in sys.modules\n"
        "from matplotlib.figure import Figure\n"
        "data = pd.DataFrame({'label': ['PSR'], 't': [0], 'value': [1.], 'low': [0.], 'high': [2.]})\n"
        "p.curve(Figure().subplots(), data, x='t')\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_method_has_a_look_of_its_own() -> None:
    looks = [plots.look(label) for label in METHODS]
    assert len({one.color for one in looks}) == len(METHODS)
    assert len({(one.marker, str(one.linestyle)) for one in looks}) == len(METHODS)
    red, green, blue = (int(plots.look("base").color[i : i + 2], 16) for i in (1, 3, 5))
    assert red == green == blue


def test_an_unknown_label_always_looks_the_same() -> None:
    assert plots.look("mine, lr 3e-4") == plots.look("mine, lr 3e-4")
    assert plots.look("mine, lr 3e-4").color not in {plots.look(label).color for label in METHODS}


def test_curve_draws_a_line_and_its_interval(ax: Axes) -> None:
    data = [series("PSR", [1.0, 2.0], step=[0, 4]), series("NSR", [3.0, 5.0], step=[0, 4])]
    plots.curve(ax, pd.concat(data), x="step")
    psr, nsr = ax.lines
    assert psr.get_xydata().tolist() == [[0, 1], [4, 2]]
    assert nsr.get_color() == plots.look("NSR").color
    band = ax.collections[1].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == pytest.approx((2.9, 5.1))


def test_curve_without_intervals_has_no_band(ax: Axes) -> None:
    plots.curve(ax, series("PSR", [1.0, 2.0], step=[0, 1]).assign(low=np.nan, high=np.nan), x="step")
    assert not ax.collections


def test_path_points_forward_in_time(ax: Axes) -> None:
    data = series("NSR", [1.0, 0.5, 0.8], reached=[0.3, 0.2, 0.4])
    plots.path(ax, data, x="reached")
    assert ax.lines[0].get_xydata().tolist() == [[0.3, 1.0], [0.2, 0.5], [0.4, 0.8]]
    heads = [(arrow.xy, arrow.xyann) for arrow in arrows(ax)]
    assert len(heads) == 2
    (tip, tail), _ = heads
    assert tuple(tail) == (0.3, 1.0)
    assert 0.2 < tip[0] < 0.3


def test_path_leaves_out_points_without_coordinates(ax: Axes) -> None:
    plots.path(ax, series("NSR", [1.0, np.nan, 0.8], reached=[0.3, 0.2, np.nan]), x="reached")
    assert ax.lines[0].get_xydata().tolist() == [[0.3, 1.0]]
    plots.path(ax, series("PSR", [np.nan], reached=[0.3]), x="reached")
    assert len(ax.lines) == 1


def test_pass_at_k_axis_is_spaced_by_failures(ax: Axes) -> None:
    k = [1, 4, 16, 64]
    plots.pass_at_k(
        ax,
        pd.concat(
            [
                series("base", [0.2, 0.6, 0.9, 0.99], k=k).assign(
                    low=[0.1, 0.5, 0.85, 0.98], high=[0.3, 0.7, 0.95, 1.0]
                ),
                series("PSR", [0.3, 0.7, 0.95, 1.0], k=k).assign(low=np.nan, high=np.nan),
            ]
        ),
    )
    heights = ax.transData.transform([(1, 0.0), (1, 0.9), (1, 0.99)])[:, 1]
    assert heights[1] - heights[0] == pytest.approx(heights[2] - heights[1], rel=1e-6)
    assert [line.get_label() for line in ax.lines] == ["base", "PSR"]
    low, high = ax.get_ylim()
    assert np.isfinite([low, high]).all()
    assert all(low <= tick <= high for tick in ax.get_yticks())
    ticks = ax.transData.transform([(1, tick) for tick in ax.get_yticks()])[:, 1]
    assert np.abs(np.diff(ticks)).min() > 0.06 * np.ptp(ax.get_window_extent().get_points()[:, 1])


def test_pass_at_k_panels_can_share_their_axis(ax: Axes) -> None:
    low, high = (series("PSR", values, k=[1, 2]) for values in ([0.3, 0.4], [0.6, 0.9]))
    plots.pass_at_k(ax, high, among=pd.concat([low, high]))
    assert ax.get_ylim()[0] < 0.3


def test_difference_leaves_the_base_out(ax: Axes) -> None:
    data = [series("base", [0.0, 0.0], k=[1, 2]), series("NSR", [0.1, -0.1], k=[1, 2])]
    plots.pass_at_k_difference(ax, pd.concat(data))
    assert [line.get_label() for line in ax.lines if not str(line.get_label()).startswith("_")] == ["NSR"]
    assert any(np.allclose(line.get_ydata(), 0) for line in ax.lines)


def tokens() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "text": ["+1", "+2", "$"],
            "sampled": [False, True, False],
            "before": [0.6, 0.3, 0.1],
            "after": [0.5, 0.45, 0.05],
            "gradient": [-0.6, 0.7, -0.01],
            "dlogit": [-0.2, 0.5, 0.0],
        }
    )


def test_token_bars_show_both_laws_and_mark_the_sampled_token(ax: Axes) -> None:
    plots.token_bars(ax, tokens())
    assert [bar.get_width() for bar in ax.patches] == pytest.approx([0.6, 0.3, 0.1, 0.5, 0.45, 0.05])
    labels = {label.get_text(): label.get_fontweight() for label in ax.get_yticklabels()}
    assert labels == {"+1": "normal", "★ +2": "bold", "$": "normal"}
    assert ax.yaxis_inverted()


def test_logit_arrows_have_the_values_as_their_tips(ax: Axes) -> None:
    plots.logit_arrows(ax, tokens(), column="gradient")
    drawn = {tuple(arrow.xy): to_hex(arrow.arrowprops["color"]) for arrow in arrows(ax)}
    assert list(drawn) == [(-0.6, 0), (0.7, 1)]
    assert drawn[-0.6, 0] != drawn[0.7, 1]
    assert ax.lines[-1].get_xydata().tolist() == [[-0.01, 2]]  # too short for an arrow: a dot
    assert ax.get_xlim()[0] < -0.6 < 0.7 < ax.get_xlim()[1]


@pytest.mark.parametrize("values", [[0.0, 0.0, 0.0], [1e-7, 0.0, -3e-8]])
def test_logit_arrows_of_a_change_that_is_next_to_nothing(ax: Axes, values: list[float]) -> None:
    plots.logit_arrows(ax, tokens().assign(gradient=values), column="gradient")
    assert np.isfinite(ax.get_xticks()).all()


def test_bucket_flow_orders_buckets_from_dark_to_light(ax: Axes) -> None:
    rows = [
        {"bucket": b, "update": u, "value": v * u, "low": v * u - 1, "high": v * u + 1}
        for b, v in (("1", 2.0), ("2–4", -2.0))
        for u in range(3)
    ]
    plots.bucket_flow(ax, pd.DataFrame(rows))
    lines = [line for line in ax.lines if not str(line.get_label()).startswith("_")]
    assert [line.get_label() for line in lines] == ["1", "2–4"]
    assert [line.get_color() for line in lines] == list(BUCKET_COLORS[:2])
    assert lines[1].get_xydata().tolist() == [[0, 0], [1, -2], [2, -4]]
    lightness = [sum(int(color[i : i + 2], 16) for i in (1, 3, 5)) for color in BUCKET_COLORS]
    assert lightness == sorted(lightness)


def test_legend_has_each_label_once(ax: Axes) -> None:
    plots.curve(ax, series("PSR", [1.0], step=[0]), x="step")
    plots.legend(ax.get_figure(), [ax, ax], title="method")  # type: ignore[arg-type]
    (made,) = ax.get_figure().legends  # type: ignore[union-attr]
    assert [text.get_text() for text in made.get_texts()] == ["PSR"]
    assert made.get_title().get_text() == "method"


def test_unexplained_has_one_line_a_method_on_an_axis_up_to_nothing_explained(ax: Axes) -> None:
    data = pd.DataFrame(
        {
            "label": ["PSR"] * 2 + ["GRPO"] * 2,
            "update": [0, 8] * 2,
            "value": [1e-3, 1e-4, 1e-2, 1e-3],
            "low": [1e-4] * 4,
            "high": [1e-2, 1e-3, 6.0, 0.1],
        }
    )
    plots.unexplained(ax, data)
    lines = {line.get_label(): line for line in ax.lines}
    assert np.asarray(lines["PSR"].get_ydata()) == pytest.approx([1e-3, 1e-4])
    assert lines["GRPO"].get_color() == plots.look("GRPO").color
    assert ax.get_yscale() == "log"
    assert ax.get_ylim() == pytest.approx((1e-4 / 3, 1.3))


def test_a_gap_has_one_line_a_quantity_and_its_band(ax: Axes) -> None:
    data = pd.DataFrame(
        {"quantity": ["a", "a", "b"], "reached": [0.1, 0.2, 0.1], "value": [1.0, 2.0, -1.0], "low": 0.5, "high": 2.5}
    )
    plots.gap(ax, data, x="reached")
    lines = {line.get_label(): line for line in ax.lines}
    assert np.asarray(lines["a"].get_xydata()).tolist() == [[0.1, 1.0], [0.2, 2.0]]
    assert len(ax.collections) == 2


def test_only_the_last_point_of_a_curve_can_carry_its_interval(ax: Axes) -> None:
    data = series("PSR", [1.0, 2.0], step=[0, 1]).assign(low=0.5, high=3.0)
    plots.curve(ax, data, x="step", interval="last")
    (bar,) = ax.collections
    assert bar.get_segments()[0].tolist() == [[1.0, 0.5], [1.0, 3.0]]  # type: ignore[attr-defined]


def test_part_lines_draw_the_parts_that_are_there(ax: Axes) -> None:
    data = pd.DataFrame(
        {
            "part": ["pos", "pos", "history"],
            "update": [0, 8, 8],
            "value": [1.3, 1.0, -0.5],
            "low": [1.0, 0.9, np.nan],
            "high": [1.6, 1.1, np.nan],
        }
    )
    plots.part_lines(ax, data)
    named = {line.get_label(): line for line in ax.lines if not str(line.get_label()).startswith("_")}
    assert list(named) == ["rewarded", "history"]
    assert np.asarray(named["rewarded"].get_ydata()) == pytest.approx([1.3, 1.0])
    assert to_hex(named["rewarded"].get_color()) == plots.look("PSR").color.lower()
    assert len(ax.collections) == 1  # a band where there is an interval
    assert ax.get_ylim() == pytest.approx((-0.7, 1.5))
