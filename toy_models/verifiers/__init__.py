"""Verifiers of responses given as text: exact match, a Python function of your own, or math-verify.

Each name is imported from its module on first use.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
