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


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, or as SVG where the path ends in .svg, its folder included.

    The layout is settled once; `savefig` alone settles it twice, in half of the whole time.
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
        figure.savefig(picture, format="png", dpi=DPI, metadata={"Software": None})
    write_durably(path, picture.getbuffer())
