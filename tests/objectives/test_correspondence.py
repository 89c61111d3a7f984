"""Every cell of the tables of names in TRL and verl, with the functions of the installed versions.

A cell "none" is checked too: nothing among the library's settings gives what ours gives.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.optimize import brentq

from analysis.objectives import TokenBatch, get
from analysis.objectives.aggregation import aggregate
from analysis.objectives.correspondence import CORRESPONDENCE
from tests.objectives.peers import trl_peer, verl_peer

pytestmark = pytest.mark.slow  # importing the two libraries takes seconds

ROWS, WIDTH, GROUP = 8, 6, 4
LENGTHS = torch.tensor([3, 6, 1, 4, 5, 2, 6, 2])
MASK = torch.arange(WIDTH) < LENGTHS[:, None]
G = torch.Generator().manual_seed(0)
OLD = -2 * torch.rand(ROWS, WIDTH, generator=G, dtype=torch.float64) - 0.2
LOG_PROBS = OLD + 0.6 * torch.randn(ROWS, WIDTH, generator=G, dtype=torch.float64)  # ratios from 0.2 to 4
REF = LOG_PROBS + 0.8 * torch.randn(ROWS, WIDTH, generator=G, dtype=torch.float64)
REWARDS = torch.tensor([1, 0, 0, 1, 1, 1, 0, 1], dtype=torch.float64)
ADVANTAGES = torch.tensor([1.0, -1.0, 0.5, -0.5, 2.0, 0.0, -2.0, 1.5], dtype=torch.float64)
CLIPPED = {"clip_low": 0.2, "clip_high": 0.2}
VERL_LENGTHS = 1e-7  # verl adds 1e-8 to each length, which a loss of several units per token multiplies
TRL_STD = 1e-7  # TRL divides counts of responses in float32
TRL_LOSS_TYPES = ("grpo", "bnpo", "dr_grpo", "dapo", "luspo", "sapo", "cispo", "vespo")
VERL_MODES = ("token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-sum-norm", "seq-mean-token-mean")
VERL_ESTIMATORS = (
    "grpo",
    "grpo_vectorized",
    "rloo",
    "rloo_vectorized",
    "opo",
    "gpg",
    "reinforce_plus_plus",
    "reinforce_plus_plus_baseline",
)


def losses() -> torch.Tensor:
    """PPO's loss of each token, clipped at 0.2 on both sides as both libraries do by default."""
    objective = get("grpo", **CLIPPED)
    return objective.loss(LOG_PROBS, TokenBatch(LOG_PROBS, OLD, ADVANTAGES))


def ours(how: str, constant: float | None = None) -> torch.Tensor:
    return aggregate(losses(), MASK, how, selected=ADVANTAGES != 0, constant=constant)


def trl_loss(loss_type: str, **fields: object) -> torch.Tensor:
    return trl_peer.grpo_loss(LOG_PROBS, OLD, ADVANTAGES, MASK, loss_type=loss_type, **fields)


def verl_aggregate(mode: str, **fields: object) -> torch.Tensor:
    return verl_peer.core().agg_loss(losses(), MASK.double(), mode, **fields)


def our_advantages(**parameters: object) -> torch.Tensor:
    lengths = {"lengths": LENGTHS} if parameters.get("whiten") == "tokens" else {}
    name = "rloo" if "whiten" in parameters else "reinforce-log"
    rewards = REWARDS if name == "rloo" else REWARDS / 2 + 0.5  # REINFORCE counts 2r − 1: that is r again
    return get(name, **parameters).advantages(rewards, GROUP, **lengths)


def verl_advantages(estimator: str, **arguments: object) -> torch.Tensor:
    if estimator == "reinforce_plus_plus":
        arguments["config"] = {"gamma": 1.0}
    return verl_peer.advantages(estimator, REWARDS, MASK, GROUP, **arguments)[:, 0]


def equal(*values: torch.Tensor, rtol: float = 1e-12, atol: float = 1e-14) -> None:
    for other in values[1:]:
        torch.testing.assert_close(other, values[0], rtol=rtol, atol=atol)


def differ(value: torch.Tensor, *others: torch.Tensor) -> None:
    assert all((other - value).abs().max() > 1e-3 for other in others)


