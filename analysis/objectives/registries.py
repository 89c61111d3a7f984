"""Every loss that TRL and verl register, by the option that chooses it: which objective it is here, or why none.

Data without torch; a test compares the names with those of the installed libraries.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["REGISTRIES", "Registered"]


@dataclass(frozen=True)
class Registered:
    """One value of an option of another library.

    Attributes:
        library: TRL or verl.
        option: the option that takes the value.
        value: the registered name.
        ours: the objective, or the fields of a recipe; empty where there is none.
        note: how it is reached, or why there is none.
    """

    library: str
    option: str
    value: str
    ours: str
    note: str = ""


_GRPO, _MODE = "GRPOConfig.loss_type", "actor.policy_loss.loss_mode"
_KL, _DISTIL = "actor.kl_loss_type", "distillation_loss.loss_mode"
_VLLM = "GRPOConfig.vllm_importance_sampling_mode"
_LEVEL = "GRPOConfig.importance_sampling_level"
_TOPK = "the loop keeps no teacher's logits: for losses of logits only"

REGISTRIES = (
    Registered("TRL", _GRPO, "grpo", "grpo", "clip_low = clip_high = 0.2, update.normalizer = per_sequence"),
    Registered("TRL", _GRPO, "bnpo", "grpo", "clip_low = clip_high = 0.2, update.normalizer = batch_tokens"),
    Registered("TRL", _GRPO, "dapo", "grpo", "clip_low = clip_high = 0.2, update.normalizer = batch_tokens"),
    Registered("TRL", _GRPO, "dr_grpo", "grpo", "clip_low = clip_high = 0.2, update.normalizer = constant"),
    Registered("TRL", _GRPO, "cispo", "cispo", "clip_high = epsilon_high − 1"),
    Registered("TRL", _GRPO, "sapo", "sapo", "update.normalizer = per_sequence"),
    Registered("TRL", _GRPO, "luspo", "luspo", "update.normalizer = constant"),
    Registered("TRL", _GRPO, "vespo", "vespo", "update.normalizer = batch_tokens"),
    Registered("TRL", _LEVEL, "token", "grpo"),
    Registered("TRL", _LEVEL, "sequence", "gspo", "with loss_type = grpo"),
    *(
        Registered("TRL", _VLLM, mode, f"objective.rollout_is = {mode.replace('_', '-')}")
        for mode in ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask")
    ),
    Registered("TRL", "SFTConfig.loss_type", "nll", "sft"),
    Registered("TRL", "SFTConfig.loss_type", "dft", "dft"),
    Registered("TRL", "SFTConfig.loss_type", "chunked_nll", "sft", "a deprecated name of nll"),
    Registered("verl", _MODE, "vanilla", "ppo", "dual_clip = 3 by default"),
    Registered("verl", _MODE, "dppo_tv", "dppo-tv", "ratio_cap = clip_ratio_c"),
    Registered("verl", _MODE, "dppo_kl", "dppo-kl", "ratio_cap = clip_ratio_c"),
    Registered("verl", _MODE, "gspo", "gspo-token", "log_ratio_max = 10"),
    Registered("verl", _MODE, "sapo", "sapo", "update.normalizer = per_sequence"),
    Registered("verl", _MODE, "gpg", "gpg"),
    Registered("verl", _MODE, "clip_cov", "clip-cov"),
    Registered("verl", _MODE, "kl_cov", "kl-cov"),
    Registered("verl", _MODE, "geo_mean", "gmpo", "update.normalizer = per_sequence"),
    Registered("verl", _MODE, "dro", "dro-token"),
    Registered("verl", _MODE, "cispo", "cispo"),
    Registered(
        "verl",
        _MODE,
        "bypass_mode",
        "",
        "not a loss of its own: ppo (its ppo_clip) or cispo (its reinforce with token weights) with the engine's "
        "log-probs as the old ones",
    ),
    *(Registered("verl", _KL, name, "objective.kl_estimator = k1") for name in ("kl", "k1")),
    *(Registered("verl", _KL, name, "objective.kl_estimator = k2") for name in ("mse", "k2")),
    *(Registered("verl", _KL, name, "objective.kl_estimator = k3", "cut at 10") for name in ("low_var_kl", "k3")),
    Registered("verl", _KL, "abs", "objective.kl_estimator = abs"),
    Registered("verl", _KL, "full", "objective.kl_estimator = full", "verl raises NotImplementedError"),
    *(Registered("verl", _KL, f"{name}+", "objective.kl_estimator = k1+") for name in ("kl", "k1")),
    *(
        Registered("verl", _KL, f"{name}+", "objective.kl_estimator = k3+", "cut at 10")
        for name in ("low_var_kl", "k3")
    ),
    *(Registered("verl", _DISTIL, name, "opd", "with use_policy_gradient") for name in ("kl", "k1")),
    Registered("verl", _DISTIL, "abs", "opd-abs"),
    *(Registered("verl", _DISTIL, name, "opd-k2") for name in ("mse", "k2")),
    *(Registered("verl", _DISTIL, name, "opd-k3", "clamp = 10") for name in ("low_var_kl", "k3")),
    Registered("verl", _DISTIL, "forward_kl_topk", "distill-topk", _TOPK),
    Registered("verl", "algorithm.rollout_correction.rollout_is", "token", "objective.rollout_is = token-…"),
    Registered("verl", "algorithm.rollout_correction.rollout_is", "sequence", "objective.rollout_is = sequence-…"),
    Registered(
        "verl",
        "algorithm.rollout_correction",
        "rollout_is_batch_normalize",
        "",
        "divides the factors by their mean over the whole rollout batch, which a minibatch does not know; a constant "
        "factor of the learning rate",
    ),
)
