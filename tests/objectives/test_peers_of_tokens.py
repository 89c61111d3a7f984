"""Objectives of tokens and sequences against TRL's and verl's own functions, and every loss that the two register."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from analysis import objectives
from analysis.objectives import TokenBatch, get
from analysis.objectives.registries import REGISTRIES
from analysis.recipes.config import FIELDS
from tests.objectives.peers import trl_peer, verl_peer
from tests.objectives.test_corrections import random_batch

pytestmark = pytest.mark.slow  # importing the two libraries takes seconds

SPREADS = (0.02, 0.3, 2.0)


def close(ours: torch.Tensor, theirs: torch.Tensor, batch: TokenBatch, rtol: float = 1e-9) -> None:
    """In float64 both do the same arithmetic in another order."""
    real = batch.real()
    torch.testing.assert_close(ours[real], theirs[real], rtol=rtol, atol=1e-12)
    assert ours[real].any()


def of_verl(name: str, batch: TokenBatch, **fields: Any) -> torch.Tensor:
    return verl_peer.weights(name, batch.log_probs, batch.old_log_probs, batch.advantages, batch.real(), **fields)


@pytest.mark.parametrize("spread", SPREADS)
def test_dppo_is_verl_s(spread: float) -> None:
    batch = random_batch(5, spread)
    for name, ours in (("dppo_tv", "dppo-tv"), ("dppo_kl", "dppo-kl")):
        for low, high in ((0.2, 0.2), (0.01, 0.02)):
            bounds = {"divergence_low": low, "divergence_high": high}
            theirs = of_verl(name, batch, clip_ratio_low=low, clip_ratio_high=high)
            close(get(ours, ratio_cap=3.0, **bounds).weights(batch).weight, theirs, batch)


def test_dppo_of_prime_rl_by_hand() -> None:
    """One token of each kind, with the numbers of default_loss_fn and ipo_loss_fn written out."""
    pi = torch.tensor([[0.5, 0.8, 0.35, 0.05]], dtype=torch.float64)
    old = torch.tensor([[0.45, 0.5, 0.4, 0.4]], dtype=torch.float64)
    for a in (1.0, -2.0):
        batch = TokenBatch(pi.log(), old.log(), torch.tensor([a]).double())
        kept = torch.tensor([1.0, 0.0, 1.0, 1.0] if a > 0 else [1.0, 1.0, 1.0, 0.0])
        drift = 2e-3 * (pi / old).log()
        torch.testing.assert_close(get("dppo-prime").weights(batch).weight, a * kept * pi / old - drift)
        kept = torch.tensor([1.0, 0.0, 1.0, 0.0])
        torch.testing.assert_close(get("ipo-prime").weights(batch).weight, a * kept * pi / old - drift)
    teacher = torch.tensor([[0.6, 0.2, 0.3, 0.9]], dtype=torch.float64)
    batch = TokenBatch(pi.log(), old.log(), teacher_log_probs=teacher.log())
    kept = torch.tensor([1.0, 1.0, 1.0, 0.0])
    expected = kept * (pi / old) * (teacher / pi).log() - drift
    torch.testing.assert_close(get("opd-prime").weights(batch).weight, expected)


@pytest.mark.parametrize("spread", SPREADS)
def test_gspo_token_is_verl_s_gspo(spread: float) -> None:
    batch = random_batch(6, spread)
    ours = get("gspo-token", clip_low=0.2, clip_high=0.28, log_ratio_max=10).weights(batch).weight
    close(ours, of_verl("gspo", batch, clip_ratio_low=0.2, clip_ratio_high=0.28), batch)


@pytest.mark.parametrize("spread", SPREADS)
def test_gmpo_is_verl_s_and_trl_s(spread: float) -> None:
    """Both take the mean over responses; a weight here lacks 1/|y| and 1/B."""
    batch = random_batch(7, spread)
    real = batch.real()
    scale = real.sum(-1, keepdim=True) * len(real)
    ours = get("gmpo", log_clip_low=0.1, log_clip_high=0.3).weights(batch).weight
    theirs = of_verl("geo_mean", batch, clip_ratio_low=0.1, clip_ratio_high=0.3) * scale
    close(ours, theirs, batch, rtol=1e-7)  # verl adds 1e-8 to the lengths
    owner = trl_peer.trainer("trl.experimental.gmpo.gmpo_trainer", "GMPOTrainer")
    leaf = batch.log_probs.clone().requires_grad_()
    stub = trl_peer._stub("GRPO", {"epsilon": 0.1, "epsilon_high": 0.3})
    stub._get_per_token_logps_and_entropies = lambda *_, **__: (leaf, torch.zeros_like(leaf), None)
    ids = torch.zeros(real.shape, dtype=torch.long)
    loss = owner._compute_loss(
        stub,
        None,
        {
            "prompt_ids": ids,
            "prompt_mask": ids,
            "completion_ids": ids,
            "completion_mask": real.double(),
            "advantages": batch.advantages,
            "old_per_token_logps": batch.old_log_probs,
        },
    )
    (gradient,) = torch.autograd.grad(loss, leaf)
    close(ours, -gradient * scale, batch)


@pytest.mark.parametrize("spread", SPREADS)
def test_vespo_and_luspo_are_trl_s(spread: float) -> None:
    batch = random_batch(8, spread)
    given = (batch.log_probs, batch.old_log_probs, batch.advantages, batch.real())
    fields = {"vespo_k_pos": 1.5, "vespo_lambda_pos": 2.5, "vespo_k_neg": 2.0, "vespo_lambda_neg": 0.75}
    close(
        get("vespo", **fields).weights(batch).weight, trl_peer.grpo_weights(*given, loss_type="vespo", **fields), batch
    )
    theirs = trl_peer.grpo_weights(
        *given, loss_type="luspo", importance_sampling_level="sequence", epsilon=0.2, epsilon_high=0.3
    )
    responses = len(batch.log_probs)  # a mean over responses of sums over tokens
    ours = get("luspo", clip_low=0.2, clip_high=0.3).weights(batch).weight
    close(ours, theirs / batch.real().sum() * responses, batch)


@pytest.mark.parametrize(
    ("delta", "ours"),
    [
        (3.0, {"clip_low": 0.2, "clip_high": 0.3, "dual_clip": 3.0}),
        (1.3, {"clip_low": 0.2, "clip_high": 0.3, "dual_clip": 1.3}),
        (1.1, {"clip_low": 0.2, "clip_high": 0.1, "dual_clip": 1.3}),
    ],
)
def test_trl_s_delta_in_our_clips(delta: float, ours: dict[str, float]) -> None:
    batch = random_batch(9, 1.0)
    given = (batch.log_probs, batch.old_log_probs, batch.advantages, batch.real())
    theirs = trl_peer.grpo_weights(*given, loss_type="bnpo", epsilon=0.2, epsilon_high=0.3, delta=delta)
    close(get("grpo", **ours).weights(batch).weight, theirs, batch)


def gradient_of_kl(name: str, batch: TokenBatch, other: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Value and minus the derivative of verl's kl_penalty."""
    leaf = batch.log_probs.clone().requires_grad_()
    value = verl_peer.core().kl_penalty(leaf, other, name)
    (gradient,) = torch.autograd.grad(value.sum(), leaf)
    return value.detach(), -gradient


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("k1", "k1"), ("k2", "k2"), ("k3", "k3"), ("abs", "abs"), ("k1+", "k1+"), ("k3+", "k3+"), ("low_var_kl+", "k3+")],
)
def test_kl_estimators_are_verl_s(theirs: str, ours: str) -> None:
    batch = random_batch(10)
    other = batch.rollout_log_probs
    reference = TokenBatch(batch.log_probs, batch.old_log_probs, mask=batch.mask, ref_log_probs=other)
    value, weight = gradient_of_kl(theirs, batch, other)
    clamp = {"clamp": 10} if ours == "k3" else {}
    objective = get(f"kl-{ours}", **clamp)
    close(objective.weights(reference).weight, weight, batch)
    close(objective.loss(batch.log_probs, reference), value, batch)
    if f"opd-{ours}" in objectives.names():
        close(get(f"opd-{ours}", **clamp).weights(batch).weight, weight, batch)