def stated(what: str, library: str, words: str) -> None:
    """The cell says what the functions were seen to do."""
    (row,) = (row for row in CORRESPONDENCE if row.what == what)
    assert words in getattr(row, library)


# -- normalisers -------------------------------------------------------------------------------------------------------


def mean_over_tokens() -> None:
    equal(ours("batch_tokens"), trl_loss("bnpo"), trl_loss("dapo"), verl_aggregate("token-mean"))
    for loss_type in ("cispo", "vespo"):  # others than PPO's loss of a token, so the weights are compared
        twice = trl_peer.grpo_loss(
            LOG_PROBS.repeat(2, 1), OLD.repeat(2, 1), ADVANTAGES.repeat(2), MASK.repeat(2, 1), loss_type=loss_type
        )
        equal(trl_loss(loss_type), twice)


def mean_over_tokens_of_rows_with_a_weight() -> None:
    value = ours("selected_tokens")
    differ(value, *(trl_loss(loss_type) for loss_type in TRL_LOSS_TYPES))
    differ(value, *(verl_aggregate(mode) for mode in VERL_MODES))


def mean_of_token_means() -> None:
    equal(ours("per_sequence"), trl_loss("grpo"))
    equal(ours("per_sequence"), verl_aggregate("seq-mean-token-mean"), atol=VERL_LENGTHS)
    objective = get("sapo", tau_neg=1.25)  # a number that float32 holds, to which TRL rounds it
    sapo = objective.loss(LOG_PROBS, TokenBatch(LOG_PROBS, OLD, ADVANTAGES))
    equal(aggregate(sapo, MASK, "per_sequence"), trl_loss("sapo", sapo_temperature_neg=1.25))
    empty = MASK.clone()
    empty[0] = False
    value = aggregate(losses(), empty, "per_sequence")
    equal(value, trl_peer.grpo_loss(LOG_PROBS, OLD, ADVANTAGES, empty, loss_type="grpo"))
    counted = verl_peer.core().agg_loss(losses(), empty.double(), "seq-mean-token-mean")
    equal(value * ROWS / (ROWS - 1), counted, atol=VERL_LENGTHS)


def mean_of_token_sums() -> None:
    value = ours("constant", constant=ROWS)
    equal(value, trl_loss("luspo"), verl_aggregate("seq-mean-token-sum"))
    empty = MASK.clone()
    empty[0] = False
    value = aggregate(losses(), empty, "constant", constant=ROWS - 1)
    equal(value, verl_peer.core().agg_loss(losses(), empty.double(), "seq-mean-token-sum"))


def sum_over_a_constant() -> None:
    equal(ours("constant", constant=ROWS * 9), trl_loss("dr_grpo", max_completion_length=9))
    equal(ours("constant", constant=ROWS * 9), verl_aggregate("seq-mean-token-sum-norm", loss_scale_factor=9))
    equal(ours("constant", constant=ROWS * WIDTH), verl_aggregate("seq-mean-token-sum-norm"))


def sum_over_tokens() -> None:
    value = ours("constant", constant=1)
    equal(value, verl_aggregate("token-sum"))
    differ(value, *(trl_loss(loss_type) for loss_type in TRL_LOSS_TYPES))


# -- advantages --------------------------------------------------------------------------------------------------------


def no_library_has(value: torch.Tensor, *, trl: bool = True, verl: bool = True) -> None:
    if trl:
        for scale in ("none", "group", "batch"):
            differ(value, trl_peer.grpo_advantages(REWARDS, GROUP, scale_rewards=scale))
        differ(value, trl_peer.grpo_advantages(REWARDS, GROUP, multi_objective_aggregation="normalize_then_sum"))
        differ(value, trl_peer.rloo_advantages(REWARDS, GROUP))
        differ(value, trl_peer.rloo_advantages(REWARDS, GROUP, normalize_advantages=True))
    if verl:
        differ(value, *(verl_advantages(estimator) for estimator in VERL_ESTIMATORS))
        differ(value, verl_advantages("grpo", norm_adv_by_std_in_grpo=False))


def rewards_as_they_are() -> None:
    equal(our_advantages(advantage="none"), REWARDS)
    no_library_has(REWARDS)


