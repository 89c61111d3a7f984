"""Objectives as a weight for each token and as a loss, two independent routes to the same update.

`names`, `entry` and `check` load no torch; `get` and the classes do, on first use. `python -m analysis.objectives`
prints them all.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
