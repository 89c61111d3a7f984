"""What an entry says of TRL and verl, with the functions of the installed versions: the same weight of every token.

Objectives of groups and batches, of preferences other than DPO, and of distillation have their own tests.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from analysis.objectives import TokenBatch, get
from analysis.objectives.entries import ENTRIES
from tests.objectives.peers import trl_peer, verl_peer
from tests.objectives.peers.trl_dpo import dpo_loss
from tests.objectives.peers.trl_sft import sft_loss

pytestmark = pytest.mark.slow  # importing the two libraries takes seconds

ROWS, WIDTH, GROUP = 8, 6, 4
LENGTHS = torch.tensor([3, 6, 1, 4, 5, 2, 6, 2])
MASK = torch.arange(WIDTH) < LENGTHS[:, None]
G = torch.Generator().manual_seed(0)
OLD = -2 * torch.rand(ROWS, WIDTH, generator=G, dtype=torch.float64) - 0.2
NOISE = torch.randn(ROWS, WIDTH, generator=G, dtype=torch.float64)
REF = OLD + 0.8 * torch.randn(ROWS, WIDTH, generator=G, dtype=torch.float64)
ENTROPY = torch.rand(ROWS, WIDTH, generator=G, dtype=torch.float64)
ADVANTAGES = torch.tensor([1.0, -1.0, 0.5, -0.5, 2.0, 0.0, -2.0, 1.5], dtype=torch.float64)
REWARDS = torch.tensor([1, 0, 0, 1, 1, 1, 0, 1], dtype=torch.float64)
NO_DUAL = {"clip_ratio_c": float("inf")}

# objective, its parameters; the settings of the library
VERL: tuple[tuple[str, dict[str, Any], str, dict[str, Any]], ...] = (
    ("ppo", {"dual_clip": 3.0}, "vanilla", {}),
    ("ppo", {}, "vanilla", NO_DUAL),
    ("grpo", {"clip_low": 0.2, "clip_high": 0.2, "dual_clip": 3.0}, "vanilla", {}),
    ("dr-grpo", {"dual_clip": 3.0}, "vanilla", {}),
    ("rloo", {"form": "ratio", "clip_low": 0.2, "clip_high": 0.2, "dual_clip": 3.0}, "vanilla", {}),
    ("dapo", {"dual_clip": 3.0}, "vanilla", {"clip_ratio_high": 0.28}),
    ("psr-released", {}, "vanilla", NO_DUAL),
    ("cispo", {"clip_low": 0.2, "clip_high": 0.2}, "cispo", {}),
    ("cispo", {"clip_low": 0.1, "clip_high": 0.4}, "cispo", {"clip_ratio_low": 0.1, "clip_ratio_high": 0.4}),
    ("gspo", {}, "gspo", {"clip_ratio_low": 3e-4, "clip_ratio_high": 4e-4}),
    ("gspo", {"clip_low": 0.2, "clip_high": 0.2}, "gspo", {}),
    ("kl-cov", {"share": 0.2, "kappa": 0.7}, "kl_cov", {"kl_cov_ratio": 0.2, "ppo_kl_coef": 0.7}),
    ("kl-cov", {"kappa": 0.1}, "kl_cov", {}),
)
TRL: tuple[tuple[str, dict[str, Any], dict[str, Any]], ...] = (
    ("grpo", {"clip_low": 0.2, "clip_high": 0.2}, {}),
    ("dr-grpo", {}, {}),
    ("dapo", {}, {"loss_type": "dapo", "epsilon_high": 0.28}),
    ("cispo", {}, {"loss_type": "cispo", "epsilon_high": 5.0}),
    ("cispo", {"clip_high": 0.2}, {"loss_type": "cispo", "epsilon_high": 1.2}),
)


def policy(spread: float) -> torch.Tensor:
    """Log-probs whose ratios to the old ones lie near 1, or from 0.1 to 8."""
    return OLD + spread * NOISE


def weights(name: str, parameters: dict[str, Any], log_probs: torch.Tensor) -> torch.Tensor:
    batch = TokenBatch(log_probs, OLD, ADVANTAGES, MASK, ref_log_probs=REF, entropy=ENTROPY)
    objective = get(name, **parameters)
    return objective.weights(objective.prepare(batch)).weight.masked_fill(~MASK, 0)


def close(found: torch.Tensor, expected: torch.Tensor, rtol: float = 1e-12) -> None:
    torch.testing.assert_close(found, expected, rtol=rtol, atol=1e-13)


@pytest.mark.parametrize("spread", [1e-4, 0.3, 1.0])
@pytest.mark.parametrize(("name", "parameters", "mode", "fields"), VERL)
def test_weights_of_verl(
    name: str, parameters: dict[str, Any], mode: str, fields: dict[str, Any], spread: float
) -> None:
    log_probs = policy(spread)
    close(weights(name, parameters, log_probs), verl_peer.weights(mode, log_probs, OLD, ADVANTAGES, MASK, **fields))


@pytest.mark.parametrize("spread", [1e-4, 0.3, 1.0])
@pytest.mark.parametrize(("name", "parameters", "fields"), TRL)
def test_weights_of_trl(name: str, parameters: dict[str, Any], fields: dict[str, Any], spread: float) -> None:
    log_probs = policy(spread)
    theirs = trl_peer.grpo_weights(log_probs, OLD, ADVANTAGES, MASK, **{"loss_type": "bnpo", **fields})
    close(weights(name, parameters, log_probs), theirs)


@pytest.mark.parametrize("spread", [1e-4, 1.0])
def test_sapo(spread: float) -> None:
    """Both libraries take the mean over responses of token means; TRL rounds τ to float32."""
    log_probs, scale = policy(spread), ROWS * LENGTHS[:, None].double()
    ours = weights("sapo", {}, log_probs)
    theirs = verl_peer.weights("sapo", log_probs, OLD, ADVANTAGES, MASK) * (scale + 1e-8 * ROWS)
    close(ours, theirs)
    theirs = trl_peer.grpo_weights(log_probs, OLD, ADVANTAGES, MASK, loss_type="sapo") / MASK.sum() * scale
    close(ours, theirs, rtol=1e-6)


@pytest.mark.parametrize("spread", [1e-4, 0.3, 1.0])
def test_gspo_of_trl(spread: float) -> None:
    """`gspo` carries the loss of its response at each token: the mean over the response has the 1/|y|."""
    fields = {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 3e-4, "epsilon_high": 4e-4}
    log_probs = policy(spread)
    theirs = trl_peer.grpo_weights(log_probs, OLD, ADVANTAGES, MASK, **fields) / MASK.sum() * ROWS * LENGTHS[:, None]
    close(weights("gspo", {}, log_probs), theirs)


def test_rloo_of_trl() -> None:
    """On-policy the weight is A; off it the product of the ratios stands before it."""
    on_policy = trl_peer.rloo_weights(OLD, OLD, ADVANTAGES, MASK)
    close(weights("rloo", {}, OLD), on_policy)
    log_probs = policy(0.02)
    product = ((log_probs - OLD) * MASK).sum(-1, keepdim=True).exp()
    expected = (ADVANTAGES[:, None] * product).masked_fill(~MASK, 0)
    close(trl_peer.rloo_weights(log_probs, OLD, ADVANTAGES, MASK), expected)


@pytest.mark.parametrize("share", [0.2, 0.28, 0.5])
def test_high_entropy_of_trl(share: float) -> None:
    """The same tokens where share·N is whole, else TRL may keep one fewer; 29 tokens."""
    log_probs = policy(0.3)
    ours = weights("high-entropy", {"share": share, "clip_high": 0.2}, log_probs)
    fields = {"loss_type": "bnpo", "top_entropy_quantile": share, "entropies": ENTROPY}
    theirs = trl_peer.grpo_weights(log_probs, OLD, ADVANTAGES, MASK, **fields)
    extra = (ours != 0) & (theirs == 0)
    assert extra.sum() <= 1
    close(ours.masked_fill(extra, 0), theirs)


def test_clip_cov_of_verl() -> None:
    """The draw is random: in both as many tokens lose PPO's weight, and the others keep it."""
    log_probs, settings = policy(0.3), {"share": 0.2, "cov_low": -0.3, "cov_high": 2.0}
    plain, ours = weights("ppo", {}, log_probs), weights("clip-cov", settings, log_probs)
    fields = {"clip_cov_ratio": 0.2, "clip_cov_lb": -0.3, "clip_cov_ub": 2.0}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = verl_peer.weights("clip_cov", log_probs, OLD, ADVANTAGES, MASK, **fields)
    dropped = [(plain != 0) & (found == 0) for found in (ours, theirs)]
    for found, gone in zip((ours, theirs), dropped, strict=True):
        close(found, plain.masked_fill(gone, 0))
    zero = (ADVANTAGES == 0)[:, None] & MASK  # whether such a token was drawn cannot be seen
    assert all(5 - zero.sum() <= gone.sum() <= 5 for gone in dropped)  # ⌊0.2·29⌋
    # where all open tokens are drawn they are the same
    every = {"share": 1.0, "cov_low": -0.3, "cov_high": 2.0}
    fields = {"clip_cov_ratio": 1.0, "clip_cov_lb": -0.3, "clip_cov_ub": 2.0}
    theirs = verl_peer.weights("clip_cov", log_probs, OLD, ADVANTAGES, MASK, **fields)
    close(weights("clip-cov", every, log_probs), theirs)


