"""Parameters at which the objectives of `entries/likelihoods.py` are checked."""

from __future__ import annotations

from typing import Any

CASES: dict[str, tuple[dict[str, Any], ...]] = {
    "sft": ({},),
    "dft": ({},),
    "unlikelihood": ({}, {"floor": 0.4}),
    "nft": ({}, {"epsilon": 0.1}, {"ratio_floor": 0.5, "prompt_weight": "sqrt"}, {"prompt_weight": "none"}),
    "sequence-nft": ({}, {"epsilon": 0.1, "ratio_floor": 0.5}),
}
