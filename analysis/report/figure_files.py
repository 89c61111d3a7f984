"""The figures of an experiment as files: of all its runs in its own folder, of each run in that run's."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from ..records.folders import write_durably
from . import figures as compose
from .figures import NothingToDraw
from .noise_figures import noise_dynamics_figure
from .token_pictures import FlowData

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..records import Experiment, Run

__all__ = ["save_figure", "write_figures", "write_page"]

DPI = 200


def write_figures(
    experiment: Experiment, folder: str | Path | None = None, *, tell: Callable[[str], None] | None = None
) -> list[Path]:
    """Write the figures of an experiment as PNG; the paths, those of the whole experiment first.

    They go into `<experiment>/figures/`, and those of each run alone into `<run>/figures/`. With `folder` only those
    of the whole experiment are written, there. A figure whose records are missing is left out, and `tell` (a line on
    stderr by default) says why.
    """
    tell = tell or (lambda line: print(line, file=sys.stderr))
    runs = [run for run in experiment.runs.values() if run.committed_step is not None]
    followed = [run for run in runs if run.rows("flows")]
    flows = FlowData.of(followed) if followed else None
    figures: dict[str, Callable[[Sequence[Run]], Figure]] = {
        "dynamics": compose.dynamics_figure,
        "pass_at_k": compose.pass_at_k_figure,
        "token_gradient": compose.token_figure,
        "mass_flow": lambda of: compose.mass_flow_figure(of, flows),
        "prediction_and_outcome": lambda of: compose.prediction_figure(of, flows),
    }
    if any(run.rows("noise") for run in runs):
        figures["noise_over_steps"] = noise_dynamics_figure
    wanted = [(experiment.folder / "figures" if folder is None else Path(folder), name, runs) for name in figures]
    if folder is None:
        wanted += [(run.folder / "figures", name, [run]) for run in runs for name in figures]
    written = []
    for target, name, of in wanted:
        path = target / f"{name}.png"
        try:
            figure = figures[name](of)
        except NothingToDraw as reason:
            tell(f"no {path}: {reason}")
            continue
        save_figure(figure, path)
        written.append(path)
    return written


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, its folder included.

    Its layout is settled once; `savefig` alone settles it twice, in half of the whole time.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    layout = figure.get_layout_engine()
    if layout is not None:
        layout.execute(figure)
        figure.set_layout_engine("none")
    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=DPI, metadata={"Software": None})
    write_durably(path, picture.getbuffer())


def write_page(folder: Path, tables: str, figures: Sequence[Path]) -> None:
    """summary.md of an experiment: its tables, then those of the figures that lie in its own figures/."""
    own = [path for path in figures if path.parent == folder / "figures"]
    pictures = [f"![{path.stem.replace('_', ' ')}](figures/{path.name})\n" for path in own]
    write_durably(folder / "summary.md", "\n".join([tables, *pictures]).encode())
