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
    """Draw one bar for each token, the sampled one hatched.

    Args:
        ax: axes to draw on.
        values: one number for each token, most probable first.
        token: position of the sampled token.
        label: method whose colour the bars have.
        unit: label of the vertical axis.
    """
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
    """Draw the change of every unsampled token against its probability.

    Args:
        ax: axes to draw on.
        probs: probability of each token.
        change: change of each token's probability or logit.
        token: position of the sampled token, which is left out.
        label: method whose colour and marker the line has.
        boundary: squeeze boundary c − π_y, drawn as a line where it is positive.
    """
    others = np.delete(np.arange(len(probs)), token)
    shape = look(label)
    order = others[np.argsort(probs[others])]
    ax.plot(probs[order], change[order], color=shape.color, marker=shape.marker, linewidth=0.8, label=label)
    ax.set_xscale("log")
    ax.xaxis.set_minor_formatter("")
    reference_line(ax)
    if boundary is not None and boundary > 0:
        ax.axvline(boundary, color="#999999", linestyle=(0, (3, 2)), linewidth=0.8)
    ax.set_xlabel(r"$\pi_v$ of unsampled tokens")


def boundary_lines(ax: Axes, curves: Mapping[str, BoundaryCurves]) -> None:
    """Draw the fraction of the other tokens' mass that moves against the sampled token, against π_y.

    Args:
        ax: axes to draw on.
        curves: boundaries by name of the other tokens' distribution, one line for each.
    """
    for (name, curve), linestyle in zip(curves.items(), _STYLES, strict=False):
        ax.plot(curve.prob, curve.against, label=name, linestyle=linestyle, color="#333333")
    ax.set_xscale("log")
    ax.set_ylim(-0.03, 1.03)
    ax.set_xlabel(r"$\pi_y$ of the sampled token")
    ax.set_ylabel("others' mass moving against y")


def entropy_sign_lines(ax: Axes, curves: Mapping[str, BoundaryCurves]) -> None:
    """Draw dH of a negative sample against π_y, relative to its greatest size; ticks mark π_y = e^{−H}.

    Args:
        ax: axes to draw on.
        curves: boundaries by name of the other tokens' distribution, one line for each.
    """
    for (name, curve), linestyle in zip(curves.items(), _STYLES, strict=False):
        ax.plot(
            curve.prob,
            curve.covariance / np.abs(curve.covariance).max(),
            label=name,
            linestyle=linestyle,
            color="#333333",
        )
        below = np.flatnonzero(np.log(curve.prob) < -curve.entropy)
        if len(below):
            ax.plot(curve.prob[below[-1]], 0, marker="|", markersize=9, color="#333333", markeredgewidth=1.0)
    ax.set_xscale("log")
    reference_line(ax)
    ax.set_xlabel(r"$\pi_y$ of the sampled token")
    ax.set_ylabel("dH under NSR, relative")


_STYLES = ("-", (0, (5.0, 1.2)), (0, (1.0, 1.0)), (0, (3.0, 1.0, 1.0, 1.0)))
