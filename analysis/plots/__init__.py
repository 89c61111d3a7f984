"""Pictures of records: pure functions `plots.<name>(ax, data)` over data frames, in one seaborn style.

They neither train nor read files nor touch pyplot's state; `analysis.report` puts them together into figures. Each
name is imported from its module on first use, so that listing them loads no plotting library.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
