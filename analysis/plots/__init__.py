"""Pictures of records: pure functions `plots.<name>(ax, data)` over data frames, in one seaborn style.

They neither train nor read files nor touch pyplot's state; `analysis.report` puts them together into figures. Each
name is imported from its module on first use, so that listing them loads no plotting library.
"""

from __future__ import annotations

from ..lazy import lazy_names

# name -> module that defines it
_HOME = {
    "BASE": "appearance",
    "COLUMN_INCHES": "appearance",
    "PAGE_INCHES": "appearance",
    "caption": "appearance",
    "heading": "appearance",
    "legend": "appearance",
    "look": "appearance",
    "style": "appearance",
    "curve": "lines",
    "path": "lines",
    "crossing_mark": "noise_lines",
    "noise_curve": "noise_lines",
    "pass_at_k": "pass_at_k_curves",
    "pass_at_k_difference": "pass_at_k_curves",
    "logit_arrows": "token_panels",
    "token_bars": "token_panels",
    "bucket_flow": "flow_panels",
    "realised_and_jvp": "flow_panels",
    "law_agreement": "flow_panels",
    "push_bars": "law_curves",
    "flow_against_prior": "law_curves",
    "boundary_lines": "law_curves",
    "entropy_sign_lines": "law_curves",
    "metric_against_success": "factorial_effects",
    "factor_effects": "factorial_effects",
    "interaction_grid": "factorial_effects",
    "part_lines": "unexplained_parts",
    "unexplained": "unexplained_parts",
    "carrying_tokens": "offline_panels",
    "rank_flow": "offline_panels",
    "rarity_density": "offline_panels",
    "squeeze_density": "offline_panels",
}

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy_names(__name__, _HOME, __all__)