@pytest.mark.parametrize("beta", [0.1, 2.0])
def test_dpo_of_trl(beta: float) -> None:
    leaf = policy(0.5).requires_grad_()
    (gradient,) = torch.autograd.grad(dpo_loss(leaf, REF, MASK, beta=beta), leaf)
    pairs = torch.arange(ROWS).view(2, -1).T.flatten()  # ours: chosen and rejected of a pair next to each other
    batch = TokenBatch(leaf.detach()[pairs], mask=MASK[pairs], ref_log_probs=REF[pairs])
    ours = get("dpo", beta=beta).weights(batch).weight.masked_fill(~MASK[pairs], 0)
    close(ours, -gradient[pairs] * ROWS / 2)


@pytest.mark.parametrize(("name", "loss_type"), [("sft", "nll"), ("dft", "dft")])
def test_supervised_losses_of_trl(name: str, loss_type: str) -> None:
    leaf = policy(0.5).requires_grad_()
    (gradient,) = torch.autograd.grad(sft_loss(leaf, MASK, loss_type=loss_type), leaf)
    batch = TokenBatch(leaf.detach(), advantages=torch.ones(ROWS), mask=MASK)
    ours = get(name).weights(batch).weight.masked_fill(~MASK, 0)
    close(ours, -gradient * MASK.sum())


