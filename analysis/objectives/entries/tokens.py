"""Objectives that clip or gate the ratio of each token by itself."""

from __future__ import annotations

from ..definition import Entry
from ..parameters import CLIP_HIGH, CLIP_LOW, REWARD_VALUES, Parameter
from .shared import CLIPPED, OLD, advantage, clips

__all__ = ["ENTRIES", "TITLE"]

TITLE = "Ratios clipped or gated token by token"

ENTRIES = (
    Entry(
        name="ppo",
        title="PPO",
        weight=f"A·ρ{CLIPPED}",
        source="Schulman et al., arXiv 1707.06347 Eq. 7; dual clip: Ye et al., arXiv 1912.09729",
        parameters=(REWARD_VALUES.with_(default="signed"), *advantage(), *clips(0.2, 0.2)),
        value="2r-1",
        needs=OLD,
        form="ratio",
        aliases=("vanilla",),
        verl="loss_mode = vanilla; dual clip 3, and no gradient where |log ρ| > 20",
        note="without a critic; rewards count 1 and −1 unless reward_values = zero-one, with which wrong responses "
        "have no weight until a normalisation gives them one. The dual clip takes the weight where A < 0 and "
        "ρ > dual_clip",
    ),
    Entry(
        name="dapo",
        title="DAPO",
        weight=f"A·ρ{CLIPPED}, ε_high > ε_low",
        source="Yu et al., arXiv 2503.14476 Eq. 8",
        parameters=(*advantage("group_mean_std"), *clips(0.2, 0.28)),
        needs=OLD,
        form="ratio",
        trl="loss_type = dapo, its default; epsilon_high = 0.28",
        verl="adv_estimator = grpo, loss_mode = vanilla, clip_ratio_high = 0.28; dual clip 3",
        note="token mean over the batch; its dynamic sampling of prompts is not part of the loss",
    ),
    Entry(
        name="cispo",
        title="CISPO",
        weight="A·sg(clip ρ)",
        source="MiniMax-M1, arXiv 2506.13585 Eq. 4",
        formula="tokens.cispo",
        parameters=(*advantage("group_mean_std"), CLIP_LOW, CLIP_HIGH.with_(default=4.0)),
        needs=OLD,
        trl="loss_type = cispo: from above only, epsilon_high the bound itself, 1 + clip_high; 5 is recommended",
        verl="loss_mode = cispo: on both sides, clip_ratio_low and clip_ratio_high, 0.2 each",
        note="never zero. The default of clip_high, a bound of 5, is that of ScaleRL (Khatri et al., arXiv "
        "2510.13786); MiniMax-M1 states none",
    ),
    Entry(
        name="sapo",
        title="SAPO",
        weight="4·A·ρ·σ(1 − σ), σ = sigmoid(τ(ρ − 1))",
        source="Gao et al., arXiv 2511.20347",
        formula="tokens.sapo",
        parameters=(
            *advantage("group_mean_std"),
            Parameter("tau_pos", "τ of the sigmoid gate where A > 0", above=0, default=1.0),
            Parameter("tau_neg", "τ of the sigmoid gate where A ≤ 0", above=0, default=1.05),
        ),
        needs=OLD,
        trl="loss_type = sapo: sapo_temperature_pos, sapo_temperature_neg",
        verl="loss_mode = sapo: tau_pos, tau_neg",
        note="τ differs by the sign of A",
    ),
)
