"""Parameters at which the objectives of `entries/sequences.py` are checked."""

from __future__ import annotations

from typing import Any

CASES: dict[str, tuple[dict[str, Any], ...]] = {
    "gspo": ({}, {"clip_low": 0.2, "clip_high": 0.2}, {"clip_low": 1.0}),
    "gspo-token": ({}, {"clip_low": 0.2, "clip_high": 0.2}, {"clip_low": 1.0, "log_ratio_max": 0.5}),
    "luspo": ({}, {"clip_low": 0.2, "clip_high": 0.2}),
    "gmpo": ({}, {"log_clip_low": 0.05, "log_clip_high": 0.1}, {"log_clip_low": 0.0, "log_clip_high": 0.0}),
    "vespo": ({}, {"vespo_k_pos": 1.0, "vespo_lambda_neg": 0.5}, {"vespo_k_neg": 0.0, "vespo_lambda_pos": 1e-3}),
    "topr": ({}, {"advantage": "group_mean_std"}, {"reward_values": "zero-one", "advantage": "group_mean"}),
}
