"""The objectives that come with the toolkit, as data: no torch here, so that recipes are checked in a blink.

Convention: ∂L/∂z = −w·(e_y − π) + r with z the logits; ρ = π_y/π_old,y, A the advantage, r the reward in {0, 1}, q the
mean reward of the group, ref the reference policy, sg the stop-gradient, 1[·] an indicator.
"""

from __future__ import annotations

from dataclasses import dataclass

from .parameters import FORMS, PARAMETERS, Parameter

__all__ = ["ENTRIES", "FAMILIES", "Entry"]


@dataclass(frozen=True)
class Entry:
    """What there is to know of an objective before anything is computed.

    `rule` names its formulas (`formulas.FORMULAS`), `value` what a response counts before normalisation (`advantages`).
    `coupling`: what besides a token's own log-prob its weight depends on: token (nothing that is not given with it),
    response, minibatch, pair. `needs` are the fields of `TokenBatch` that it reads. `homogeneous`: for A of one sign w
    is proportional to A. `scalar` False: the gradient is a vector, not a weight times e_y − π.
    """

    name: str
    title: str
    weight: str
    source: str
    rule: str
    parameters: tuple[Parameter, ...] = ()
    value: str = "r"
    needs: tuple[str, ...] = ("advantages",)
    coupling: str = "token"
    aliases: tuple[str, ...] = ()
    form: str | None = None
    homogeneous: bool = True
    scalar: bool = True
    note: str = ""

    @property
    def defaults(self) -> dict[str, object]:
        return {one.name: one.default for one in self.parameters}


def _p(name: str, default: object = None, *, required: bool = False) -> Parameter:
    return PARAMETERS[name].with_(default=default, required=required)


def _clips(low: float | None = None, high: float | None = None) -> tuple[Parameter, ...]:
    return _p("clip_low", low), _p("clip_high", high), _p("dual_clip")


def _adv(how: str = "none") -> tuple[Parameter, ...]:
    return _p("advantage", how), _p("baseline")


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


def _family() -> list[Entry]:
    found = []
    for family, (title, value, note) in _FAMILY.items():
        for form in FORMS:
            weight, source, needs = _FORM[form]
            if family == "w-reinforce" and form != "log":
                source = f"Eq. 9, {source}"
            own = (_p("lambda_", required=True),) if family == "w-reinforce" else ()
            clips = () if form == "log" else _clips()
            label = title if form == "ratio" else f"{title} {form}"
            found.append(
                Entry(
                    f"{family}-{form}",
                    label,
                    weight,
                    f"{_PAPER}: {source}",
                    "policy_gradient",
                    (*own, *_adv(), *clips),
                    value,
                    needs,
                    form=form,
                    note=note,
                )
            )
    return found


_ON_POLICY = "k1, k2, k3 of Schulman's note «Approximating KL divergence» (2020)"

