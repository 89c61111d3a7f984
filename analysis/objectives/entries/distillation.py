"""Distillation from a teacher, on responses of the policy itself."""

from __future__ import annotations

from ..definition import Entry
from ..parameters import BETA, CLAMP, DIVERGENCE_LOW, DRIFT, Parameter
from .shared import CLIPPED, clips

__all__ = ["ENTRIES", "TITLE"]

TITLE = "On-policy distillation from a teacher t"

_TEACHER = ("teacher_log_probs",)
_OLD = ("old_log_probs", "teacher_log_probs")
_GKD = "Agarwal et al., arXiv 2306.13649"
_REWARD = "every response counts, whatever its reward"

ENTRIES = (
    Entry(
        name="opd",
        title="on-policy distillation",
        weight=f"ρ·log(t_y/π_y){CLIPPED}",
        source="Thinking Machines, On-Policy Distillation (2025); verl, distillation with use_policy_gradient, k1",
        verl="distillation_loss.use_policy_gradient, loss_mode = k1",
        formula="distillation.opd",
        parameters=(
            *clips(),
            Parameter("advantage_max", "|log(t_y/π_y)| is lowered to this (verl: loss_max_clamp); unset: not", above=0),
        ),
        value="1",
        needs=_OLD,
        note=f"A = sg(log(t_y/π_y)) in PPO's loss, in expectation −∇KL(π‖t) at ρ = 1; {_REWARD}. verl clips with its "
        "clip_ratio: clip_low = clip_high = 0.2, dual_clip = 3 by default",
    ),
    Entry(
        name="opd-prime",
        title="on-policy distillation, prime-rl",
        weight="ρ·log(t_y/π_y)·1[π − π_old ≥ −divergence_low] − 2·drift_coef·log ρ",
        source="prime-rl, ref_kl_loss_fn",
        formula="distillation.opd_prime",
        parameters=(DIVERGENCE_LOW.with_(default=0.2), DRIFT),
        value="1",
        needs=_OLD,
    ),
    Entry(
        name="opd-iw",
        title="on-policy distillation, importance-weighted",
        weight="a_t·(1 + γ·Σ_{s≥t}|a_s|/Σ_s|a_s|), a = log(t_y/π_old,y)",
        source="TRL, IWOPDTrainer",
        trl="IWOPDTrainer, distillation_objective = iw_opd",
        formula="distillation.opd_iw",
        parameters=(Parameter("iw_gamma", "γ of the weight of early tokens", low=0, default=0.5),),
        value="1",
        needs=_OLD,
        coupling="response",
        note="the weight is fixed by the rollout: no ratio. |a| summed over a response is raised to 1e-8",
    ),
    Entry(
        name="opd-k2",
        title="on-policy distillation, k2",
        weight="−β·log(π_y/t_y)",
        source="verl, distillation_loss.loss_mode = k2",
        verl="distillation_loss.loss_mode = k2 (mse)",
        formula="distillation.opd_k2",
        parameters=(BETA.with_(default=1.0),),
        value="1",
        needs=_TEACHER,
        note="in expectation β·∇KL(π‖t)",
    ),
    Entry(
        name="opd-k3",
        title="on-policy distillation, k3",
        weight="β·(t_y/π_y − 1)",
        source="verl, distillation_loss.loss_mode = k3, its default",
        verl="distillation_loss.loss_mode = k3 (low_var_kl)",
        formula="distillation.opd_k3",
        parameters=(BETA.with_(default=1.0), CLAMP),
        value="1",
        needs=_TEACHER,
        note="in expectation β·∇KL(t‖π). verl clamps: 0 where k3 > 10 (clamp = 10)",
    ),
    Entry(
        name="opd-abs",
        title="on-policy distillation, |k1|",
        weight="−β·sign(log(π_y/t_y))",
        source="verl, distillation_loss.loss_mode = abs",
        verl="distillation_loss.loss_mode = abs",
        formula="distillation.opd_abs",
        parameters=(BETA.with_(default=1.0),),
        value="1",
        needs=_TEACHER,
    ),
    Entry(
        name="distill-jsd",
        title="distillation, generalised JSD",
        weight="r_v = π_v·(g_v − Σ_u π_u·g_u), g = (1 − β)·log(π/m), m = (1 − β)π + βt; β = 0: π_v − t_v; β = 1: g = "
        "log(π/t)",
        source=f"{_GKD} Eq. 1; TRL, GKDTrainer.generalized_jsd_loss",
        trl="GKDTrainer, DistillationTrainer: beta = jsd_beta",
        formula="distillation.jsd",
        parameters=(
            Parameter(
                "jsd_beta",
                "β: 0 is the forward KL(t‖π), 1 the reverse KL(π‖t), else the divergence of both to their mixture",
                low=0,
                high=1,
                default=0.5,
            ),
        ),
        value="1",
        needs=("teacher_logits",),
        scalar=False,
        aliases=("gkd",),
    ),
    Entry(
        name="distill-topk",
        title="distillation, forward KL of the top tokens",
        weight="r_v = π_v·Σ_{u in top} t_u − t_v·1[v in top]",
        source="verl, compute_forward_kl_topk",
        verl="distillation_loss.loss_mode = forward_kl_topk, topk = teacher_top",
        formula="distillation.topk",
        parameters=(
            Parameter(
                "teacher_top", "number of the teacher's most probable tokens in the sum", low=1, whole=True, default=32
            ),
        ),
        value="1",
        needs=("teacher_logits",),
        scalar=False,
        note="Σ t_v·log(t_v/π_v) over the teacher's top tokens, not renormalised; 0 where the sum is not positive. "
        "verl's log_prob_min_clamp, unset by default, is not offered",
    ),
)
