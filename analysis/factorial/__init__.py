"""The factorial: which of the things that differ between PSR and NSR makes them differ, on policies that are exact."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
