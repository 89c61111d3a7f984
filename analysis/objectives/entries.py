"""The objectives that come with the toolkit, as data: no torch here, so that a recipe is checked at once.

A new objective is one `Entry` below and a pair of functions, `…_weight` and `…_loss`, in the module that its `formula`
names; its own parameters stand in the entry. Recipes, the command and the page of objectives follow from it.

Convention: ∂L/∂z = −w·(e_y − π) + r with z the logits; ρ = π_y/π_old,y, A the advantage, r the reward in {0, 1}, q the
mean reward of the group, ref the reference policy, sg the stop-gradient, 1[·] an indicator.
"""

from __future__ import annotations

from dataclasses import replace

from .definition import Entry
from .parameters import (
    ADVANTAGE,
    BASELINE,
    BETA,
    CLIP_HIGH,
    CLIP_LOW,
    DUAL_CLIP,
    FORM,
    FORMS,
    LAMBDA,
    NFT,
    SHARE,
    Parameter,
)

__all__ = ["ENTRIES", "FAMILIES", "PARAMETERS"]


def _clips(low: float | None = None, high: float | None = None) -> tuple[Parameter, ...]:
    return CLIP_LOW.with_(default=low), CLIP_HIGH.with_(default=high), DUAL_CLIP


def _adv(how: str = "none") -> tuple[Parameter, ...]:
    return ADVANTAGE.with_(default=how), BASELINE


_PAPER = "Zhu et al., arXiv 2506.01347"
_OLD = ("advantages", "old_log_probs")
_CLIPPED = "·1[not clipped]"
_FAMILY = {
    "psr": ("PSR", "r", "A = r: correct responses alone"),
    "nsr": ("NSR", "r-1", "A = r − 1: wrong responses alone"),
    "w-reinforce": ("W-REINFORCE", "lambda", "A = λ on correct, −1 on wrong"),
    "reinforce": ("REINFORCE", "2r-1", "A = ±1"),
}
_FORM = {
    "ratio": (f"A·ρ{_CLIPPED}", "released code (a PPO loss)", _OLD),
    "probability": (f"A·π_y{_CLIPPED}", "Eq. 6", ("advantages",)),
    "log": ("A", "the score function", ("advantages",)),
}
FAMILIES = tuple(_FAMILY)


def _families() -> list[Entry]:
    entries = []
    for family, (title, value, note) in _FAMILY.items():
        for form in FORMS:
            weight, source, needs = _FORM[form]
            if family == "w-reinforce" and form != "log":
                source = f"Eq. 9, {source}"
            own = (LAMBDA.with_(required=True),) if family == "w-reinforce" else ()
            clips = () if form == "log" else _clips()
            label = title if form == "ratio" else f"{title} {form}"
            entries.append(
                Entry(
                    name=f"{family}-{form}",
                    title=label,
                    weight=weight,
                    source=f"{_PAPER}: {source}",
                    parameters=(*own, *_adv(), *clips),
                    value=value,
                    needs=needs,
                    form=form,
                    note=note,
                )
            )
    return entries


_ON_POLICY = 'k1, k2, k3 of Schulman\'s note "Approximating KL divergence" (2020)'

