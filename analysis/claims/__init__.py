"""The ledger of claims: each mechanistic claim with its statistic, margin and rule, decided by a command."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