def test_on_policy_distillation_is_verl_s_policy_gradient() -> None:
    """verl hands −k1 to its PPO loss as the advantage, cut to loss_max_clamp."""
    batch = random_batch(11, 0.5)
    value, _ = gradient_of_kl("k1", batch, batch.teacher_log_probs)
    theirs = verl_peer.weights("vanilla", batch.log_probs, batch.old_log_probs, -value.clamp(-0.6, 0.6), batch.real())
    clips = {"clip_low": 0.2, "clip_high": 0.2, "dual_clip": 3.0}
    close(get("opd", advantage_max=0.6, **clips).weights(batch).weight, theirs, batch)


def test_importance_weighted_distillation_is_trl_s() -> None:
    owner = trl_peer.trainer("trl.experimental.iw_opd.iw_opd_trainer", "IWOPDTrainer")
    g = torch.Generator().manual_seed(12)
    logits = torch.randn(5, 6, 7, generator=g, dtype=torch.float64, requires_grad=True)
    tokens = torch.randint(7, (5, 6), generator=g)
    teacher, old = -3 * torch.rand(2, 5, 6, generator=g, dtype=torch.float64)
    mask = torch.arange(6) < torch.tensor([6, 1, 3, 2, 5])[:, None]
    stub = SimpleNamespace(
        temperature=1.0,
        iw_opd_gamma=0.5,
        iw_opd_epsilon=1e-8,
        model=SimpleNamespace(training=True),
        _metrics={"train": defaultdict(list)},
    )
    loss = owner._compute_iw_opd_loss(stub, logits, tokens, torch.where(mask, tokens, -100), teacher, old)
    log_probs = logits.log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
    batch = TokenBatch(log_probs.detach(), old, mask=mask, teacher_log_probs=teacher)
    (theirs,) = torch.autograd.grad(loss * mask.sum(), logits, retain_graph=True)
    (ours,) = torch.autograd.grad(-(log_probs * get("opd-iw").weights(batch).weight * mask).sum(), logits)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 1.0])
