"""What TRL and verl call what a recipe sets beside the objective: normalisers, advantages, clips, KL and entropy.

Each row holds for the versions of the two libraries that `constraints.txt` pins; a test checks every cell with their
own functions. What they call an objective stands in its entry (`Entry.trl`, `Entry.verl`). No torch here.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["CORRESPONDENCE", "Row"]


class Row(NamedTuple):
    """One thing that all three can do, and its name in each; "none" where a library cannot."""

    what: str
    ours: str
    trl: str
    verl: str


CORRESPONDENCE = (
    Row(
        "mean over the minibatch's tokens",
        "update.normalizer = batch_tokens",
        "loss_type = bnpo; dapo, cispo and vespo over all devices and accumulated batches",
        "loss_agg_mode = token-mean",
    ),
    Row("mean over the tokens of rows with a weight", "update.normalizer = selected_tokens", "none", "none"),
    Row(
        "mean over responses of their token means",
        "update.normalizer = per_sequence",
        "loss_type = grpo or sapo",
        "loss_agg_mode = seq-mean-token-mean (responses without tokens are not counted)",
    ),
    Row(
        "mean over responses of their token sums",
        "update.normalizer = constant, update.constant = B",
        "loss_type = luspo",
        "loss_agg_mode = seq-mean-token-sum (responses without tokens are not counted)",
    ),
    Row(
        "sum over a constant",
        "update.normalizer = constant, update.constant",
        "loss_type = dr_grpo (B × max_completion_length)",
        "loss_agg_mode = seq-mean-token-sum-norm (B × loss_scale_factor, the width where unset)",
    ),
    Row(
        "sum over the minibatch's tokens",
        "update.normalizer = constant, update.constant = 1",
        "none",
        "loss_agg_mode = token-sum",
    ),
    Row("rewards as they are", "objective.advantage = none", "none", "none"),
    Row(
        "less the group's mean",
        "objective.advantage = group_mean",
        "scale_rewards = none",
        "adv_estimator = grpo, norm_adv_by_std_in_grpo = False",
    ),
    Row(
        "less the group's mean, over its std",
        "objective.advantage = group_mean_std",
        "scale_rewards = group (1e-4 added to the std, 1e-6 here)",
        "adv_estimator = grpo",
    ),
    Row(
        "less the group's mean, over the batch's std",
        "objective.advantage = group_mean_batch_std",
        "scale_rewards = batch (1e-4 added to the std, 1e-6 here)",
        "none",
    ),
    Row("less the batch's mean, over its std", "objective.advantage = batch_mean_std", "none", "none"),
    Row(
        "less the mean of the others",
        "objective.advantage = leave_one_out",
        "RLOOTrainer",
        "adv_estimator = rloo or rloo_vectorized",
    ),
    Row("less a constant", "objective.advantage = constant, objective.baseline", "none", "none"),
    Row(
        "advantages whitened, each response counting once",
        "objective.whiten = responses",
        "RLOOTrainer, normalize_advantages = True; GRPOTrainer, multi_objective_aggregation = normalize_then_sum",
        "none",
    ),
    Row(
        "advantages whitened, each response counting as often as it has tokens",
        "objective.whiten = tokens",
        "none",
        "adv_estimator = reinforce_plus_plus, reinforce_plus_plus_baseline or gdpo",
    ),
    Row("PPO's clip", "objective.clip_low, clip_high", "epsilon, epsilon_high", "clip_ratio_low, clip_ratio_high"),
    Row(
        "dual clip",
        "objective.dual_clip (unset: none)",
        "delta (unset: none), which bounds ρ for A > 0 too: the same where delta ≥ 1 + epsilon_high",
        "clip_ratio_c, 3 unless set",
    ),
    Row(
        "KL in the loss",
        "objective.kl_coef, kl_estimator k1, k2, k3, abs, k1+, k3+, full",
        "GRPOTrainer, beta: k3 with use_bias_correction_kl = False; by default k3 × ρ, the objective kl-k3-corrected",
        "use_kl_loss, kl_loss_coef, kl_loss_type kl or k1, mse or k2, low_var_kl or k3 (no gradient where k3 > 10), "
        "abs, k1+, k3+; full is not implemented",
    ),
    Row(
        "KL in the reward, before a baseline is subtracted",
        "objective.kl_placement = before_baseline, kl_estimator = k1",
        "RLOOTrainer, beta: k1 summed over the response",
        "use_kl_in_reward, kl_ctrl.kl_coef: of each token, whose sum the estimators of groups take",
    ),
    Row(
        "KL in the advantage, after the baseline",
        "objective.kl_placement = reward: summed over the response; token by token with a critic",
        "none",
        "with adv_estimator = gae, token by token; else none",
    ),
    Row(
        "entropy bonus",
        "objective.entropy_coef, with the update's normaliser",
        "entropy_coef: the mean over the minibatch's tokens, whatever loss_type is",
        "entropy_coeff, with loss_agg_mode",
    ),
)
