"""Pass@k from a file of graded samples: the curve with intervals, of one checkpoint or of two on the same prompts.

Names are imported on first use, so that `--help` loads neither pandas nor a plotting library.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