def less_the_mean() -> None:
    value = our_advantages(advantage="group_mean")
    equal(value, trl_peer.grpo_advantages(REWARDS, GROUP, scale_rewards="none"))
    for estimator in ("grpo", "grpo_vectorized"):
        equal(value, verl_advantages(estimator, norm_adv_by_std_in_grpo=False))


def less_the_mean_over_the_std() -> None:
    value = our_advantages(advantage="group_mean_std")
    equal(value, verl_advantages("grpo"), verl_advantages("grpo_vectorized"), rtol=1e-7)
    std = REWARDS.view(-1, GROUP).std(-1).repeat_interleave(GROUP)
    scaled = value * (std + 1e-6) / (std + 1e-4)
    stated("less the group's mean, over its std", "trl", "(1e-4 added to the std, 1e-6 here)")
    equal(scaled, trl_peer.grpo_advantages(REWARDS, GROUP, scale_rewards="group"), rtol=TRL_STD)


def less_the_mean_over_the_batch_std() -> None:
    value = our_advantages(advantage="group_mean_batch_std")
    scaled = value * (REWARDS.std() + 1e-6) / (REWARDS.std() + 1e-4)
    stated("less the group's mean, over the batch's std", "trl", "(1e-4 added to the std, 1e-6 here)")
    equal(scaled, trl_peer.grpo_advantages(REWARDS, GROUP, scale_rewards="batch"), rtol=TRL_STD)
    no_library_has(value, trl=False)


def less_the_batch_mean_over_its_std() -> None:
    no_library_has(our_advantages(advantage="batch_mean_std"))


def less_the_mean_of_the_others() -> None:
    value = our_advantages(advantage="leave_one_out")
    equal(value, trl_peer.rloo_advantages(REWARDS, GROUP), verl_advantages("rloo"), verl_advantages("rloo_vectorized"))


def less_a_constant() -> None:
    no_library_has(our_advantages(advantage="constant", baseline=0.3))


def whitened_over_responses() -> None:
    value = our_advantages(advantage="leave_one_out", whiten="responses")
    equal(value, trl_peer.rloo_advantages(REWARDS, GROUP, normalize_advantages=True), rtol=TRL_STD)
    no_library_has(value, trl=False)
    gdpo = get("gdpo", whiten="responses").advantages(REWARDS, GROUP, reward_components=REWARDS[:, None])
    # TRL adds 1e-4 to the groups' standard deviations, GDPO here 1e-6
    equal(gdpo, trl_peer.grpo_advantages(REWARDS, GROUP, multi_objective_aggregation="normalize_then_sum"), rtol=2e-4)


def whitened_over_tokens() -> None:
    for name in ("reinforce_plus_plus", "reinforce_plus_plus_baseline"):
        value = get(name.replace("_", "-")).advantages(REWARDS, GROUP, lengths=LENGTHS)
        equal(value, verl_advantages(name), rtol=1e-7)
        no_library_has(value, verl=False)
    gdpo = get("gdpo", whiten="tokens")
    value = gdpo.advantages(REWARDS, GROUP, reward_components=REWARDS[:, None], lengths=LENGTHS)
    equal(value, verl_advantages("gdpo"), rtol=1e-7)
    no_library_has(our_advantages(advantage="leave_one_out", whiten="tokens"), verl=False)


# -- clips, KL, entropy ------------------------------------------------------------------------------------------------


def our_weights(name: str, **parameters: object) -> torch.Tensor:
    batch = TokenBatch(LOG_PROBS, OLD, ADVANTAGES, MASK, ref_log_probs=REF)
    return get(name, **parameters).weights(batch).weight.masked_fill(~MASK, 0)


def verl_weights(name: str, **fields: object) -> torch.Tensor:
    return verl_peer.weights(name, LOG_PROBS, OLD, ADVANTAGES, MASK, **fields)


def trl_weights(**fields: object) -> torch.Tensor:
    return trl_peer.grpo_weights(LOG_PROBS, OLD, ADVANTAGES, MASK, **{"loss_type": "bnpo", **fields})


def clip() -> None:
    value = our_weights("grpo", clip_low=0.1, clip_high=0.3)
    equal(value, trl_weights(epsilon=0.1, epsilon_high=0.3))
    equal(value, verl_weights("vanilla", clip_ratio_low=0.1, clip_ratio_high=0.3, clip_ratio_c=float("inf")))
    equal(our_weights("grpo", clip_low=0.1, clip_high=0.1), trl_weights(epsilon=0.1))


