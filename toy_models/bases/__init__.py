"""The built-in base policies: their recipes, their cache, and the code that makes their weights."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
