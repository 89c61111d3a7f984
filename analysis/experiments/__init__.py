"""Many runs: an experiment, its pool of worker processes and its progress. Loads no torch."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