def dual_clip() -> None:
    plain = our_weights("grpo", **CLIPPED)
    dual = our_weights("grpo", dual_clip=1.5, **CLIPPED)
    differ(plain, dual)
    equal(plain, trl_weights())  # unset by default
    equal(dual, trl_weights(delta=1.5), verl_weights("vanilla", clip_ratio_c=1.5))
    assert verl_peer.actor_config().clip_ratio_c == 3.0
    stated("dual clip", "verl", f"clip_ratio_c, {verl_peer.actor_config().clip_ratio_c:g} unless set")
    stated("dual clip", "trl", "delta (unset: none)")
    assert get("grpo").parameters.get("dual_clip") is None
    stated("dual clip", "ours", "objective.dual_clip (unset: none)")
    large = LOG_PROBS.clone()
    large[1, 0] = OLD[1, 0] + 1.2  # ρ = 3.3 with A < 0
    values = [
        get("grpo", dual_clip=bound, **CLIPPED).weights(TokenBatch(large, OLD, ADVANTAGES, MASK)).weight * MASK
        for bound in (3.0, None)
    ]
    equal(values[0], verl_peer.weights("vanilla", large, OLD, ADVANTAGES, MASK))
    assert (values[0][1, 0], values[1][1, 0] < 0) == (0, True)
    # below 1 + epsilon_high TRL's bound takes the weight of A > 0 away too
    near = OLD.clone()
    near[0, 0] += 0.15  # ρ = 1.16 with A = 1
    kept = get("grpo", dual_clip=1.1, **CLIPPED).weights(TokenBatch(near, OLD, ADVANTAGES, MASK)).weight[0, 0]
    bounded = trl_peer.grpo_weights(near, OLD, ADVANTAGES, MASK, loss_type="bnpo", delta=1.1)[0, 0]
    assert (float(bounded), float(kept) > 1) == (0.0, True)


def kl_gradient(penalty: str) -> torch.Tensor:
    leaf = LOG_PROBS.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(verl_peer.core().kl_penalty(leaf, REF, penalty).sum(), leaf)
    return -gradient.masked_fill(~MASK, 0)


def kl_in_the_loss() -> None:
    names = {"kl-k1": ("kl", "k1"), "kl-k2": ("mse", "k2"), "kl-k3": ("low_var_kl", "k3"), "kl-abs": ("abs",)}
    for name, others in (names | {"kl-k1+": ("kl+", "k1+"), "kl-k3+": ("low_var_kl+", "k3+")}).items():
        equal(our_weights(name), *(kl_gradient(other) for other in others))
    with pytest.raises(NotImplementedError):
        kl_gradient("full")
    far = torch.tensor([[2.0, 3.0, -3.0]], dtype=torch.float64).requires_grad_()  # log(ref/π) = −2, −3 and 3: k3 = 16
    (gradient,) = torch.autograd.grad(verl_peer.core().kl_penalty(far, torch.zeros(1, 3), "k3").sum(), far)
    batch = TokenBatch(far.detach(), ref_log_probs=torch.zeros_like(far).detach())
    equal(-gradient, get("kl-k3", clamp=10.0).weights(batch).weight)
    assert gradient[0, 2] == 0
    for k3, flows in ((9.9, True), (10.1, False)):
        gap = torch.tensor([[brentq(lambda x, k3=k3: np.expm1(x) - x - k3, 0, 9)]], dtype=torch.float64)
        leaf = (-gap).requires_grad_()
        (at,) = torch.autograd.grad(verl_peer.core().kl_penalty(leaf, torch.zeros(1, 1), "k3").sum(), leaf)
        assert bool(at != 0) is flows
    stated("KL in the loss", "verl", "(no gradient where k3 > 10)")
    stated("KL in the loss", "verl", "full is not implemented")
    stated("KL in the loss", "trl", "use_bias_correction_kl = False; by default k3 × ρ, the objective kl-k3-corrected")
    policy, ours_k3 = trl_weights(), our_weights("kl-k3", beta=0.05)
    equal(policy + ours_k3, trl_weights(beta=0.05, ref_log_probs=REF, use_bias_correction_kl=False))
    corrected = our_weights("kl-k3-corrected", beta=0.05)
    equal(policy + corrected, trl_weights(beta=0.05, ref_log_probs=REF))


