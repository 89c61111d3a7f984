"""Where a policy comes from: a built-in base, a folder, a GGUF file, or the Hugging Face Hub."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