def test_the_generalised_divergence_is_trl_s(beta: float) -> None:
    owner = trl_peer.trainer("trl.experimental.gkd.gkd_trainer", "GKDTrainer")
    g = torch.Generator().manual_seed(13)
    logits, teacher = 2 * torch.randn(2, 3, 4, 9, generator=g, dtype=torch.float64)
    logits.requires_grad_()
    theirs = owner.generalized_jsd_loss(logits, teacher, beta=beta, reduction="sum")
    objective = get("distill-jsd", jsd_beta=beta)
    torch.testing.assert_close(objective.logits_loss(logits, teacher).sum(), theirs, rtol=1e-9, atol=0)
    (gradient,) = torch.autograd.grad(theirs, logits)
    torch.testing.assert_close(objective.vector(logits.detach(), teacher), gradient, rtol=1e-8, atol=1e-12)


def test_the_forward_kl_of_the_top_tokens_is_verl_s() -> None:
    """Its function takes nested tensors and makes float32 of them."""
    losses = verl_peer.module("verl.trainer.distillation.fsdp.losses")
    g = torch.Generator().manual_seed(14)
    logits, teacher = torch.randn(2, 1, 5, 9, generator=g, dtype=torch.float64)
    top = teacher.log_softmax(-1).topk(3, -1)
    nested = torch.nested.nested_tensor([top.values[0]], layout=torch.jagged)
    ids = torch.nested.nested_tensor([top.indices[0]], layout=torch.jagged)
    config = SimpleNamespace(distillation_loss=SimpleNamespace(log_prob_min_clamp=None, use_chunked_topk=False))
    with verl_peer.imports():
        found = losses.compute_forward_kl_topk(logits, nested, ids, config, "thd")
    ours = get("distill-topk", teacher_top=3).logits_loss(logits, teacher)
    torch.testing.assert_close(ours.float(), found["distillation_losses"].float().clamp_min(0), rtol=1e-5, atol=1e-6)


