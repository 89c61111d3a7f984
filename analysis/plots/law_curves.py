"""Pictures of the laws of one token: where logits and probabilities are pushed, and where the laws change sign."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from .appearance import look, reference_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..laws import BoundaryCurves

__all__ = ["boundary_lines", "entropy_sign_lines", "flow_against_prior", "push_bars"]


def push_bars(ax: Axes, values: np.ndarray, token: int, label: str, *, unit: str) -> None:
    """One bar a token in order of their prior, the sampled one hatched; `label` is the method, giving its colour."""
    colors = [look(label).color] * len(values)
    bars = ax.bar(np.arange(len(values)), values, color=colors, width=0.8)
    bars[token].set_hatch("////")
    bars[token].set_edgecolor("white")
    reference_line(ax)
    ax.set_xticks(np.arange(len(values)))
    ax.set_xlabel("token, most probable first")
    ax.set_ylabel(unit)


def flow_against_prior(
    ax: Axes, probs: np.ndarray, change: np.ndarray, token: int, label: str, *, boundary: float | None = None
) -> None:
    """Change of every unsampled token against its probability, both on their own scales; the boundary as a line."""
    others = np.delete(np.arange(len(probs)), token)
    style = look(label)
    order = others[np.argsort(probs[others])]
    ax.plot(probs[order], change[order], color=style.color, marker=style.marker, linewidth=0.8, label=label)
    ax.set_xscale("log")
    ax.xaxis.set_minor_formatter("")
    reference_line(ax)
    if boundary is not None and boundary > 0:
        ax.axvline(boundary, color="#999999", linestyle=(0, (3, 2)), linewidth=0.8)
    ax.set_xlabel(r"$\pi_v$ of unsampled tokens")


def boundary_lines(ax: Axes, curves: Mapping[str, BoundaryCurves]) -> None:
    """Share of the alternatives' mass that moves against the sampled token, by π_y: one line a shape of the others."""
    for (name, of), linestyle in zip(curves.items(), _STYLES, strict=False):
        ax.plot(of.prob, of.against, label=name, linestyle=linestyle, color="#333333")
    ax.set_xscale("log")
    ax.set_ylim(-0.03, 1.03)
    ax.set_xlabel(r"$\pi_y$ of the sampled token")
    ax.set_ylabel("others' mass moving against y")


def entropy_sign_lines(ax: Axes, curves: Mapping[str, BoundaryCurves]) -> None:
    """dH per unit logit step of a negative sample, by π_y, relative to its greatest size: one line a shape."""
    for (name, of), linestyle in zip(curves.items(), _STYLES, strict=False):
        ax.plot(of.prob, of.covariance / np.abs(of.covariance).max(), label=name, linestyle=linestyle, color="#333333")
        below = np.flatnonzero(np.log(of.prob) < -of.entropy)
        if len(below):
            ax.plot(of.prob[below[-1]], 0, marker="|", markersize=9, color="#333333", markeredgewidth=1.0)
    ax.set_xscale("log")
    reference_line(ax)
    ax.set_xlabel(r"$\pi_y$ of the sampled token")
    ax.set_ylabel("dH under NSR, relative")


_STYLES = ("-", (0, (5.0, 1.2)), (0, (1.0, 1.0)), (0, (3.0, 1.0, 1.0, 1.0)))
