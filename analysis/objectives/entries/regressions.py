"""Regressions of the log-ratio to another policy on the reward: an advantage less τ times that log-ratio."""

from __future__ import annotations

from ..definition import Entry
from ..parameters import Parameter
from .shared import OLD, advantage

__all__ = ["ENTRIES", "TITLE"]

TITLE = "Regressions of a log-ratio on the reward"

_TAU = Parameter("tau", "coefficient τ of the log-ratio that the advantage is compared with", above=0)

ENTRIES = (
    Entry(
        name="kimi-1.5",
        title="Kimi k1.5",
        weight="A − τ·Σ_t log ρ_t, A = r − q",
        source="Kimi team, arXiv 2501.12599 Eq. 3",
        formula="regressions.kimi",
        parameters=(*advantage("group_mean"), _TAU.with_(default=0.1)),
        needs=OLD,
        coupling="response",
        takes_factor=True,
        homogeneous=False,
        note="loss −A·Σ_t log π_t + (τ/2)(Σ_t log ρ_t)² of a response. On binary rewards A₊ = 1 − q and A₋ = −q, "
        "those of Dr. GRPO. The report gives no τ; 0.1 is ROLL's",
    ),
    Entry(
        name="dro",
        title="DRO",
        weight="A − τ·Σ_t log(π_t/ref_t), A = r − V",
        source="Richemond et al., arXiv 2405.19107, policy gradient of DRO-V over τ",
        formula="regressions.dro",
        parameters=(*advantage("group_mean"), _TAU.with_(default=1.0)),
        needs=("advantages", "ref_log_probs"),
        coupling="response",
        shared_loss=True,
        homogeneous=False,
        verl="its dro is dro-token",
        note="loss (r − V − τ·Σ_t log(π_t/ref_t))²/(2τ) of a response; the paper divides its gradient by τ as here. V "
        "is learned there; here it is the mean of the group (A₊ = 1 − q, A₋ = −q on binary rewards) or a constant",
    ),
    Entry(
        name="dro-token",
        title="DRO of tokens",
        weight="A − τ·log ρ",
        source="verl's dro (dro_beta), ROLL's kimi15 (kimi15_tau)",
        formula="regressions.dro_token",
        parameters=(*advantage("group_mean"), _TAU.with_(default=0.1)),
        needs=OLD,
        homogeneous=False,
        aliases=("kimi15",),
        verl="policy_loss.loss_mode = dro, dro_beta = tau",
        note="the squared log-ratio of each token rather than of its response: neither the DRO nor the Kimi k1.5 of "
        "the papers. On binary rewards A₊ = 1 − q and A₋ = −q",
    ),
)