ENTRIES: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        *_families(),
        Entry(
            name="sft",
            title="SFT",
            weight="1",
            source="maximum likelihood",
            value="1",
            aliases=("supervised",),
            form="log",
            note="every response counts 1, whatever its reward; on correct ones alone it is psr-log",
        ),
        Entry(
            name="ppo",
            title="PPO",
            weight=f"A·ρ{_CLIPPED}",
            source="Schulman et al., arXiv 1707.06347 Eq. 7; dual clip: Ye et al., arXiv 1912.09729",
            parameters=(*_adv(), *_clips(0.2, 0.2)),
            value="2r-1",
            needs=_OLD,
            form="ratio",
            aliases=("vanilla",),
            note="the dual clip takes the weight where A < 0 and ρ > dual_clip",
        ),
        Entry(
            name="grpo",
            title="GRPO",
            weight=f"A·ρ{_CLIPPED}, A = (r − q)/std",
            source="Shao et al., arXiv 2402.03300 Eq. 3",
            parameters=(FORM.with_(default="ratio"), *_adv("group_mean_std"), *_clips()),
            needs=_OLD,
            form="ratio",
            note="on binary rewards A = √((1 − q)/q) and −√(q/(1 − q)): an implied λ of (1 − q)/q, with the "
            "biased std; with verl's and TRL's unbiased one both are √((G − 1)/G) times that. No clip unless "
            "set: clip_low = clip_high = 0.2 is the paper's",
        ),
        Entry(
            name="dr-grpo",
            title="Dr. GRPO",
            weight=f"A·ρ{_CLIPPED}, A = r − q",
            source="Liu et al., arXiv 2503.20783",
            parameters=(FORM.with_(default="ratio"), *_adv("group_mean"), *_clips(0.2, 0.2)),
            needs=_OLD,
            form="ratio",
            aliases=("dr_grpo",),
            note="with a constant normaliser; the implied λ is that of GRPO",
        ),
        Entry(
            name="rloo",
            title="RLOO",
            weight="A, A = r − mean of the others",
            source="Ahmadian et al., arXiv 2402.14740",
            parameters=(FORM.with_(default="log"), *_adv("leave_one_out"), *_clips()),
            form="log",
            note="G/(G − 1) times r − q",
        ),
        Entry(
            name="dapo",
            title="DAPO",
            weight=f"A·ρ{_CLIPPED}, ε_high > ε_low",
            source="Yu et al., arXiv 2503.14476 Eq. 8",
            parameters=(*_adv("group_mean_std"), *_clips(0.2, 0.28)),
            needs=_OLD,
            form="ratio",
            note="token mean over the batch; its dynamic sampling of prompts is not part of the loss",
        ),
        Entry(
            name="asymre",
            title="AsymRE",
            weight="r − V",
            source="Arnal et al., arXiv 2506.20520",
            parameters=(ADVANTAGE.with_(default="constant"), BASELINE.with_(required=True)),
            form="log",
            note="off-policy without a ratio; baseline is V",
        ),
        Entry(
            name="cispo",
            title="CISPO",
            weight="A·sg(clip ρ)",
            source="MiniMax-M1, arXiv 2506.13585 Eq. 4",
            formula="gated.cispo",
            parameters=(*_adv("group_mean_std"), CLIP_LOW, CLIP_HIGH.with_(default=4.0)),
            needs=_OLD,
            note="never zero. verl clips on both sides; TRL from above only, and its epsilon_high is the bound "
            "itself, 1 + clip_high here",
        ),
        Entry(
            name="sapo",
            title="SAPO",
            weight="4·A·ρ·σ(1 − σ), σ = sigmoid(τ(ρ − 1))",
            source="Gao et al., arXiv 2511.20347",
            formula="gated.sapo",
            parameters=(
                *_adv("group_mean_std"),
                Parameter("tau_pos", "τ of the sigmoid gate where A > 0", above=0, default=1.0),
                Parameter("tau_neg", "τ of the sigmoid gate where A ≤ 0", above=0, default=1.05),
            ),
            needs=_OLD,
            note="τ differs by the sign of A",
        ),
        Entry(
            name="high-entropy",
            title="high-entropy tokens",
            weight=f"A·ρ{_CLIPPED}·1[H_t among the top share]",
            source="Wang et al., arXiv 2506.01939",
            formula="clipped.selected",
            parameters=(*_adv("group_mean_std"), *_clips(0.2, 0.28), SHARE.with_(default=0.2)),
            needs=(*_OLD, "selection"),
            coupling="minibatch",
            selects="top_entropy",
            note="ties with the last entropy of the share are kept",
        ),
        Entry(
            name="clip-cov",
            title="Clip-Cov",
            weight=f"A·ρ{_CLIPPED}·1[not drawn]",
            source="Cui et al., arXiv 2505.22617 and its code",
            formula="clipped.unselected",
            parameters=(
                *_adv("group_mean_std"),
                *_clips(0.2, 0.2),
                SHARE.with_(default=2e-4),
                Parameter("cov_low", "only tokens with a covariance above this can be chosen", default=1.0),
                Parameter("cov_high", "only tokens with a covariance below this can be chosen", default=5.0),
            ),
            needs=(*_OLD, "selection"),
            coupling="minibatch",
            selects="drawn_covariance",
            note="drawn: a random share of the tokens, at least one, of those that PPO had not clipped and whose "
            "(A − mean A)(log π − mean log π) lies in (cov_low, cov_high)",
        ),
        Entry(
            name="kl-cov",
            title="KL-Cov",
            weight="A·ρ; A·ρ − κ·sign(log ρ) on the top share by covariance",
            source="Cui et al., arXiv 2505.22617, as in its code",
            formula="clipped.kl_cov",
            parameters=(
                *_adv("group_mean_std"),
                SHARE.with_(default=2e-4),
                Parameter("kappa", "coefficient κ of |log ρ| on the chosen tokens", low=0, default=1.0),
            ),
            needs=(*_OLD, "selection"),
            coupling="minibatch",
            homogeneous=False,
            selects="top_covariance",
            note="never clipped; at ρ = 1 the penalty's weight is 0, as autograd has it",
        ),
        Entry(
            name="nft",
            title="NFT",
            weight="correct: ω·ρ/max(ρ, floor); wrong: −ω·[qρ/(1 − q)]/max((1 − qρ)/(1 − q), ε)",
            source="Chen et al., arXiv 2505.18116",
            formula="gated.nft",
            parameters=NFT,
            value="nft",
            needs=(*_OLD, "accuracy"),
            note="straight through the maxima; q kept in [0.02, 0.98]; 0 where log ρ > 10. ω is the prompt weight",
        ),
        Entry(
            name="oreal",
            title="OREAL",
            weight="correct: α·ω_t; wrong: negative_weight·ω_t·A, A = r − q",
            source="Lyu et al., arXiv 2502.06781",
            formula="gated.oreal",
            parameters=(
                Parameter("positive_weight", "α, weight of correct responses", low=0, default=1.0),
                Parameter("negative_weight", "times A, weight of wrong responses", low=0, default=0.5),
            ),
            value="oreal",
            needs=("advantages", "rewards"),
            note="its ratio is that of the policy to itself, hence 1. ω_t, of a reward model on tokens, is 1 where "
            "none is given. Its loss normalises the signs apart, which is not done here; its KL is k3 to a "
            "reference (objective.kl_coef)",
        ),
        Entry(
            name="rewarding-unlikely",
            title="Rewarding the Unlikely",
            weight=f"A·ρ{_CLIPPED}, A of r·(1 − β·rank/G)",
            source="He et al., arXiv 2506.02355",
            parameters=(
                Parameter(
                    "rank_penalty",
                    "β of r·(1 − β·rank/G), rank 0 the least likely of the group",
                    low=0,
                    high=1,
                    default=0.25,
                ),
                *_adv("group_mean_std"),
                *_clips(0.2, 0.2),
            ),
            value="unlikely",
            needs=_OLD,
            form="ratio",
            note="rank over the whole group by the mean log-prob of a response's tokens, 0 the least likely; ties "
            "rank in order",
        ),
        Entry(
            name="unlikelihood",
            title="Unlikelihood",
            weight="A·π_y/(1 − π_y), A = r − 1",
            source="Welleck et al., arXiv 1908.04319",
            formula="gated.unlikelihood",
            parameters=(Parameter("floor", "no gradient where 1 − π_y is below this", above=0, high=1, default=1e-5),),
            value="r-1",
            note="of wrong responses. As in fairseq 1 − π_y is not differentiated below floor",
        ),
        Entry(
            name="kl-k1",
            title="KL loss, k1",
            weight="−β",
            source=_ON_POLICY,
            formula="gated.kl_k1",
            parameters=(BETA.with_(default=1.0),),
            value="1",
            needs=("ref_log_probs",),
            note="its expected gradient is zero",
        ),
        Entry(
            name="kl-k2",
            title="KL loss, k2",
            weight="−β·log(π_y/ref_y)",
            source=_ON_POLICY,
            formula="gated.kl_k2",
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
            source=_ON_POLICY,
            formula="gated.kl_k3",
            parameters=(
                BETA.with_(default=1.0),
                Parameter("clamp", "no gradient where the estimate exceeds this; unset: none", above=0),
            ),
            value="1",
            needs=("ref_log_probs",),
            aliases=("low_var_kl",),
            note="in expectation β·∇KL(ref‖π). verl clamps: 0 where k3 > 10 (clamp = 10)",
        ),
        Entry(
            name="kl-k3-corrected",
            title="KL loss, k3 × ρ",
            weight="−β·ρ·log(π_y/ref_y)",
            source="TRL, use_bias_correction_kl",
            formula="gated.kl_corrected",
            parameters=(BETA.with_(default=1.0),),
            value="1",
            needs=("old_log_probs", "ref_log_probs"),
        ),
        Entry(
            name="gspo",
            title="GSPO",
            weight="A·s·1[not clipped], s = exp(mean_t log ρ_t)",
            source="Zheng et al., arXiv 2507.18071 Eqs. 5, 7",
            formula="sequences.gspo",
            parameters=(*_adv("group_mean_std"), *_clips(3e-4, 4e-4)[:2]),
            needs=_OLD,
            coupling="response",
            note="every token carries the loss of its sequence: the weight's 1/|y| is that of the sequence mean",
        ),
        Entry(
            name="topr",
            title="TOPR",
            weight="correct: A; wrong: A·min(1, Π_t ρ_t)",
            source="Le Roux et al., arXiv 2503.14286",
            formula="sequences.topr",
            parameters=_adv(),
            value="2r-1",
            needs=_OLD,
            coupling="response",
        ),
        Entry(
            name="sequence-nft",
            title="NFT of sequences",
            weight="NFT with R = Π_t ρ_t in place of ρ",
            source="Chen et al., arXiv 2505.18116",
            formula="sequences.sequence_nft",
            parameters=NFT,
            value="nft",
            needs=(*_OLD, "accuracy"),
            coupling="response",
            note="each token carries 1/|y| of its sequence's loss",
        ),
        Entry(
            name="dpo",
            title="DPO",
            weight="chosen: βσ(−βΔ); rejected: −βσ(−βΔ)",
            source="Rafailov et al., arXiv 2305.18290 Eq. 7",
            formula="sequences.dpo",
            parameters=(BETA.with_(default=0.1),),
            value="1",
            needs=("ref_log_probs",),
            coupling="pair",
            note="rows 2i and 2i + 1 are the chosen and the rejected response of pair i; Δ is the difference of "
            "their log(π/ref). A row carries half of its pair's loss, evenly over its tokens",
        ),
        Entry(
            name="entropy-bonus",
            title="entropy bonus",
            weight="r_v = απ_v(log π_v + H)",
            source="L = −α·H",
            formula="vectors.entropy",
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
            formula="vectors.kl_full",
            parameters=(BETA.with_(default=1.0),),
            value="1",
            needs=("ref_logits",),
            scalar=False,
        ),
    )
}


def _parameters() -> dict[str, Parameter]:
    """Every parameter by name, without the default of any objective; one name has one meaning."""
    table: dict[str, Parameter] = {}
    shared = (FORM, LAMBDA, CLIP_LOW, CLIP_HIGH, DUAL_CLIP, ADVANTAGE, BASELINE)
    for parameter in (*shared, *(parameter for entry in ENTRIES.values() for parameter in entry.parameters)):
        plain = replace(parameter, default=None, required=False)
        assert table.setdefault(plain.name, plain) == plain, f"{plain.name}: two objectives give it different meanings"
    return table


PARAMETERS = _parameters()
