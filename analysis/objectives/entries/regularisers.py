"""Losses without rewards: the KL to a reference policy, and the entropy."""

from __future__ import annotations

from ..definition import Entry
from ..parameters import BETA, CLAMP, Parameter

__all__ = ["ENTRIES", "TITLE"]

TITLE = "KL to a reference, and entropy"

_SCHULMAN = 'k1, k2, k3 of Schulman\'s note "Approximating KL divergence" (2020)'

ENTRIES = (
    Entry(
        name="kl-k1",
        title="KL loss, k1",
        weight="−β",
        source=_SCHULMAN,
        formula="regularisers.kl_k1",
        parameters=(BETA.with_(default=1.0),),
        value="1",
        needs=("ref_log_probs",),
        note="its expected gradient is zero",
    ),
    Entry(
        name="kl-k2",
        title="KL loss, k2",
        weight="−β·log(π_y/ref_y)",
        source=_SCHULMAN,
        formula="regularisers.kl_k2",
        parameters=(BETA.with_(default=1.0),),
        value="1",
        needs=("ref_log_probs",),
        note="in expectation β·∇KL(π‖ref)",
        aliases=("mse",),
    ),
    Entry(
        name="kl-k3",
        title="KL loss, k3",
        weight="β·(ref_y/π_y − 1)",
        source=_SCHULMAN,
        formula="regularisers.kl_k3",
        parameters=(
            BETA.with_(default=1.0),
            CLAMP,
        ),
        value="1",
        needs=("ref_log_probs",),
        aliases=("low_var_kl",),
        note="in expectation β·∇KL(ref‖π). verl clamps: 0 where k3 > 10 (clamp = 10)",
    ),
    Entry(
        name="kl-k1+",
        title="KL loss, k1+",
        weight="−β·log(π_y/ref_y)",
        source="verl, kl_penalty: straight through",
        verl="kl_loss_type = k1+ (kl+)",
        formula="regularisers.kl_k1_plus",
        parameters=(BETA.with_(default=1.0),),
        value="1",
        needs=("ref_log_probs",),
        aliases=("kl+",),
        note="the value of k1, the gradient of k2",
    ),
    Entry(
        name="kl-k3+",
        title="KL loss, k3+",
        weight="−β·log(π_y/ref_y)",
        source="verl, kl_penalty: straight through",
        verl="kl_loss_type = k3+ (low_var_kl+)",
        formula="regularisers.kl_k3_plus",
        parameters=(BETA.with_(default=1.0),),
        value="1",
        needs=("ref_log_probs",),
        aliases=("low_var_kl+",),
        note="the value of k3, the gradient of k2. verl cuts the value at 10",
    ),
    Entry(
        name="kl-abs",
        title="KL loss, |k1|",
        weight="−β·sign(log(π_y/ref_y))",
        source="verl, kl_penalty: abs",
        verl="kl_loss_type = abs",
        formula="regularisers.kl_abs",
        parameters=(BETA.with_(default=1.0),),
        value="1",
        needs=("ref_log_probs",),
        note="0 where both are equal. verl's abs+ has the gradient of k2, as kl-k1+",
    ),
    Entry(
        name="kl-k3-corrected",
        title="KL loss, k3 × ρ",
        weight="−β·ρ·log(π_y/ref_y)",
        source="TRL, use_bias_correction_kl",
        formula="regularisers.kl_corrected",
        parameters=(BETA.with_(default=1.0),),
        value="1",
        needs=("old_log_probs", "ref_log_probs"),
    ),
    Entry(
        name="entropy-bonus",
        title="entropy bonus",
        weight="r_v = απ_v(log π_v + H)",
        source="L = −α·H",
        formula="regularisers.entropy",
        parameters=(Parameter("alpha", "coefficient α of the entropy", above=0, default=1.0),),
        value="1",
        needs=(),
        scalar=False,
    ),
    Entry(
        name="kl-full",
        title="KL over the vocabulary",
        weight="r_v = βπ_v(log(π_v/ref_v) − KL)",
        source="L = β·KL(π‖ref)",
        formula="regularisers.kl_full",
        parameters=(BETA.with_(default=1.0),),
        value="1",
        needs=("ref_logits",),
        scalar=False,
    ),
)
