"""Gradient noise: how far the estimators of the policy gradient scatter around the exact one, per rollout."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
