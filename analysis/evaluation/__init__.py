"""Exact and estimated Pass@k, a policy evaluated on prompts, intervals, and runs compared at matched points.

Each name is imported from its module on first use: Pass@k, intervals and matching need numpy and pandas only, and do
not load torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
