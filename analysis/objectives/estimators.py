"""The advantage estimators of verl, and the reward settings and preference losses of TRL, as objectives here.

`Registered.ours` is the objective that has its numbers, as `parse_objective` reads it; empty where there is none. A
test goes through the libraries' own registries: a new name there needs a row here.
"""

from __future__ import annotations

from .registries import Registered

__all__ = ["ESTIMATORS"]


def _verl(value: str, ours: str, note: str = "") -> Registered:
    return Registered("verl", "algorithm.adv_estimator", value, ours, note)


def _dpo(value: str, note: str, ours: str = "") -> Registered:
    return Registered("TRL", "DPOConfig.loss_type", value, ours, note)


_UNPAIRED = "of pairs; without pairs it is apo-zero-unpaired"

ESTIMATORS = (
    _verl("gae", "", "the advantages of a critic: critic.enabled = true, critic.gae_lambda, critic.whiten"),
    _verl("grpo", "grpo", "norm_adv_by_std_in_grpo = False: dr-grpo"),
    _verl("grpo_vectorized", "grpo"),
    _verl("rloo", "rloo"),
    _verl("rloo_vectorized", "rloo"),
    _verl("opo", "opo"),
    _verl("remax", "remax"),
    _verl("gpg", "gpg,rescaling=successes"),
    _verl("gdpo", "gdpo,whiten=tokens"),
    _verl("grpo_passk", "pass-at-k-best", "norm_adv_by_std_in_grpo = False: divide_by = none"),
    _verl("reinforce_plus_plus", "reinforce-plus-plus", "at algorithm.gamma = 1, its default"),
    _verl("reinforce_plus_plus_baseline", "reinforce-plus-plus-baseline"),
    _verl("optimal_token_baseline", "optimal-token-baseline", "where no token is masked between others"),
    _verl("tir_optimal_token_baseline", "optimal-token-baseline"),
    Registered("TRL", "GRPOConfig.scale_rewards", "group", "grpo"),
    Registered("TRL", "GRPOConfig.scale_rewards", "batch", "grpo,advantage=group_mean_batch_std"),
    Registered("TRL", "GRPOConfig.scale_rewards", "none", "dr-grpo"),
    Registered("TRL", "GRPOConfig.multi_objective_aggregation", "sum_then_normalize", "grpo", "of the weighted sum"),
    Registered("TRL", "GRPOConfig.multi_objective_aggregation", "normalize_then_sum", "gdpo"),
    Registered("TRL", "RLOOConfig.normalize_advantages", "False", "rloo"),
    Registered("TRL", "RLOOConfig.normalize_advantages", "True", "rloo,whiten=responses"),
    Registered("TRL", "KTOConfig.loss_type", "kto", "kto"),
    Registered("TRL", "KTOConfig.loss_type", "apo_zero_unpaired", "apo-zero-unpaired"),
    _dpo("sigmoid", "", "dpo"),
    _dpo("sft", "of chosen responses alone", "sft"),
    _dpo("hinge", "a hinge in place of DPO's log σ (SLiC)"),
    _dpo("ipo", "a squared loss of the margin (IPO)"),
    _dpo("exo_pair", "a divergence between distributions over the pair (EXO)"),
    _dpo("nca_pair", "three logistic terms for a pair (NCA)"),
    _dpo("robust", "DPO corrected for labels flipped at a known rate"),
    _dpo("bco_pair", "a classifier whose threshold is a running mean (BCO)"),
    _dpo("sppo_hard", "a squared loss of each response apart (SPPO)"),
    _dpo("aot", "margins sorted over a batch (AOT)"),
    _dpo("aot_unpaired", "margins sorted over a batch (AOT)"),
    _dpo("apo_zero", _UNPAIRED),
    _dpo("apo_down", _UNPAIRED),
    _dpo("discopop", "a mixture of losses that a search found (DiscoPOP)"),
    _dpo("sigmoid_norm", "DPO with each log-ratio over the length of its response"),
)
