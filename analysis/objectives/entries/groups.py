"""Objectives that compare the rewards of a group, or subtract a baseline from them."""

from __future__ import annotations

from ..definition import Entry
from ..parameters import ADVANTAGE, BASELINE, FORM, WHITEN, Parameter
from .shared import CLIPPED, OLD, advantage, clips

__all__ = ["ENTRIES", "TITLE"]

TITLE = "Rewards compared within a group"

_RANKED = (
    Parameter(
        "rank_penalty", "β of the penalty β·rank/G, rank 0 the least likely of the group", low=0, high=1, default=0.25
    ),
    *advantage("group_mean_std"),
    *clips(0.2, 0.2),
)
_OREAL = (
    Parameter("positive_weight", "α, weight of correct responses", low=0, default=1.0),
    Parameter("negative_weight", "times A, weight of wrong responses", low=0, default=0.5),
)
_OREAL_NOTE = (
    "Its ratio is that of the policy to itself, hence 1. ω_t, of a reward model on tokens, is 1 where none is given. "
    "Its loss divides correct and wrong tokens by their own numbers, here the update's normaliser divides both; its KL "
    "is k3 to a reference (objective.kl_coef)"
)

ENTRIES = (
    Entry(
        name="grpo",
        title="GRPO",
        weight=f"A·ρ{CLIPPED}, A = (r − q)/std",
        source="Shao et al., arXiv 2402.03300 Eq. 3",
        parameters=(FORM.with_(default="ratio"), *advantage("group_mean_std"), *clips()),
        needs=OLD,
        form="ratio",
        trl="scale_rewards = group; clips at 0.2, and adds 1e-4 to the std",
        verl="adv_estimator = grpo, loss_mode = vanilla; clips at 0.2, dual clip 3",
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
        trl="scale_rewards = none, loss_type = dr_grpo",
        verl="adv_estimator = grpo, norm_adv_by_std_in_grpo = False, loss_mode = vanilla; dual clip 3",
        note="with a constant normaliser; the implied λ is that of GRPO",
    ),
    Entry(
        name="rloo",
        title="RLOO",
        weight="A, A = r − mean of the others",
        source="Ahmadian et al., arXiv 2402.14740",
        parameters=(FORM.with_(default="log"), *advantage("leave_one_out"), WHITEN.with_(default="none"), *clips()),
        form="log",
        trl="RLOOTrainer: the same on-policy; off it, A·Π_t ρ_t with a clip on the product",
        verl="adv_estimator = rloo, with loss_mode = vanilla: the form ratio with clips of 0.2, dual clip 3",
        note="G/(G − 1) times r − q. TRL's normalize_advantages is whiten = responses",
    ),
    Entry(
        name="asymre",
        title="AsymRE",
        weight="r − V",
        source="Arnal et al., arXiv 2506.20520: its analysis, with a constant V",
        parameters=(ADVANTAGE.with_(default="constant"), BASELINE.with_(required=True)),
        form="log",
        note="off-policy without a ratio; baseline is V. Its language models are trained with asymre-group",
    ),
    Entry(
        name="asymre-group",
        title="AsymRE (group mean + δV)",
        weight="r − (q + δV)",
        source="Arnal et al., arXiv 2506.20520: its language models, V the group's mean plus δV",
        parameters=(Parameter("baseline_offset", "δV, added to the group's mean", default=-0.1),),
        value="offset",
        compares=("group",),
        form="log",
        formula="clipped.policy_gradient",
        note="off-policy without a ratio. δV < 0 favours correct responses, and then equal rewards give −δV, not 0",
    ),
    Entry(
        name="rewarding-unlikely",
        title="Rewarding the Unlikely",
        weight=f"A·ρ{CLIPPED}, A of r·(1 − β·rank/G)",
        source="He et al., arXiv 2506.02355: its released code",
        parameters=_RANKED,
        value="unlikely",
        reads=("mean_log_probs",),
        compares=("group",),
        needs=OLD,
        form="ratio",
        note="rank over the whole group by the mean log-prob of a response's tokens, 0 the least likely; ties "
        "rank in order. The paper's form is rewarding-unlikely-paper",
    ),
    Entry(
        name="rewarding-unlikely-paper",
        title="Rewarding the Unlikely (paper)",
        weight=f"A·ρ{CLIPPED}, A of r·(1 − β·(rank + 1)/G)",
        source="He et al., arXiv 2506.02355: its formula r·(1 − β·(G − rank)/G), rank 0 there the most likely",
        parameters=_RANKED,
        value="unlikely-paper",
        reads=("mean_log_probs", "lengths"),
        compares=("group",),
        needs=OLD,
        form="ratio",
        note="rank over the whole group by the log-probability of the whole response, 0 the least likely: one more "
        "than the code's rank in the penalty, and longer responses rank lower",
    ),
    Entry(
        name="oreal",
        title="OREAL",
        weight="correct: α·ω_t; wrong: negative_weight·ω_t·A, A = r − q",
        source="Lyu et al., arXiv 2502.06781: the paper",
        formula="groups.oreal",
        parameters=_OREAL,
        value="oreal",
        needs=("advantages", "rewards"),
        note=f"correct responses count α whatever the group; the released code is oreal-released. {_OREAL_NOTE}",
    ),
    Entry(
        name="oreal-released",
        title="OREAL (released code)",
        weight="correct: α·ω_t·A; wrong: negative_weight·ω_t·A, A = ±1 less the mean of the others",
        source="Lyu et al., arXiv 2502.06781: released code, github.com/InternLM/OREAL, all four configurations",
        formula="groups.oreal",
        parameters=_OREAL,
        value="oreal_code",
        compares=("group",),
        needs=("advantages", "rewards"),
        note="rewards count 1 and −1, and correct responses are multiplied by A too (pos_mult_adv); the weight of "
        f"wrong ones is 2G/(G − 1) times that of oreal. {_OREAL_NOTE}",
    ),
)