def kl_before_the_baseline() -> None:
    k1 = ((OLD - REF) * MASK).sum(-1)
    value = get("rloo").advantages(REWARDS - 0.05 * k1, GROUP)
    reference = torch.where(MASK, REF, OLD)  # the responses that TRL is given have one length: no KL in the padding
    equal(value, trl_peer.rloo_advantages(REWARDS, GROUP, beta=0.05, old_log_probs=OLD, ref_log_probs=reference))
    scores = torch.zeros_like(OLD)
    scores[torch.arange(ROWS), LENGTHS - 1] = REWARDS
    shaped = verl_peer.core().compute_rewards(scores, OLD, REF, 0.05)
    equal(scores - 0.05 * (OLD - REF), shaped)
    index = np.arange(ROWS) // GROUP
    for estimator in ("rloo", "grpo"):
        function = verl_peer.core().get_adv_estimator_fn(estimator)
        theirs, _ = function(token_level_rewards=shaped * MASK, response_mask=MASK.double(), index=index)
        equal(get(estimator).advantages(REWARDS - 0.05 * k1, GROUP), theirs[:, 0], rtol=1e-6)


def kl_after_the_baseline() -> None:
    k1 = ((OLD - REF) * MASK).sum(-1)
    value = get("rloo").advantages(REWARDS, GROUP) - 0.05 * k1
    reference = torch.where(MASK, REF, OLD)
    differ(value, trl_peer.rloo_advantages(REWARDS, GROUP, beta=0.05, old_log_probs=OLD, ref_log_probs=reference))
    differ(value, get("rloo").advantages(REWARDS - 0.05 * k1, GROUP))  # verl's, by the row above
    assert verl_peer.core().get_adv_estimator_fn("gae").__name__ == "compute_gae_advantage_return"


def entropy_bonus() -> None:
    entropies = torch.rand(ROWS, WIDTH, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    mean = (entropies * MASK).sum() / MASK.sum()
    for loss_type in ("grpo", "bnpo", "dr_grpo", "luspo"):
        with_bonus = trl_loss(loss_type, entropies=entropies, entropy_coef=0.1)
        equal(trl_loss(loss_type) - 0.1 * mean, with_bonus)
    config = verl_peer.actor_config(entropy_coeff=0.1, loss_agg_mode="seq-mean-token-mean")
    assert (config.entropy_coeff, config.loss_agg_mode) == (0.1, "seq-mean-token-mean")


CHECKS: dict[str, Callable[[], None]] = {
    "mean over the minibatch's tokens": mean_over_tokens,
    "mean over the tokens of rows with a weight": mean_over_tokens_of_rows_with_a_weight,
    "mean over responses of their token means": mean_of_token_means,
    "mean over responses of their token sums": mean_of_token_sums,
    "sum over a constant": sum_over_a_constant,
    "sum over the minibatch's tokens": sum_over_tokens,
    "rewards as they are": rewards_as_they_are,
    "less the group's mean": less_the_mean,
    "less the group's mean, over its std": less_the_mean_over_the_std,
    "less the group's mean, over the batch's std": less_the_mean_over_the_batch_std,
    "less the batch's mean, over its std": less_the_batch_mean_over_its_std,
    "less the mean of the others": less_the_mean_of_the_others,
    "less a constant": less_a_constant,
    "advantages whitened, each response counting once": whitened_over_responses,
    "advantages whitened, each response counting as often as it has tokens": whitened_over_tokens,
    "PPO's clip": clip,
    "dual clip": dual_clip,
    "KL in the loss": kl_in_the_loss,
    "KL in the reward, before a baseline is subtracted": kl_before_the_baseline,
    "KL in the advantage, after the baseline": kl_after_the_baseline,
    "entropy bonus": entropy_bonus,
}


def test_every_row_is_checked() -> None:
    assert [row.what for row in CORRESPONDENCE] == list(CHECKS)


@pytest.mark.parametrize("what", CHECKS)
def test_row(what: str) -> None:
    CHECKS[what]()
