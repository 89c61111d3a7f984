"""Figures as PNG or SVG files."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from ..records.folders import write_durably

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["save_figure"]

DPI = 200
COLORS = 256  # of a PNG: a third of the size, and no difference that can be seen


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, or as SVG where the path ends in .svg, its folder included.

    A PNG has a palette of its own 256 colours, so that the pictures of a repository stay small. The layout is settled
    once; `savefig` alone settles it twice, in half of the whole time.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    layout = figure.get_layout_engine()
    if layout is not None:
        layout.execute(figure)
        figure.set_layout_engine("none")
    picture = BytesIO()
    if path.suffix == ".svg":
        import matplotlib

        with matplotlib.rc_context({"svg.hashsalt": path.stem}):  # the same bytes for the same figure
            figure.savefig(picture, format="svg", metadata={"Date": None, "Creator": None})
    else:
        picture = _png(figure)
    write_durably(path, picture.getbuffer())


def _png(figure: Figure) -> BytesIO:
    from PIL import Image

    drawn, small = BytesIO(), BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI)
    with Image.open(drawn) as image:
        palette = image.convert("RGB").quantize(COLORS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    palette.save(small, "PNG", optimize=True, dpi=(DPI, DPI))
    return small
