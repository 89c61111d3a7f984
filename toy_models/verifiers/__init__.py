"""Verifiers of responses as text: exact match, math-verify, or a Python function of yours.

Each name is imported from its module on first use.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
