"""Show a figure in a notebook with a text for readers who cannot see it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["show"]


def show(figure: Figure, alt: str) -> None:
    """Display the figure in a notebook, with an alternative text that pages made from the notebook carry.

    Args:
        figure: what to display.
        alt: what the figure shows, in one or two sentences.
    """
    from IPython.display import display

    display(figure, metadata={"image/png": {"alt": alt}})
