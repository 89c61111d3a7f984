"""Files of figures: small, with the same colours and bytes each time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from analysis.report import save_figure


def drawn() -> Figure:
    figure = Figure(figsize=(3, 2), dpi=200)
    ax = figure.subplots()
    for i in range(40):  # more shades than a palette holds
        ax.fill_between([0, 1], i, i + 1.5, color=(i / 40, 0.5, 1 - i / 40), alpha=0.5, linewidth=0)
    ax.plot([0, 1], [0, 40], color="#d55e00", linewidth=3)
    return figure


def test_a_png_looks_as_drawn_in_a_palette(tmp_path: Path) -> None:
    canvas = FigureCanvasAgg(figure := drawn())
    canvas.draw()
    wanted = np.asarray(canvas.buffer_rgba())[..., :3].astype(int)
    save_figure(figure, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == "P"
        found = np.asarray(image.convert("RGB")).astype(int)
        assert round(image.info["dpi"][0]) == 200
    assert found.shape == wanted.shape
    assert found[0, 0].tolist() == [255, 255, 255]
    assert np.abs(found - wanted).mean() < 1  # of 255
    assert (np.abs(found - [0xD5, 0x5E, 0x00]).sum(-1) <= 6).sum() > 500  # the line keeps its colour


def test_the_same_figure_has_the_same_bytes(tmp_path: Path) -> None:
    for suffix in (".png", ".svg"):
        for name in ("a", "b"):
            (tmp_path / name).mkdir(exist_ok=True)
            save_figure(drawn(), tmp_path / name / f"f{suffix}")
        first, second = ((tmp_path / name / f"f{suffix}").read_bytes() for name in ("a", "b"))
        assert first == second
    assert b"<svg" in first
