"""Policy gradients whose advantage has another baseline than the group's mean, or another scale."""

from __future__ import annotations

from ..definition import Entry
from ..parameters import FORM, Parameter
from .shared import CLIPPED, OLD, clips

__all__ = ["ENTRIES", "TITLE"]

TITLE = "Other baselines and scales of a group"

_PASS_K = "Chen et al., arXiv 2508.10751"
_K = Parameter("k", "number of responses of which the best counts (Pass@k)", low=1, whole=True)
_DIVIDE_BY = Parameter(
    "divide_by",
    "what the advantage is divided by: the standard deviation of the group's rewards, or nothing",
    choices=("group_std", "none"),
)

ENTRIES = (
    Entry(
        name="maxrl",
        title="MaxRL",
        weight="A, A = (r − q)/q",
        source="Tajwar et al., arXiv 2602.02710; prime-rl's max_rl",
        parameters=(FORM.with_(default="log"), *clips()),
        value="maxrl",
        compares=("group",),
        graded=True,
        form="log",
        aliases=("max_rl",),
        verl="only its authors' fork of verl: adv_estimator = maxrl",
        note="0 where q = 0. On binary rewards A₊ = (1 − q)/q and A₋ = −1: W-REINFORCE with a λ of (1 − q)/q for each "
        "prompt, whose failures weigh 1 where Dr. GRPO's weigh q. Its released code adds 1e-6 to the divisor and "
        "trains with PPO's loss (form = ratio, clip_low = clip_high = 0.2)",
    ),
    Entry(
        name="qae",
        title="QAE",
        weight=f"A·ρ{CLIPPED}, A = (r − Q_K)/std",
        source="Wu et al., arXiv 2509.22611 Eqs. 3, 4",
        parameters=(
            Parameter("quantile", "K of the group's K-quantile Q_K", above=0, below=1, default=0.4),
            Parameter(
                "interpolation",
                "which K-quantile: the least reward that a share K of the group does not exceed (step: the paper), or "
                "one interpolated between two rewards (linear: the released code)",
                choices=("step", "linear"),
                default="step",
            ),
            _DIVIDE_BY.with_(default="group_std"),
            *clips(0.2, 0.28),
        ),
        value="quantile",
        compares=("group",),
        graded=True,
        needs=OLD,
        form="ratio",
        verl="only its authors' fork of verl: algorithm.quantile_k",
        note="on binary rewards A₊ = 1/std and A₋ = 0 where q ≤ 1 − K, A₊ = 0 and A₋ = −1/std above, with std = "
        "√(q(1 − q)·G/(G − 1)); without the division 1 and 0, then 0 and −1. Its clips, and a token mean over the "
        "batch, are those of DAPO",
    ),
    Entry(
        name="opo",
        title="OPO",
        weight="A, A = r − Σ l·r/Σ l, l the lengths",
        source="Hao et al., arXiv 2505.23585; verl's opo",
        parameters=(FORM.with_(default="log"), *clips()),
        value="length_mean",
        reads=("lengths",),
        compares=("group",),
        graded=True,
        form="log",
        verl="adv_estimator = opo",
        note="on binary rewards A₊ = 1 − b and A₋ = −b, b the fraction of the group's tokens that correct responses "
        "have: an implied λ of (1 − b)/b, and Dr. GRPO where lengths are equal. Defined for one update per batch",
    ),
    Entry(
        name="remax",
        title="ReMax",
        weight="A, A = r − r of the prompt's greedy response",
        source="Li et al., arXiv 2310.10505; verl's remax",
        parameters=(FORM.with_(default="log"), *clips()),
        value="greedy",
        reads=("greedy_rewards",),
        graded=True,
        form="log",
        verl="adv_estimator = remax",
        note="on binary rewards A₊ = 0 and A₋ = −1 where the greedy response is correct, else A₊ = 1 and A₋ = 0. The "
        "loop decodes each prompt greedily once more in every step",
    ),
    Entry(
        name="optimal-token-baseline",
        title="optimal token baseline",
        weight=f"A·ρ{CLIPPED}, A = r − Σ W_t·r/Σ W_t at token t, W_t = Σ_{{s ≤ t}} ‖e_y − π‖²",
        source="Li et al., The Optimal Token Baseline (ICML 2026); verl's optimal_token_baseline",
        parameters=(FORM.with_(default="ratio"), *clips()),
        value="token_baseline",
        reads=("old_log_probs", "collision", "mask"),
        compares=("group",),
        graded=True,
        needs=OLD,
        form="ratio",
        aliases=("optimal_token_baseline", "tir_optimal_token_baseline"),
        verl="adv_estimator = optimal_token_baseline, tir_optimal_token_baseline",
        note="an advantage for each token; sums run over the responses of the group that have a token t, π is the "
        "policy that sampled, and a response alone at its position has no baseline. On binary rewards A₊ = 1 − b_t and "
        "A₋ = −b_t, b_t the share of W_t in correct responses: an implied λ of (1 − b_t)/b_t at each position",
    ),
    Entry(
        name="gpg",
        title="GPG",
        weight="A, A = α(r − q)",
        source="Chu et al., arXiv 2504.02546; verl's gpg",
        parameters=(
            Parameter(
                "rescaling",
                "α: the responses of a batch over those with an advantage other than 0 (informative: the paper), or "
                "over those with a reward other than 0 (successes: verl)",
                choices=("informative", "successes"),
                default="informative",
            ),
        ),
        value="rescaled",
        compares=("group", "batch"),
        graded=True,
        form="log",
        verl="adv_estimator = gpg, policy_loss.loss_mode = gpg; rescaling = successes is its α",
        note="on binary rewards A₊ = α(1 − q) and A₋ = −αq: Dr. GRPO times a number of the batch",
    ),
    Entry(
        name="pass-at-k",
        title="Pass@k",
        weight=f"A·ρ{CLIPPED}, A of Pass@k over all subsets of k",
        source=f"{_PASS_K}, analytical derivation and its code",
        parameters=(_K.with_(required=True), FORM.with_(default="ratio"), *clips()),
        value="pass_at_k",
        compares=("group",),
        needs=OLD,
        form="ratio",
        note="with c of G correct, R = 1 − C(G − c, k)/C(G, k) and σ = √(R(1 − R)) + 1e-6: A₊ = (1 − R)/σ, A₋ = "
        "(1 − R − C(G − c − 1, k − 1)/C(G − 1, k − 1))/σ = −A₊·q/(1 − q): the implied λ of GRPO, which k = 1 is with "
        "the biased std. Bootstrap sampling, which draws subsets, is not offered: this is its mean over all of them",
    ),
    Entry(
        name="pass-at-k-full",
        title="Pass@k, full sampling",
        weight=f"A·ρ{CLIPPED}, A = (R − mean R)/std R, R the best reward of a set of k",
        source=f"{_PASS_K}, full sampling",
        parameters=(_K.with_(required=True), FORM.with_(default="ratio"), *clips()),
        value="pass_at_k_full",
        compares=("group",),
        graded=True,
        needs=OLD,
        form="ratio",
        note="the group is split into G/k sets in order, each response has the advantage of its set. On binary rewards "
        "and with a share s of sets that hold a correct response A = √((1 − s)/s) in those and −√(s/(1 − s)) in the "
        "others, times √((S − 1)/S) for S = G/k sets",
    ),
    Entry(
        name="pass-at-k-best",
        title="Pass@k, best response",
        weight=f"A·ρ{CLIPPED}, A = (r_max − r_second)/std for the best response, else 0",
        source="Tang et al., arXiv 2503.19595, as in verl's grpo_passk",
        parameters=(_DIVIDE_BY.with_(default="group_std"), FORM.with_(default="ratio"), *clips()),
        value="best_of_group",
        compares=("group",),
        graded=True,
        needs=OLD,
        form="ratio",
        aliases=("grpo_passk",),
        verl="adv_estimator = grpo_passk; divide_by = none is norm_adv_by_std_in_grpo = False",
        note="k is the size of the group. On binary rewards A₊ = 1/std = √G where one response alone is correct, and 0 "
        "everywhere else (1 without the division)",
    ),
)
