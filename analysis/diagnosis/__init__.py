"""What is wrong with a run, in sentences: what carried its updates, and faults that its records show.

Names are imported on first use, so that `--help` loads neither pandas nor torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
