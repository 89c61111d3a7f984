"""Objectives that compare the rewards of a group, or subtract a baseline from them."""

from __future__ import annotations

from ..definition import Entry
from ..parameters import ADVANTAGE, BASELINE, FORM, WHITEN, Parameter
from .shared import CLIPPED, OLD, advantage, clips

__all__ = ["ENTRIES", "TITLE"]

TITLE = "Rewards compared within a group"

ENTRIES = (
    Entry(
        name="grpo",
        title="GRPO",
        weight=f"A·ρ{CLIPPED}, A = (r − q)/std",
        source="Shao et al., arXiv 2402.03300 Eq. 3",
        parameters=(FORM.with_(default="ratio"), *advantage("group_mean_std"), *clips()),
        needs=OLD,
        form="ratio",
        note="on binary rewards A = √((1 − q)/q) and −√(q/(1 − q)): an implied λ of (1 − q)/q, with the "
        "biased std; with verl's and TRL's unbiased one both are √((G − 1)/G) times that. No clip unless "
        "set: clip_low = clip_high = 0.2 is the paper's",
    ),
    Entry(
        name="dr-grpo",
        title="Dr. GRPO",
        weight=f"A·ρ{CLIPPED}, A = r − q",
        source="Liu et al., arXiv 2503.20783",
        parameters=(FORM.with_(default="ratio"), *advantage("group_mean"), *clips(0.2, 0.2)),
        needs=OLD,
        form="ratio",
        aliases=("dr_grpo",),
        note="with a constant normaliser; the implied λ is that of GRPO",
    ),
    Entry(
        name="rloo",
        title="RLOO",
        weight="A, A = r − mean of the others",
        source="Ahmadian et al., arXiv 2402.14740",
        parameters=(FORM.with_(default="log"), *advantage("leave_one_out"), WHITEN.with_(default="none"), *clips()),
        form="log",
        note="G/(G − 1) times r − q. TRL's normalize_advantages is whiten = responses",
    ),
    Entry(
        name="asymre",
        title="AsymRE",
        weight="r − V",
        source="Arnal et al., arXiv 2506.20520",
        parameters=(ADVANTAGE.with_(default="constant"), BASELINE.with_(required=True)),
        form="log",
        note="off-policy without a ratio; baseline is V",
    ),
    Entry(
        name="rewarding-unlikely",
        title="Rewarding the Unlikely",
        weight=f"A·ρ{CLIPPED}, A of r·(1 − β·rank/G)",
        source="He et al., arXiv 2506.02355",
        parameters=(
            Parameter(
                "rank_penalty",
                "β of r·(1 − β·rank/G), rank 0 the least likely of the group",
                low=0,
                high=1,
                default=0.25,
            ),
            *advantage("group_mean_std"),
            *clips(0.2, 0.2),
        ),
        value="unlikely",
        reads=("mean_log_probs",),
        compares=("group",),
        needs=OLD,
        form="ratio",
        note="rank over the whole group by the mean log-prob of a response's tokens, 0 the least likely; ties "
        "rank in order",
    ),
    Entry(
        name="oreal",
        title="OREAL",
        weight="correct: α·ω_t; wrong: negative_weight·ω_t·A, A = r − q",
        source="Lyu et al., arXiv 2502.06781",
        formula="groups.oreal",
        parameters=(
            Parameter("positive_weight", "α, weight of correct responses", low=0, default=1.0),
            Parameter("negative_weight", "times A, weight of wrong responses", low=0, default=0.5),
        ),
        value="oreal",
        needs=("advantages", "rewards"),
        note="its ratio is that of the policy to itself, hence 1. ω_t, of a reward model on tokens, is 1 where "
        "none is given. Its loss normalises the signs apart, which is not done here; its KL is k3 to a "
        "reference (objective.kl_coef)",
    ),
)
