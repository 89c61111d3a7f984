"""Gradient noise: how far the estimators of the policy gradient scatter around the exact one, per rollout."""

from __future__ import annotations

from ..lazy import lazy_names

# name -> module that defines it
_HOME = {
    "Crossing": "crossings",
    "GradientNoise": "moments",
    "crossing": "crossings",
    "crossing_by_task": "crossings",
    "gradient_noise": "measure",
    "standard_estimators": "measure",
}

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy_names(__name__, _HOME, __all__)
