"""Weights in closed form against autograd of the loss, and what the objectives share in expectation."""

from __future__ import annotations

import itertools

import pytest
import torch

from analysis import objectives
from analysis.laws import logit_gradient
from analysis.objectives import TokenBatch
from tests.reference import advantages_slow

NAMES = ("psr", "nsr", "w-reinforce", "reinforce", "grpo")
FORMS = ("ratio", "probability", "log")
CLIPS = (
    {},
    {"clip_low": 0.2},
    {"clip_high": 0.28},
    {"clip_low": 0.2, "clip_high": 0.2},
    {"clip_low": 0.2, "clip_high": 0.2, "dual_clip": 3.0},
    {"dual_clip": 1.5},
    {"clip_low": 0.0, "clip_high": 0.0},
    {"clip_low": 1.0},
)
NORMALISATIONS = ("none", "group_mean", "group_mean_std", "batch_mean_std")


def get(name: str, **settings: object) -> objectives.Objective:
    given = {"form": "ratio", "lambda_": 0.1 if name == "w-reinforce" else None, **settings}
    return objectives.get(name, **given)


def cases() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """log_probs, old_log_probs (30, 40) and advantages (30,): ratios near 1, far from it and extreme."""
    generator = torch.Generator().manual_seed(0)
    old = -3 * torch.rand(30, 40, generator=generator, dtype=torch.float64) - 1e-3
    spread = torch.tensor([0.01, 0.3, 1.0, 12.0], dtype=torch.float64).repeat(10)
    log_probs = (old + spread * torch.randn(30, 40, generator=generator, dtype=torch.float64)).clamp(max=-1e-12)
    log_probs[:, 0] = old[:, 0]  # the first update of a batch
    old[:, 5], log_probs[:, 5] = -1e-15, -40.0
    old[:, 6], log_probs[:, 6] = -40.0, -1e-15
    advantages = torch.randn(30, generator=generator, dtype=torch.float64)
    advantages[:5] = torch.tensor([1.0, -1.0, 0.1, 0.0, -1e-3])
    return log_probs, old, advantages


@pytest.mark.parametrize(("form", "clips"), [(f, c) for f, c in itertools.product(FORMS, CLIPS) if f != "log" or not c])
def test_weight_is_minus_the_derivative_of_the_loss(form: str, clips: dict[str, float]) -> None:
    log_probs, old, advantages = cases()
    objective = get("reinforce", form=form, **clips)
    leaf = log_probs.clone().requires_grad_()
    (grad,) = torch.autograd.grad(objective.loss(leaf, TokenBatch(leaf.detach(), old, advantages)).sum(), leaf)
    weight, ratio, clip = objective.weights(TokenBatch(log_probs, old, advantages))
    assert ratio is not None
    torch.testing.assert_close(weight, -grad, rtol=1e-12, atol=1e-300)
    torch.testing.assert_close(ratio, torch.exp(log_probs - old))
    # the clip is reported where, and only where, it took the gradient away
    weighted = (advantages != 0)[:, None].expand_as(clip)
    assert torch.equal((clip != 0) & weighted, (grad == 0) & weighted)
    assert not clip[~weighted].any()
    # and on its side
    a = advantages[:, None].expand_as(ratio)
    assert ((ratio < 1) & (a < 0))[clip == -1].all()
    assert (ratio > 1)[clip == 1].all()
    if any(value not in (0, 1) for value in clips.values()):
        assert (clip != 0).any()
        assert (clip == 0).any()
    if "dual_clip" not in clips:
        assert (a > 0)[clip == 1].all()


@pytest.mark.parametrize("form", FORMS)
def test_weight_and_direction_make_the_gradient_of_the_logits(form: str) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(4, 6, 9, generator=generator, dtype=torch.float64)
    tokens = torch.randint(9, (4, 6), generator=generator)
    advantages = torch.tensor([1.0, -1.0, 0.1, 0.0], dtype=torch.float64)

    def log_probs_of(z: torch.Tensor) -> torch.Tensor:
        return torch.log_softmax(z, -1).gather(-1, tokens[..., None]).squeeze(-1)

    old = log_probs_of(logits + 0.3 * torch.randn(logits.shape, generator=generator, dtype=torch.float64))
    clips = {} if form == "log" else {"clip_low": 0.1, "clip_high": 0.1}
    objective = get("reinforce", form=form, **clips)
    leaf = logits.clone().requires_grad_()
    loss = objective.loss(log_probs_of(leaf), TokenBatch(log_probs_of(logits), old, advantages))
    (grad,) = torch.autograd.grad(loss.sum(), leaf)
    weight = objective.weights(TokenBatch(log_probs_of(logits), old, advantages)).weight
    error = (logit_gradient(logits, tokens, weight) + grad).abs().amax(-1)
    assert (error <= 1e-10 * weight.abs().clamp(min=1)).all()


