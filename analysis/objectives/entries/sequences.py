"""Objectives with one ratio for a whole response."""

from __future__ import annotations

from ..definition import Entry
from ..parameters import REWARD_VALUES
from .shared import OLD, advantage, clips

__all__ = ["ENTRIES", "TITLE"]

TITLE = "One ratio for a response"

ENTRIES = (
    Entry(
        name="gspo",
        title="GSPO",
        weight="A·s·1[not clipped], s = exp(mean_t log ρ_t)",
        source="Zheng et al., arXiv 2507.18071 Eqs. 5, 7",
        formula="sequences.gspo",
        parameters=(*advantage("group_mean_std"), *clips(3e-4, 4e-4)[:2]),
        needs=OLD,
        coupling="response",
        note="every token carries the loss of its sequence: the weight's 1/|y| is that of the sequence mean",
    ),
    Entry(
        name="topr",
        title="TOPR",
        weight="A ≥ 0: A; A < 0: A·min(1, Π_t ρ_t)",
        source="Le Roux et al., arXiv 2503.14286",
        formula="sequences.topr",
        parameters=(REWARD_VALUES.with_(default="signed"), *advantage()),
        value="2r-1",
        needs=OLD,
        coupling="response",
        note="rewards count 1 and −1, as in the paper's experiments, unless reward_values = zero-one, with which wrong "
        "responses have no weight until a normalisation gives them one; the ratio is a stop-gradient, capped at 1",
    ),
)
