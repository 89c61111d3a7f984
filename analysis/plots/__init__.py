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
    "crossing_mark": "noise",
    "noise_curve": "noise",
    "pass_at_k": "passk",
    "pass_at_k_difference": "passk",
    "logit_arrows": "tokens",
    "token_bars": "tokens",
    "bucket_flow": "flows",
    "realised_and_jvp": "flows",
    "law_agreement": "flows",
    "push_bars": "laws",
    "flow_against_prior": "laws",
    "boundary_lines": "laws",
    "entropy_sign_lines": "laws",
    "metric_against_success": "ladder",
    "factor_effects": "ladder",
    "interaction_grid": "ladder",
    "part_lines": "predictions",
    "unexplained": "predictions",
    "carrying_tokens": "traces",
    "rank_flow": "traces",
    "rarity_density": "traces",
    "squeeze_density": "traces",
}

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy_names(__name__, _HOME, __all__)
