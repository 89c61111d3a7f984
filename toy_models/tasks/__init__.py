"""Tasks with a verifiable reward: puzzles whose correct responses can be listed, and prompts from files."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