ENTRIES: dict[str, Entry] = {
    one.name: one
    for one in (
        *_family(),
        Entry(
            "sft",
            "SFT",
            "1",
            "maximum likelihood",
            "policy_gradient",
            (),
            "1",
            aliases=("supervised",),
            form="log",
            note="every response counts 1, whatever its reward; on correct ones alone it is psr-log",
        ),
        Entry(
            "ppo",
            "PPO",
            f"A·ρ{_CLIPPED}",
            "Schulman et al., arXiv 1707.06347 Eq. 7; dual clip: Ye et al., arXiv 1912.09729",
            "policy_gradient",
            (*_adv(), *_clips(0.2, 0.2)),
            "2r-1",
            _OLD,
            form="ratio",
            aliases=("vanilla",),
            note="the dual clip takes the weight where A < 0 and ρ > dual_clip",
        ),
        Entry(
            "grpo",
            "GRPO",
            f"A·ρ{_CLIPPED}, A = (r − q)/std",
            "Shao et al., arXiv 2402.03300 Eq. 3",
            "policy_gradient",
            (_p("form", "ratio"), *_adv("group_mean_std"), *_clips()),
            "r",
            _OLD,
            form="ratio",
            note="on binary rewards A = √((1 − q)/q) and −√(q/(1 − q)): an implied λ of (1 − q)/q, with the "
            "biased std; with verl's and TRL's unbiased one both are √((G − 1)/G) times that. No clip unless "
            "set: clip_low = clip_high = 0.2 is the paper's",
        ),
        Entry(
            "dr-grpo",
            "Dr. GRPO",
            f"A·ρ{_CLIPPED}, A = r − q",
            "Liu et al., arXiv 2503.20783",
            "policy_gradient",
            (_p("form", "ratio"), *_adv("group_mean"), *_clips(0.2, 0.2)),
            "r",
            _OLD,
            form="ratio",
            aliases=("dr_grpo",),
            note="with a constant normaliser; the implied λ is that of GRPO",
        ),
        Entry(
            "rloo",
            "RLOO",
            "A, A = r − mean of the others",
            "Ahmadian et al., arXiv 2402.14740",
            "policy_gradient",
            (_p("form", "log"), *_adv("leave_one_out"), *_clips()),
            "r",
            form="log",
            note="G/(G − 1) times r − q",
        ),
        Entry(
            "dapo",
            "DAPO",
            f"A·ρ{_CLIPPED}, ε_high > ε_low",
            "Yu et al., arXiv 2503.14476 Eq. 8",
            "policy_gradient",
            (*_adv("group_mean_std"), *_clips(0.2, 0.28)),
            "r",
            _OLD,
            form="ratio",
            note="token mean over the batch; its dynamic sampling of prompts is no part of the loss",
        ),
        Entry(
            "asymre",
            "AsymRE",
            "r − V",
            "Arnal et al., arXiv 2506.20520",
            "policy_gradient",
            (PARAMETERS["advantage"].with_(default="constant"), _p("baseline", required=True)),
            "r",
            form="log",
            note="off-policy without a ratio; baseline is V",
        ),
        Entry(
            "cispo",
            "CISPO",
            "A·sg(clip ρ)",
            "MiniMax-M1, arXiv 2506.13585 Eq. 4",
            "cispo",
            (*_adv("group_mean_std"), _p("clip_low"), _p("clip_high", 4.0)),
            "r",
            _OLD,
            note="never zero. verl clips on both sides; TRL from above only, and its epsilon_high is the bound "
            "itself, 1 + clip_high here",
        ),
        Entry(
            "sapo",
            "SAPO",
            "4·A·ρ·σ(1 − σ), σ = sigmoid(τ(ρ − 1))",
            "Gao et al., arXiv 2511.20347",
            "sapo",
            (*_adv("group_mean_std"), _p("tau_pos", 1.0), _p("tau_neg", 1.05)),
            "r",
            _OLD,
            note="τ differs by the sign of A",
        ),
        Entry(
            "high-entropy",
            "high-entropy tokens",
            f"A·ρ{_CLIPPED}·1[H_t among the top share]",
            "Wang et al., arXiv 2506.01939",
            "selected_tokens",
            (*_adv("group_mean_std"), *_clips(0.2, 0.28), _p("share", 0.2)),
            "r",
            (*_OLD, "selection"),
            "minibatch",
            note="ties with the last entropy of the share are kept",
        ),
        Entry(
            "clip-cov",
            "Clip-Cov",
            f"A·ρ{_CLIPPED}·1[not drawn]",
            "Cui et al., arXiv 2505.22617 and its code",
            "unselected_tokens",
            (*_adv("group_mean_std"), *_clips(0.2, 0.2), _p("share", 2e-4), _p("cov_low", 1.0), _p("cov_high", 5.0)),
            "r",
            (*_OLD, "selection"),
            "minibatch",
            note="drawn: a random share of the tokens, at least one, of those that PPO had not clipped and whose "
            "(A − mean A)(log π − mean log π) lies in (cov_low, cov_high)",
        ),
        Entry(
            "kl-cov",
            "KL-Cov",
            "A·ρ; A·ρ − κ·sign(log ρ) on the top share by covariance",
            "Cui et al., arXiv 2505.22617, as in its code",
            "kl_cov",
            (*_adv("group_mean_std"), _p("share", 2e-4), _p("kappa", 1.0)),
            "r",
            (*_OLD, "selection"),
            "minibatch",
            homogeneous=False,
            note="never clipped; at ρ = 1 the penalty's weight is 0, as autograd has it",
        ),
        Entry(
            "nft",
            "NFT",
            "correct: ω·ρ/max(ρ, floor); wrong: −ω·[qρ/(1 − q)]/max((1 − qρ)/(1 − q), ε)",
            "Chen et al., arXiv 2505.18116",
            "nft",
            (_p("ratio_floor", 0.0), _p("epsilon", 1.0), _p("prompt_weight", "1-q")),
            "nft",
            (*_OLD, "accuracy"),
            note="straight through the maxima; q kept in [0.02, 0.98]; 0 where log ρ > 10. ω is the prompt weight",
        ),
        Entry(
            "oreal",
            "OREAL",
            "correct: α·ω_t; wrong: negative_weight·ω_t·A, A = r − q",
            "Lyu et al., arXiv 2502.06781",
            "oreal",
            (_p("positive_weight", 1.0), _p("negative_weight", 0.5)),
            "oreal",
            ("advantages", "rewards"),
            note="its ratio is that of the policy to itself, hence 1. ω_t, of a reward model on tokens, is 1 where "
            "none is given. Its loss normalises the signs apart, which is not done here; its KL is k3 to a "
            "reference (objective.kl_coef)",
        ),
        Entry(
            "rewarding-unlikely",
            "Rewarding the Unlikely",
            f"A·ρ{_CLIPPED}, A of r·(1 − β·rank/G)",
            "He et al., arXiv 2506.02355",
            "policy_gradient",
            (_p("rank_penalty", 0.25), *_adv("group_mean_std"), *_clips(0.2, 0.2)),
            "unlikely",
            _OLD,
            form="ratio",
            note="rank over the whole group by the mean log-prob of a response's tokens, 0 the least likely; ties "
            "rank in order",
        ),
        Entry(
            "unlikelihood",
            "Unlikelihood",
            "A·π_y/(1 − π_y), A = r − 1",
            "Welleck et al., arXiv 1908.04319",
            "unlikelihood",
            (_p("floor", 1e-5),),
            "r-1",
            note="of wrong responses. As in fairseq 1 − π_y is not differentiated below floor",
        ),
        Entry(
            "kl-k1",
            "KL loss, k1",
            "−β",
            _ON_POLICY,
            "kl_k1",
            (_p("beta", 1.0),),
            "1",
            ("ref_log_probs",),
            note="its expected gradient is zero",
        ),
        Entry(
            "kl-k2",
            "KL loss, k2",
            "−β·log(π_y/ref_y)",
            _ON_POLICY,
            "kl_k2",
            (_p("beta", 1.0),),
            "1",
            ("ref_log_probs",),
            note="in expectation β·∇KL(π‖ref)",
            aliases=("mse",),
        ),
        Entry(
            "kl-k3",
            "KL loss, k3",
            "β·(ref_y/π_y − 1)",
            _ON_POLICY,
            "kl_k3",
            (_p("beta", 1.0), _p("clamp")),
            "1",
            ("ref_log_probs",),
            aliases=("low_var_kl",),
            note="in expectation β·∇KL(ref‖π). verl clamps: 0 where k3 > 10 (clamp = 10)",
        ),
        Entry(
            "kl-k3-corrected",
            "KL loss, k3 × ρ",
            "−β·ρ·log(π_y/ref_y)",
            "TRL, use_bias_correction_kl",
            "kl_corrected",
            (_p("beta", 1.0),),
            "1",
            ("old_log_probs", "ref_log_probs"),
        ),
        Entry(
            "gspo",
            "GSPO",
            "A·s·1[not clipped], s = exp(mean_t log ρ_t)",
            "Zheng et al., arXiv 2507.18071 Eqs. 5, 7",
            "gspo",
            (*_adv("group_mean_std"), *_clips(3e-4, 4e-4)[:2]),
            "r",
            _OLD,
            "response",
            note="every token carries the loss of its sequence: the weight's 1/|y| is that of the sequence mean",
        ),
        Entry(
            "topr",
            "TOPR",
            "correct: A; wrong: A·min(1, Π_t ρ_t)",
            "Le Roux et al., arXiv 2503.14286",
            "topr",
            _adv(),
            "2r-1",
            _OLD,
            "response",
        ),
        Entry(
            "sequence-nft",
            "NFT of sequences",
            "NFT with R = Π_t ρ_t in place of ρ",
            "Chen et al., arXiv 2505.18116",
            "sequence_nft",
            (_p("ratio_floor", 0.0), _p("epsilon", 1.0), _p("prompt_weight", "1-q")),
            "nft",
            (*_OLD, "accuracy"),
            "response",
            note="each token carries 1/|y| of its sequence's loss",
        ),
        Entry(
            "dpo",
            "DPO",
            "chosen: βσ(−βΔ); rejected: −βσ(−βΔ)",
            "Rafailov et al., arXiv 2305.18290 Eq. 7",
            "dpo",
            (_p("beta", 0.1),),
            "1",
            ("ref_log_probs",),
            "pair",
            note="rows 2i and 2i + 1 are the chosen and the rejected response of pair i; Δ is the difference of "
            "their log(π/ref). A row carries half of its pair's loss, evenly over its tokens",
        ),
        Entry(
            "entropy-bonus",
            "entropy bonus",
            "r_v = απ_v(log π_v + H)",
            "L = −α·H",
            "entropy_bonus",
            (_p("alpha", 1.0),),
            "1",
            (),
            scalar=False,
        ),
        Entry(
            "kl-full",
            "KL over the vocabulary",
            "r_v = βπ_v(log(π_v/ref_v) − KL)",
            "L = β·KL(π‖ref)",
            "kl_full",
            (_p("beta", 1.0),),
            "1",
            ("ref_logits",),
            scalar=False,
        ),
    )
}
