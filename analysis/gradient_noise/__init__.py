"""Gradient noise: how far the estimators of the policy gradient scatter around the exact one, per rollout."""

from __future__ import annotations

from ..lazy import lazy_names

# name -> module that defines it
_HOME = {
    "GradientNoise": "moments",
    "gradient_noise": "measurement",
    "standard_estimators": "measurement",
}

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy_names(__name__, _HOME, __all__)