def test_clips_by_hand() -> None:
    ratio = torch.tensor([[0.5, 0.79, 0.81, 1.0, 1.19, 1.21, 3.1]], dtype=torch.float64)
    old = torch.full_like(ratio, 0.3).log()
    log_probs = ratio.log() + old
    clips = {"clip_low": 0.2, "clip_high": 0.2, "dual_clip": 3.0}
    up = get("psr", **clips).weights(TokenBatch(log_probs, old, torch.tensor([1.0])))
    assert up.clip.tolist() == [[0, 0, 0, 0, 0, 1, 1]]
    expected = torch.tensor([[0.5, 0.79, 0.81, 1, 1.19, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(up.weight, expected, rtol=1e-12, atol=0)
    down = get("nsr", **clips).weights(TokenBatch(log_probs, old, torch.tensor([-1.0])))
    assert down.clip.tolist() == [[-1, -1, 0, 0, 0, 0, 1]]
    expected = torch.tensor([[0, 0, 0.81, 1, 1.19, 1.21, 0]], dtype=torch.float64)
    torch.testing.assert_close(-down.weight, expected, rtol=1e-12, atol=0)
    # probability form: π_old times the ratio form, hence the same clip
    eq6 = get("nsr", form="probability", **clips).weights(TokenBatch(log_probs, old, torch.tensor([-1.0])))
    assert torch.equal(eq6.clip, down.clip)
    torch.testing.assert_close(eq6.weight, 0.3 * down.weight)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_clip_takes_the_weight_beyond_its_boundary_on_its_own_side_alone(sign: float) -> None:
    """Zero iff A > 0 and ρ > 1 + high, or A < 0 and ρ < 1 − low or ρ > dual; a ratio at a boundary is still inside."""
    edges = torch.tensor([0.8, 1.28, 1.9], dtype=torch.float64).log()
    low, high, dual = edges.exp().tolist()  # so that 1 − clip_low and 1 + clip_high are ratios that do occur, exactly
    clips = {"clip_low": 1 - low, "clip_high": high - 1, "dual_clip": dual}
    assert (1 - clips["clip_low"], 1 + clips["clip_high"]) == (low, high)
    around = edges[:, None] + torch.tensor([-1e-12, 0.0, 1e-12], dtype=torch.float64)
    log_probs = torch.cat([around.flatten(), torch.tensor([-20.0, 0.0, 5.0], dtype=torch.float64)])[None]
    clipped = [0, 0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 1] if sign > 0 else [1, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 1]
    objective, old = get("reinforce", **clips), torch.zeros_like(log_probs)
    leaf = log_probs.clone().requires_grad_()
    loss = objective.loss(leaf, TokenBatch(log_probs, old, torch.tensor([sign])))
    (grad,) = torch.autograd.grad(loss.sum(), leaf)
    expected = sign * log_probs.exp() * (1 - torch.tensor([clipped], dtype=torch.float64))
    for weight in (objective.weights(TokenBatch(log_probs, old, torch.tensor([sign]))).weight, -grad):
        torch.testing.assert_close(weight, expected, rtol=1e-14, atol=0)


def test_forms_by_hand() -> None:
    log_probs = torch.tensor([[0.25]], dtype=torch.float64).log()
    a = torch.tensor([-2.0])
    for form, weight, loss in (("log", -2.0, 2 * float(log_probs)), ("probability", -0.5, 0.5)):
        objective = get("reinforce", form=form)
        assert objective.weights(TokenBatch(log_probs, None, a)).ratio is None
        assert float(objective.weights(TokenBatch(log_probs, None, a)).weight) == pytest.approx(weight)
        assert float(objective.loss(log_probs, TokenBatch(log_probs.detach(), None, a))) == pytest.approx(loss)
    ratio = get("reinforce").weights(TokenBatch(log_probs, log_probs - 0.5, a))
    assert float(ratio.weight) == pytest.approx(-2 * 2.718281828459045**0.5)


@pytest.mark.parametrize(
    ("name", "how"), [pair for pair in itertools.product(NAMES, NORMALISATIONS) if pair != ("grpo", "none")]
)
def test_advantages_against_the_slow_definition(name: str, how: str) -> None:
    rewards = [1, 0, 0, 1, 1, 1, 1, 1, 0, 0, 0, 0, 1, 0, 0, 0]
    objective = get(name, advantage=how)
    expected = torch.tensor(
        advantages_slow.advantages(name, how, rewards, 4, objective.parameters.get("lambda_")), dtype=torch.float64
    )
    values = objective.advantages(torch.tensor(rewards, dtype=torch.float64), 4)
    torch.testing.assert_close(values, expected, rtol=1e-13, atol=1e-15)
    single = objective.advantages(torch.tensor(rewards, dtype=torch.float32), 4)
    torch.testing.assert_close(single, expected.float(), rtol=1e-6, atol=1e-7)
    if how.startswith("group_"):  # the second and the third group are all correct and all wrong
        assert values[4:12].tolist() == [0.0] * 8
        assert single[4:12].tolist() == [0.0] * 8
    assert torch.equal(objective.advantages(torch.tensor(rewards), 4), single)


def test_equal_rewards_of_a_weight_that_rounds_give_exactly_zero() -> None:
    ones = torch.ones(6, dtype=torch.float64)
    assert float((0.1 * ones[:3]).mean()) != 0.1  # so their deviations from it do not vanish by themselves
    for how in ("group_mean", "group_mean_std", "batch_mean_std"):
        assert get("w-reinforce", advantage=how).advantages(ones, 3).tolist() == [0.0] * 6


def test_defaults_and_selection() -> None:
    assert {name: get(name).advantage for name in NAMES} == {
        "psr": "none",
        "nsr": "none",
        "w-reinforce": "none",
        "reinforce": "none",
        "grpo": "group_mean_std",
    }
    rewards = torch.tensor([1.0, 0.0, 1.0, 1.0])
    for name, rows in {"psr": [1, 0, 1, 1], "nsr": [0, 1, 0, 0], "reinforce": [1] * 4, "grpo": [1, 1, 0, 0]}.items():
        objective = get(name)
        assert objective.selected(objective.advantages(rewards, 2)).tolist() == [bool(r) for r in rows]
    assert "old_log_probs" not in get("w-reinforce", form="log").needs()
    assert "old_log_probs" in get("psr").needs()
    assert "old_log_probs" in get("psr", form="probability", clip_high=0.2).needs()


def test_advantages_spread_over_positions() -> None:
    log_probs, old, advantages = cases()
    objective = get("reinforce", clip_low=0.2)
    base = objective.weights(TokenBatch(log_probs, old, advantages)).weight
    for shape in (advantages[:, None], advantages[:, None].expand(30, 40)):
        assert torch.equal(objective.weights(TokenBatch(log_probs, old, shape)).weight, base)
    # one per row, not one per position
    square = objective.weights(TokenBatch(log_probs[:, :30], old[:, :30], advantages))
    assert torch.equal(square.weight, base[:, :30])
    flat = objective.weights(TokenBatch(log_probs[:, 3], old[:, 3], advantages))
    assert torch.equal(flat.weight, base[:, 3])


def test_loss_is_differentiable_in_the_new_log_probs_alone() -> None:
    log_probs, old, advantages = (t.clone().requires_grad_() for t in cases())
    for form in ("ratio", "probability"):
        objective = get("reinforce", form=form, clip_low=0.2, clip_high=0.2)
        loss = objective.loss(log_probs, TokenBatch(log_probs.detach(), old, advantages)).sum()
        grads = torch.autograd.grad(loss, (log_probs, old, advantages), allow_unused=True)
        assert [g is not None for g in grads] == [True, False, False]
        assert not objective.weights(TokenBatch(log_probs, old, advantages)).weight.requires_grad


def test_same_log_probs_give_ratio_one_and_no_clip() -> None:
    log_probs = cases()[0].float()
    objective = get("grpo", clip_low=0.0, clip_high=0.0, dual_clip=1.1)
    weight, ratio, clip = objective.weights(TokenBatch(log_probs, log_probs.detach(), cases()[2]))
    assert ratio is not None
    assert (ratio == 1).all()
    assert not clip.any()
    assert torch.equal(weight, cases()[2].float()[:, None].expand_as(weight))


def test_bfloat16_weights_against_float64() -> None:
    log_probs, old, advantages = (t[:, :4] if t.ndim == 2 else t for t in cases())
    log_probs, old = log_probs.bfloat16(), old.bfloat16()
    objective = get("reinforce")
    weight = objective.weights(TokenBatch(log_probs, old, advantages)).weight
    exact = objective.weights(TokenBatch(log_probs.double(), old.double(), advantages.bfloat16().double())).weight
    # the difference of the log-probs and its exponential each round to 2^-9, the former absolutely on its own scale
    scale = exact.abs() * (1 + (log_probs.double() - old.double()).abs())
    assert ((weight.double() - exact).abs() <= 3 * 2**-8 * scale).all()


# One context, every token enumerated: Σ_y π_y·w_y·(e_y − π), for a policy with rewarded tokens.
def expected_gradient(name: str, form: str, logits: torch.Tensor, rewards: torch.Tensor) -> torch.Tensor:
    vocab = len(logits)
    log_probs = torch.log_softmax(logits, -1)[:, None]
    objective = get(name, form=form)
    weight = objective.weights(TokenBatch(log_probs, log_probs, objective.advantages(rewards, 1))).weight[:, 0]
    directions = logit_gradient(logits.repeat(vocab, 1), torch.arange(vocab), weight)
    return torch.softmax(logits, -1) @ directions


def test_psr_and_nsr_are_the_same_update_in_expectation() -> None:
    generator = torch.Generator().manual_seed(4)
    for _ in range(5):
        logits = 2 * torch.randn(8, generator=generator, dtype=torch.float64)
        rewards = (torch.rand(8, generator=generator) < 0.4).double()
        leaf = logits.clone().requires_grad_()
        (grad_p,) = torch.autograd.grad((torch.softmax(leaf, -1) * rewards).sum(), leaf)
        (grad_c,) = torch.autograd.grad(torch.softmax(leaf, -1).square().sum(), leaf)
        for form in ("ratio", "log"):
            for name, scale in (("psr", 1.0), ("nsr", 1.0), ("reinforce", 2.0), ("w-reinforce", 1.1)):
                error = (expected_gradient(name, form, logits, rewards) - scale * grad_p).abs().max()
                assert error <= 1e-15, (name, form)
        # Eq. 6: PSR = NSR + ½∇c
        psr, nsr = (expected_gradient(name, "probability", logits, rewards) for name in ("psr", "nsr"))
        assert (psr - nsr - grad_c / 2).abs().max() <= 1e-15
        assert (psr - nsr).abs().max() > 1e-3


def test_bad_input_is_named() -> None:
    objective, x = get("reinforce"), torch.zeros(3, 4)
    a = torch.ones(3)
    methods = (objective.weights, lambda batch: objective.loss(batch.log_probs, batch))
    nan = torch.zeros_like(x).index_fill(1, torch.tensor(2), torch.nan)
    with pytest.raises(ValueError, match=r"old_log_probs: expected finite numbers, got nan at index \(0, 2\)"):
        objective.weights(TokenBatch(x, nan, a))
    with pytest.raises(ValueError, match=r"log_probs: expected finite numbers, got nan at index \(0, 2\)"):
        objective.weights(TokenBatch(nan, x, a))
    with pytest.raises(ValueError, match="advantages: expected finite numbers, got nan at index 2"):
        objective.weights(TokenBatch(x, x, torch.tensor([1.0, 0.0, torch.nan])))
    assert torch.isfinite(objective.weights(TokenBatch(x, nan, a, ~torch.isnan(nan))).weight[:, :2]).all()
    for method in methods:
        with pytest.raises(ValueError, match="advantages: reinforce-ratio needs them, got None; make them with"):
            method(TokenBatch(x, x))
        with pytest.raises(ValueError, match=r"old_log_probs: reinforce-ratio in form ratio .* needs them, got None"):
            method(TokenBatch(x, None, a))
        with pytest.raises(ValueError, match=r"old_log_probs: expected the shape of log_probs, \(3, 4\), got \(3, 1\)"):
            method(TokenBatch(x, x[:, :1], a))
        with pytest.raises(ValueError, match=r"advantages: expected one for each row, shape \(3,\).*got \(4,\)"):
            method(TokenBatch(x, x, torch.ones(4)))
        with pytest.raises(ValueError, match=r"advantages: expected one for each row.*got \(3, 4, 1\)"):
            method(TokenBatch(x, x, torch.ones(3, 4, 1)))
    with pytest.raises(ValueError, match=r"rewards: expected shape \(n,\) with n a multiple of .* 2, got \(3,\)"):
        objective.advantages(a, 2)
    with pytest.raises(ValueError, match="rewards: expected finite numbers, got nan at index 1"):
        objective.advantages(torch.tensor([1.0, torch.nan]), 2)
    with pytest.raises(ValueError, match=r"rollout.group_size: grpo with advantage group_mean_std .*got 1"):
        get("grpo").advantages(a, 1)
    with pytest.raises(ValueError, match="advantages: batch_mean_std needs at least 2 responses to compare, got 1"):
        get("psr", advantage="batch_mean_std").advantages(torch.ones(1), 1)
