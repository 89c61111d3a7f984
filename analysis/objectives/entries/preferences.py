"""Objectives of preferences between responses."""

from __future__ import annotations

from ..definition import Entry
from ..parameters import BETA, Parameter

__all__ = ["ENTRIES", "TITLE"]

TITLE = "Preferences"

_KTO = (
    BETA.with_(default=0.1),
    Parameter("desirable_weight", "weight of rewarded responses", low=0, default=1.0),
    Parameter("undesirable_weight", "weight of the other responses", low=0, default=1.0),
)
_S = "·βσ(x)σ(−x)"

ENTRIES = (
    Entry(
        name="dpo",
        title="DPO",
        weight="chosen: βσ(−βΔ); rejected: −βσ(−βΔ)",
        source="Rafailov et al., arXiv 2305.18290 Eq. 7",
        formula="preferences.dpo",
        parameters=(BETA.with_(default=0.1),),
        value="1",
        needs=("ref_log_probs",),
        coupling="pair",
        trl="DPOTrainer, loss_type = sigmoid",
        note="rows 2i and 2i + 1 are the chosen and the rejected response of pair i; Δ is the difference of "
        "their log(π/ref). A row carries half of its pair's loss, evenly over its tokens",
    ),
    Entry(
        name="kto",
        title="KTO",
        weight=f"rewarded: λ_D{_S}, x = β(Δ − z); others: −λ_U{_S}, x = β(z − Δ)",
        source="Ethayarajh et al., arXiv 2402.01306 Eq. 7; TRL's KTOTrainer",
        formula="preferences.kto",
        parameters=_KTO,
        value="1",
        needs=("rewards", "ref_log_probs", "kl_baseline"),
        coupling="response",
        shared_loss=True,
        trl="KTOTrainer, loss_type = kto",
        note="of single responses, rewarded (r > 0) or not. Δ = Σ_t log(π_t/ref_t), z the estimate of the KL to the "
        "reference (kl_baseline), 0 where that is negative. TRL estimates it on prompts with the responses of others, "
        "the loop on the responses of the batch, at the policy that drew them. Each token carries 1/|y| of its "
        "response's loss",
    ),
    Entry(
        name="apo-zero-unpaired",
        title="APO-zero, unpaired",
        weight=f"rewarded: λ_D{_S}; others: −λ_U{_S}, x = βΔ",
        source="D'Oosterlinck et al., arXiv 2408.06266; TRL's KTOTrainer, loss_type = apo_zero_unpaired",
        formula="preferences.apo_zero_unpaired",
        parameters=_KTO,
        value="1",
        needs=("rewards", "ref_log_probs"),
        coupling="response",
        shared_loss=True,
        aliases=("apo_zero_unpaired",),
        trl="KTOTrainer, loss_type = apo_zero_unpaired",
        note="KTO with z = 0",
    ),
    Entry(
        name="orpo",
        title="ORPO",
        weight="chosen: (1 + βσ(−δ)/(1 − P_w))/|y|; rejected: −βσ(−δ)/(1 − P_l)/|y|",
        source="Hong et al., arXiv 2403.07691 Eqs. 6, 7; TRL's ORPOTrainer",
        formula="preferences.orpo",
        parameters=(BETA.with_(default=0.1),),
        value="1",
        needs=(),
        coupling="pair",
        trl="ORPOTrainer",
        note="rows 2i and 2i + 1 are the chosen and the rejected response of pair i. P = exp(mean_t log π_t), δ = "
        "log(P_w/(1 − P_w)) − log(P_l/(1 − P_l)); β is the paper's λ. A row carries half of its pair's loss "
        "−mean log π_w − β·log σ(δ), evenly over its tokens. TRL's first term runs over the tokens of prompt and "
        "chosen response and is averaged over the tokens of the batch",
    ),
)
