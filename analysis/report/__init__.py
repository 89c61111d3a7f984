"""What an experiment shows: tables of its methods at matched points, figures, and the page that holds both.

Each name is imported from its module on first use, so that `--help` loads no plotting library.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
