"""Objectives with one ratio for a whole response."""

from __future__ import annotations

from ..definition import Entry
from ..parameters import REWARD_VALUES, Parameter
from .shared import OLD, advantage, clips

__all__ = ["ENTRIES", "TITLE"]

TITLE = "One ratio for a response"

ENTRIES = (
    Entry(
        name="gspo",
        title="GSPO",
        weight="A·s·1[not clipped], s = exp(mean_t log ρ_t)",
        source="Zheng et al., arXiv 2507.18071 Eqs. 5, 7",
        formula="sequences.gspo",
        parameters=(*advantage("group_mean_std"), *clips(3e-4, 4e-4)[:2]),
        needs=OLD,
        coupling="response",
        shared_loss=True,
        trl="importance_sampling_level = sequence, loss_type = grpo",
        verl="loss_mode = gspo, with loss_agg_mode = seq-mean-token-mean; no gradient where log s > 10",
        note="every token carries the loss of its sequence: the weight's 1/|y| is that of the sequence mean",
    ),
    Entry(
        name="gspo-token",
        title="GSPO-token",
        weight="A_t·s·1[s not clipped], s = exp(mean_t log ρ_t)",
        source="Zheng et al., arXiv 2507.18071 Eqs. 13, 14; verl, compute_policy_loss_gspo",
        verl="loss_mode = gspo, log_ratio_max = 10",
        formula="sequences.gspo_token",
        parameters=(
            *advantage("group_mean_std"),
            *clips(3e-4, 4e-4)[:2],
            Parameter("log_ratio_max", "no gradient where log s exceeds this (10 in verl); unset: none", above=0),
        ),
        needs=OLD,
        coupling="response",
        note="with one A for a response it is GSPO. verl's gspo is this one",
    ),
    Entry(
        name="luspo",
        title="LUSPO",
        weight="A·s·1[not clipped], s = exp(mean_t log ρ_t), to be summed over the response",
        source="arXiv 2602.05261; TRL, loss_type = luspo",
        trl="loss_type = luspo, importance_sampling_level = sequence",
        formula="sequences.gspo",
        parameters=(*advantage("group_mean_std"), *clips(2e-3, 2.5e-3)[:2]),
        needs=OLD,
        coupling="response",
        shared_loss=True,
        note="GSPO's loss times the length: take update.normalizer = constant with the number of responses, which sums "
        "over tokens; with per_sequence it is GSPO",
    ),
    Entry(
        name="gmpo",
        title="GMPO",
        weight="A·exp(mean_t c_t)·1[not cut], c_t = log ρ_t cut on the side of A",
        source="Zhao et al., arXiv 2507.20673; TRL, GMPOTrainer; verl, compute_policy_loss_geo_mean",
        trl="GMPOTrainer: epsilon, epsilon_high",
        verl="loss_mode = geo_mean: clip_ratio_low, clip_ratio_high",
        formula="sequences.gmpo",
        parameters=(
            *advantage("group_mean_std"),
            Parameter("log_clip_low", "log ρ is raised to −this where A < 0; unset: not", low=0, default=0.4),
            Parameter("log_clip_high", "log ρ is lowered to this where A > 0; unset: not", low=0, default=0.4),
        ),
        needs=OLD,
        coupling="response",
        shared_loss=True,
        aliases=("geo_mean",),
        note="every token carries the loss of its sequence: the weight's 1/|y| is that of the sequence mean. The cut "
        "is in log ρ: 0.4 in the paper and in TRL; verl takes its clip_ratio, 0.2 where unset",
    ),
    Entry(
        name="vespo",
        title="VESPO",
        weight="A·φ(W), φ(W) = exp(λ + k·log W − λ·W), W = Π_t ρ_t",
        source="arXiv 2602.10693; TRL, loss_type = vespo",
        trl="loss_type = vespo",
        formula="sequences.vespo",
        parameters=(
            *advantage("group_mean_std"),
            Parameter("vespo_k_pos", "k where A ≥ 0", low=0, default=2.0),
            Parameter("vespo_lambda_pos", "λ where A ≥ 0", low=1e-4, default=3.0),
            Parameter("vespo_k_neg", "k where A < 0", low=0, default=3.0),
            Parameter("vespo_lambda_neg", "λ where A < 0", low=1e-4, default=2.0),
        ),
        needs=OLD,
        coupling="response",
        takes_factor=True,
        note="at W = 1 the weight is A. W kept in [1e-8, e^20], log ρ of a token in ±20, as in TRL; a rollout "
        "correction of tokens multiplies W, not the loss",
    ),
    Entry(
        name="topr",
        title="TOPR",
        weight="A ≥ 0: A; A < 0: A·min(1, Π_t ρ_t)",
        source="Le Roux et al., arXiv 2503.14286",
        formula="sequences.topr",
        parameters=(REWARD_VALUES.with_(default="signed"), *advantage()),
        value="2r-1",
        needs=OLD,
        coupling="response",
        note="rewards count 1 and −1, as in the paper's experiments, unless reward_values = zero-one, with which wrong "
        "responses have no weight until a normalisation gives them one; the ratio is a stop-gradient, capped at 1",
    ),
)
