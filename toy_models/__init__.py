"""Policies small enough to be exact and tasks whose correct responses can be enumerated.

Knows nothing of how policies are analysed. Each name is imported from its module on first use, so that the names of
tasks and bases can be read without loading torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
