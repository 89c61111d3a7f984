"""Everything that looks at a live model: `attach`, output heads, contexts followed through updates, JVPs.

Names are imported on first use, so that `RecordSpec` can be read without loading torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
