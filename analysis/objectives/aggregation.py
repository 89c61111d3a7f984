"""How token losses become one loss, and what TRL and verl call that and the normalisations of rewards.

With ℓ_it the loss of token t of response i, |y_i| its length and B the responses of a minibatch:

    batch_tokens     Σ ℓ_it / Σ_i |y_i|                  selected_tokens  Σ ℓ_it / Σ_{i: A_i ≠ 0} |y_i|
    per_sequence     (1/B) Σ_i (1/|y_i|) Σ_t ℓ_it         constant         Σ ℓ_it / C

The names of the two libraries are accepted wherever ours are; no torch is loaded before a loss is aggregated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from toy_models.messages import nearest

from ..errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ADVANTAGE_ALIASES", "CORRESPONDENCE", "NORMALIZERS", "NORMALIZER_ALIASES", "aggregate", "row_scale"]

NORMALIZERS = ("batch_tokens", "selected_tokens", "per_sequence", "constant")
NORMALIZER_ALIASES = {
    "token-mean": "batch_tokens",
    "bnpo": "batch_tokens",
    "seq-mean-token-mean": "per_sequence",
    "seq-mean-token-sum": "constant",
    "seq-mean-token-sum-norm": "constant",
}
ADVANTAGE_ALIASES = {"rloo": "leave_one_out", "grpo": "group_mean_std", "dr_grpo": "group_mean"}

# what, ours, TRL, verl
CORRESPONDENCE = (
    (
        "mean over the minibatch's tokens",
        "update.normalizer = batch_tokens",
        "loss_type = bnpo (dapo: over all devices)",
        "loss_agg_mode = token-mean",
    ),
    ("mean over the tokens of rows with a weight", "update.normalizer = selected_tokens", "none", "none"),
    (
        "mean over responses of their token means",
        "update.normalizer = per_sequence",
        "loss_type = grpo",
        "loss_agg_mode = seq-mean-token-mean",
    ),
    (
        "mean over responses of their token sums",
        "update.normalizer = constant, update.constant = B",
        "none",
        "loss_agg_mode = seq-mean-token-sum",
    ),
    (
        "sum over a constant",
        "update.normalizer = constant, update.constant",
        "loss_type = dr_grpo (B × max_completion_length)",
        "loss_agg_mode = seq-mean-token-sum-norm (B × loss_scale_factor, the width where unset; once the width alone)",
    ),
    ("rewards as they are", "objective.advantage = none", "none", "adv_estimator = reinforce_plus_plus unwhitened"),
    (
        "less the group's mean",
        "objective.advantage = group_mean",
        "scale_rewards = none",
        "adv_estimator = grpo, norm_adv_by_std_in_grpo = False",
    ),
    (
        "less the group's mean, over its std",
        "objective.advantage = group_mean_std",
        "scale_rewards = group",
        "adv_estimator = grpo",
    ),
    (
        "less the batch's mean, over its std",
        "objective.advantage = batch_mean_std",
        "scale_rewards = batch (the mean stays the group's)",
        "none",
    ),
    ("less the mean of the others", "objective.advantage = leave_one_out", "RLOOTrainer", "adv_estimator = rloo"),
    ("less a constant", "objective.advantage = constant, objective.baseline", "none", "none"),
    ("PPO's clip", "objective.clip_low, clip_high", "epsilon, epsilon_high", "clip_ratio_low, clip_ratio_high"),
    ("dual clip", "objective.dual_clip", "delta", "clip_ratio_c"),
    (
        "KL in the loss",
        "objective.kl_coef, kl_estimator k1, k2, k3",
        "beta (k3)",
        "use_kl_loss, kl_loss_coef, kl_loss_type kl, mse, low_var_kl",
    ),
    ("KL in the reward", "objective.kl_placement = reward", "none", "use_kl_in_reward, kl_ctrl.kl_coef"),
)


def row_scale(
    how: str, lengths: Tensor, selected: Tensor, constant: float | None = None
) -> tuple[Tensor, float | None]:
    """(B,) float64 factor of each row's summed token losses, and the one divisor where there is one.

    lengths (B,) tokens of each row, selected bool (B,). Where no token carries a weight any divisor gives the same
    zero: it is 1.

    >>> import torch
    >>> row_scale("selected_tokens", torch.tensor([2, 3]), torch.tensor([True, False]))
    (tensor([0.5000, 0.5000], dtype=torch.float64), 2.0)
    """
    import torch

    how = NORMALIZER_ALIASES.get(how, how)
    if how not in NORMALIZERS:
        raise UsageError(f"normalizer: unknown value {how!r}; {nearest(how, [*NORMALIZERS, *NORMALIZER_ALIASES])}")
    if (how == "constant") != (constant is not None):
        raise UsageError(
            f"constant: expected one with the normalizer constant and with no other, got {constant} with {how}"
        )
    lengths = lengths.double()
    if how == "per_sequence":
        return 1 / (lengths * len(lengths)), None
    if constant is not None:
        divisor = constant
    else:
        counted = lengths[selected] if how == "selected_tokens" else lengths
        divisor = max(float(counted.sum()), 1.0)
    return torch.full_like(lengths, 1 / divisor), divisor


def aggregate(
    losses: Tensor, mask: Tensor, how: str, *, selected: Tensor | None = None, constant: float | None = None
) -> Tensor:
    """The loss of a minibatch from those of its tokens (B, T), a scalar; selected (B,) says which rows carry a weight.

    >>> import torch
    >>> losses, mask = torch.tensor([[1.0, 3.0], [5.0, 9.0]]), torch.tensor([[True, True], [True, False]])
    >>> [aggregate(losses, mask, how).item() for how in ("token-mean", "seq-mean-token-mean")]
    [3.0, 3.5]
    """
    import torch

    rows = torch.ones(len(mask), dtype=torch.bool, device=mask.device) if selected is None else selected
    scale, _ = row_scale(how, mask.sum(-1), rows, constant)
    return (losses.masked_fill(~mask, 0) * scale.to(losses)[:, None]).sum()
