"""Exact gradients: how far estimators of the policy gradient scatter around them, and how prompts interfere."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
