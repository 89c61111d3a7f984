"""Objectives of preferences between responses."""

from __future__ import annotations

from ..definition import Entry
from ..parameters import BETA

__all__ = ["ENTRIES", "TITLE"]

TITLE = "Preferences"

ENTRIES = (
    Entry(
        name="dpo",
        title="DPO",
        weight="chosen: βσ(−βΔ); rejected: −βσ(−βΔ)",
        source="Rafailov et al., arXiv 2305.18290 Eq. 7",
        formula="preferences.dpo",
        parameters=(BETA.with_(default=0.1),),
        value="1",
        needs=("ref_log_probs",),
        coupling="pair",
        note="rows 2i and 2i + 1 are the chosen and the rejected response of pair i; Δ is the difference of "
        "their log(π/ref). A row carries half of its pair's loss, evenly over its tokens",
    ),
)
