"""Objectives that choose tokens over a whole minibatch."""

from __future__ import annotations

from ..definition import Entry
from ..parameters import SHARE, Parameter
from .shared import CLIPPED, OLD, advantage, clips

__all__ = ["ENTRIES", "TITLE"]

TITLE = "Tokens chosen over a minibatch"

ENTRIES = (
    Entry(
        name="high-entropy",
        title="high-entropy tokens",
        weight=f"A·ρ{CLIPPED}·1[H_t among the top share]",
        source="Wang et al., arXiv 2506.01939",
        formula="selections.selected",
        parameters=(*advantage("group_mean_std"), *clips(0.2, 0.28), SHARE.with_(default=0.2)),
        needs=(*OLD, "selection"),
        coupling="minibatch",
        selects="top_entropy",
        trl="top_entropy_quantile = share: the tokens at or above the interpolated quantile, at times one fewer",
        note="ties with the last entropy of the share are kept",
    ),
    Entry(
        name="clip-cov",
        title="Clip-Cov",
        weight=f"A·ρ{CLIPPED}·1[not drawn]",
        source="Cui et al., arXiv 2505.22617 and its code",
        formula="selections.unselected",
        parameters=(
            *advantage("group_mean_std"),
            *clips(0.2, 0.2),
            SHARE.with_(default=2e-4),
            Parameter("cov_low", "only tokens with a covariance above this can be chosen", default=1.0),
            Parameter("cov_high", "only tokens with a covariance below this can be chosen", default=5.0),
        ),
        needs=(*OLD, "selection"),
        coupling="minibatch",
        selects="drawn_covariance",
        verl="loss_mode = clip_cov: clip_cov_ratio, clip_cov_lb, clip_cov_ub",
        note="drawn: a random share of the tokens, at least one, of those that PPO had not clipped and whose "
        "(A − mean A)(log π − mean log π) lies in (cov_low, cov_high)",
    ),
    Entry(
        name="kl-cov",
        title="KL-Cov",
        weight="A·ρ; A·ρ − κ·sign(log ρ) on the top share by covariance",
        source="Cui et al., arXiv 2505.22617, as in its code",
        formula="selections.kl_cov",
        parameters=(
            *advantage("group_mean_std"),
            SHARE.with_(default=2e-4),
            Parameter("kappa", "coefficient κ of |log ρ| on the chosen tokens", low=0, default=1.0),
        ),
        needs=(*OLD, "selection"),
        coupling="minibatch",
        homogeneous=False,
        selects="top_covariance",
        verl="loss_mode = kl_cov: kl_cov_ratio, ppo_kl_coef, which is 0.1 unless set",
        note="κ = 1 is the default of the paper's code. Never clipped; at ρ = 1 the penalty's weight is 0, as autograd "
        "has it",
    ),
)