def test_entropy_bonus_of_trl() -> None:
    """Minus the coefficient times the mean entropy of the tokens, beside a loss without a weight."""
    logits = torch.randn(ROWS, WIDTH, 7, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    leaf = logits.clone().requires_grad_()
    entropies = torch.special.entr(leaf.softmax(-1)).sum(-1)
    loss = trl_peer.grpo_loss(
        OLD, OLD, torch.zeros(ROWS), MASK, loss_type="grpo", entropies=entropies, entropy_coef=0.3
    )
    (gradient,) = torch.autograd.grad(loss, leaf)
    ours = get("entropy-bonus", alpha=0.3).vector(logits).masked_fill(~MASK[..., None], 0)
    close(ours, gradient * MASK.sum())


def test_advantages_of_the_groups() -> None:
    for name, estimator, arguments in (
        ("grpo", "grpo", {}),
        ("dapo", "grpo", {}),
        ("dr-grpo", "grpo", {"norm_adv_by_std_in_grpo": False}),
        ("rloo", "rloo", {}),
    ):
        theirs = verl_peer.advantages(estimator, REWARDS, MASK, GROUP, **arguments)[:, 0]
        close(get(name).advantages(REWARDS, GROUP), theirs, rtol=1e-6)
    close(get("dr-grpo").advantages(REWARDS, GROUP), trl_peer.grpo_advantages(REWARDS, GROUP, scale_rewards="none"))
    close(get("rloo").advantages(REWARDS, GROUP), trl_peer.rloo_advantages(REWARDS, GROUP))


def test_defaults_that_the_entries_name() -> None:
    config = verl_peer.actor_config()
    assert (config.clip_ratio_low, config.clip_ratio_high, config.clip_ratio_c) == (0.2, 0.2, 3.0)
    assert (config.kl_loss_type, config.tau_pos, config.tau_neg) == ("low_var_kl", 1.0, 1.05)
    assert (config.policy_loss.clip_cov_ratio, config.policy_loss.kl_cov_ratio) == (2e-4, 2e-4)
    grpo = trl_peer.trainer("trl.trainer.grpo_config", "GRPOConfig").__dataclass_fields__
    defaults = {
        name: grpo[name].default for name in ("loss_type", "epsilon", "use_bias_correction_kl", "delta", "beta")
    }
    assert defaults == {
        "loss_type": "dapo",
        "epsilon": 0.2,
        "use_bias_correction_kl": True,
        "delta": None,
        "beta": 0.0,
    }
    assert (grpo["sapo_temperature_pos"].default, grpo["sapo_temperature_neg"].default) == (1.0, 1.05)
    assert "recommended value is `5.0`" in grpo["epsilon_high"].metadata["help"]
    sft = trl_peer.trainer("trl.trainer.sft_config", "SFTConfig").__dataclass_fields__
    assert sft["loss_type"].default == "nll"
    assert callable(verl_peer.module("verl.workers.utils.losses").sft_loss)


def test_every_entry_that_names_a_library_is_compared_with_it() -> None:
    """By name, in this file or in one of those of the other families; those of a fork of verl have no function here."""
    here = Path(__file__).parent
    names = ("peer_names", "peers_of_tokens", "advantage_registries", "correspondence", "group_advantages")
    texts = "".join((here / f"test_{name}.py").read_text(encoding="utf-8") for name in names)
    named = [entry for entry in ENTRIES.values() if entry.trl or entry.verl]
    assert len(named) > 40
    for entry in named:
        known = any(f'"{name}"' in texts for name in (entry.name, *entry.aliases)) or entry.name.startswith("opd-k")
        known = known or entry.name == "opd-abs"  # with the estimators of the KL, whose names it has
        assert known or entry.verl.startswith(("only its authors' fork of verl", "its dro is")), entry.name
