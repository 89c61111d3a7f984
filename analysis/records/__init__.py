"""The records of a run: one schema, a writer that survives interruption, readers, and what follows from them.

`docs/records.md` describes the tables. Names are imported on first use, so that command lines can look at run folders
without loading torch or pyarrow.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
