"""Plug-ins for other training libraries ("engines"): the objectives and the records of this project in their trainers.

Names are imported on first use, so that importing `analysis` loads none of those libraries.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
