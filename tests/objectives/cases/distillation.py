"""Parameters at which the objectives of `entries/distillation.py` are checked."""

from __future__ import annotations

from typing import Any

CASES: dict[str, tuple[dict[str, Any], ...]] = {
    "opd": ({}, {"clip_low": 0.2, "clip_high": 0.2, "dual_clip": 3.0}, {"advantage_max": 0.1}),
    "opd-prime": ({}, {"divergence_low": 0.01, "drift_coef": 0.3}),
    "opd-iw": ({}, {"iw_gamma": 0.0}, {"iw_gamma": 3.0}),
    "opd-k2": ({}, {"beta": 0.2}),
    "opd-k3": ({}, {"beta": 0.2, "clamp": 10.0}),
    "opd-abs": ({}, {"beta": 0.2}),
    "distill-jsd": ({}, {"jsd_beta": 0.0}, {"jsd_beta": 1.0}, {"jsd_beta": 0.1}),
    "distill-topk": ({}, {"teacher_top": 2}, {"teacher_top": 5}),
}
