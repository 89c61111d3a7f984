"""Policy gradients whose advantages are normalised over the whole batch."""

from __future__ import annotations

from ..definition import Entry
from ..parameters import WHITEN
from .shared import CLIPPED, OLD, advantage, clips

__all__ = ["ENTRIES", "TITLE"]

TITLE = "Rewards compared within a batch"

_REINFORCE = "Hu et al., arXiv 2501.03262"
_KL = (
    "Its KL is k1 in the rewards of tokens; objective.kl_placement = before_baseline subtracts the sum over the "
    "response before the whitening"
)

ENTRIES = (
    Entry(
        name="reinforce-plus-plus",
        title="REINFORCE++",
        weight=f"A·ρ{CLIPPED}, A = (r − m)/s over the batch's tokens",
        source=f"{_REINFORCE}; verl's reinforce_plus_plus at γ = 1",
        parameters=(*advantage("none"), WHITEN.with_(default="tokens"), *clips(0.2, 0.2)),
        graded=True,
        needs=OLD,
        form="ratio",
        aliases=("reinforce++", "reinforce_plus_plus"),
        verl="adv_estimator = reinforce_plus_plus with algorithm.gamma = 1, its default",
        note="m and s are mean and standard deviation of the rewards of all tokens, each token having its response's. "
        "On binary rewards A₊ = (1 − m)/s and A₋ = −m/s with m the fraction of the batch's tokens in correct "
        f"responses: one implied λ of (1 − m)/m for all prompts. {_KL}",
    ),
    Entry(
        name="reinforce-plus-plus-baseline",
        title="REINFORCE++ with baseline",
        weight=f"A·ρ{CLIPPED}, A = (r − q − m)/s over the batch's tokens",
        source=f"{_REINFORCE}; verl's reinforce_plus_plus_baseline",
        parameters=(*advantage("group_mean"), WHITEN.with_(default="tokens"), *clips(0.2, 0.2)),
        graded=True,
        needs=OLD,
        form="ratio",
        aliases=("reinforce++-baseline", "reinforce_plus_plus_baseline"),
        verl="adv_estimator = reinforce_plus_plus_baseline",
        note="m and s are mean and standard deviation of r − q over all tokens of the batch. On binary rewards A₊ = "
        "(1 − q − m)/s and A₋ = −(q + m)/s, where m is 0 if all responses have one length: Dr. GRPO over a number of "
        f"the batch. {_KL}",
    ),
    Entry(
        name="gdpo",
        title="GDPO",
        weight=f"A·ρ{CLIPPED}, A = Σ_k w_k·(r_k − mean)/std, whitened over the batch",
        source="Liu et al., arXiv 2601.05242; TRL's normalize_then_sum, verl's gdpo (whiten = tokens)",
        parameters=(WHITEN.with_(default="responses"), *clips(0.2, 0.2)),
        value="decoupled",
        reads=("reward_components",),
        compares=("group",),
        graded=True,
        needs=OLD,
        form="ratio",
        trl="multi_objective_aggregation = normalize_then_sum, with 1e-4 where 1e-6 is added here",
        verl="adv_estimator = gdpo; whiten = tokens is its whitening",
        note="each of several rewards r_k is standardised within its group; w_k are weights. With one binary reward "
        "A₊ = √((1 − q)/q)·√((G − 1)/G) and A₋ = −A₊·q/(1 − q), then whitened: GRPO over a number of the batch",
    ),
)