def test_the_kl_in_the_reward_is_that_of_trl_s_rloo() -> None:
    """RLOOTrainer takes β·Σ_t k1 from the reward before the mean of the others."""
    g = torch.Generator().manual_seed(15)
    old, ref = -2 * torch.rand(2, 8, 5, generator=g, dtype=torch.float64)
    rewards = (torch.rand(8, generator=g) < 0.5).double()
    theirs = trl_peer.rloo_advantages(rewards, 4, old_log_probs=old, ref_log_probs=ref, beta=0.1)
    ours = get("rloo").advantages(rewards - 0.1 * (old - ref).sum(-1), 4)
    torch.testing.assert_close(ours, theirs.to(ours), rtol=1e-6, atol=1e-6)  # TRL makes float32 of the rewards


# -- completeness ------------------------------------------------------------------------------------------------------


def registered(library: str, option: str) -> set[str]:
    return {item.value for item in REGISTRIES if item.library == library and item.option == option}


def compared_with(function: Any, name: str) -> set[str]:
    """The texts with which a function compares a name or an attribute of that name."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function)))):
        if isinstance(node, ast.Compare) and name in (getattr(node.left, "attr", None), getattr(node.left, "id", None)):
            for value in node.comparators:
                items = value.elts if isinstance(value, ast.List | ast.Tuple) else [value]
                found |= {item.value for item in items if isinstance(item, ast.Constant)}
    return found


def test_every_loss_of_trl_is_mapped() -> None:
    owner = trl_peer.trainer("trl.trainer.grpo_trainer", "GRPOTrainer")
    assert registered("TRL", "GRPOConfig.loss_type") == compared_with(owner._compute_loss, "loss_type")
    level = "importance_sampling_level"
    assert registered("TRL", f"GRPOConfig.{level}") == compared_with(owner._compute_loss, level)
    mode = "vllm_importance_sampling_mode"
    assert registered("TRL", f"GRPOConfig.{mode}") == compared_with(owner._generate_and_score_completions, mode)
    config = trl_peer.trainer("trl.trainer.sft_config", "SFTConfig")
    choices = config.__dataclass_fields__["loss_type"].metadata["choices"]
    assert registered("TRL", "SFTConfig.loss_type") == set(choices)


def test_every_loss_of_verl_is_mapped() -> None:
    core = verl_peer.core()
    assert registered("verl", "actor.policy_loss.loss_mode") == set(core.POLICY_LOSS_REGISTRY)
    names = compared_with(core.kl_penalty_forward, "kl_penalty")
    plain = {name for name in registered("verl", "actor.kl_loss_type") if not name.endswith("+")}
    assert plain == names
    distillation = verl_peer.module("verl.trainer.distillation.losses")
    assert registered("verl", "distillation_loss.loss_mode") == set(distillation.DISTILLATION_LOSS_REGISTRY)
    helper = verl_peer.module("verl.trainer.ppo.rollout_corr_helper")
    with pytest.raises(ValueError, match="Invalid rollout_is") as refused:
        helper.compute_rollout_correction_weights(torch.zeros(1, 1), torch.ones(1, 1), "group")
    for level in registered("verl", "algorithm.rollout_correction.rollout_is"):
        assert f"'{level}'" in str(refused.value)


def test_what_the_registries_name_exists() -> None:
    for item in REGISTRIES:
        assert item.ours or item.note, item
        field, sign, value = item.ours.partition(" = ")
        if sign:
            assert value.endswith("…") or value in FIELDS[field].choices, item
        elif item.ours:
            assert item.ours in objectives.names(), item
