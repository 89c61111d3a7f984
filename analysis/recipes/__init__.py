"""Recipes: the TOML files, their fields, and the rules for which fields go together. Loads no torch."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
