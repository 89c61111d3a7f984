"""J·Δθ against finite differences in float64, its order, and that nothing of the model is changed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from analysis import UsageError
from analysis.probes import jvp_step
from analysis.probes.jvp import distribution_change, jvp_steps
from tests.probes.conftest import VOCAB, make_logits_fn, make_model

# of different lengths, so that the pass has left padding, a mask and position ids
PROMPTS = [[5, 9, 3], [7], [100, 4, 2, 8]]
RESPONSES = [[11, 12, 13, 14], [3, 50], [60, 61, 62]]


def random_step(model: nn.Module, scale: float, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: scale * torch.randn(value.shape, generator=generator, dtype=value.dtype)
        for name, value in model.named_parameters()
    }


def logits_at(
    model: nn.Module, logits_fn: Any, start: dict[str, Tensor], step: dict[str, Tensor], size: float
) -> Tensor:
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.copy_(start[name] + size * step.get(name, torch.zeros(())))
        out = logits_fn(PROMPTS, RESPONSES)
        for name, value in model.named_parameters():
            value.copy_(start[name])
    return out


@pytest.mark.parametrize("tied", [True, False])
def test_equals_central_differences(tied: bool) -> None:
    model = make_model(torch.float64, tied=tied)
    logits_fn = make_logits_fn(model)
    start = {name: value.detach().clone() for name, value in model.named_parameters()}
    step = random_step(model, 1e-2)
    with torch.no_grad():  # the step starts from `params_before`, not from where the model is now
        for name, value in model.named_parameters():
            value.add_(step[name])
    dlogits = jvp_step(model, lambda: logits_fn(PROMPTS, RESPONSES), start, step)
    h = 1e-4  # error of order h² in theory, of order 1e-16 / h by rounding
    oracle = (logits_at(model, logits_fn, start, step, h) - logits_at(model, logits_fn, start, step, -h)) / (2 * h)
    assert dlogits.shape == (3, 4, VOCAB)
    assert oracle.abs().max() > 0.1
    torch.testing.assert_close(dlogits, oracle, rtol=1e-6, atol=1e-7)


def test_residual_falls_with_the_square_of_the_step(model64: nn.Module) -> None:
    logits_fn = make_logits_fn(model64)
    start = {name: value.detach().clone() for name, value in model64.named_parameters()}
    step = random_step(model64, 1e-2)
    dlogits = jvp_step(model64, lambda: logits_fn(PROMPTS, RESPONSES), start, step)
    before = logits_at(model64, logits_fn, start, step, 0.0)
    sizes = [2.0**-k for k in range(3, 8)]
    residuals = [
        (logits_at(model64, logits_fn, start, step, size) - before - size * dlogits).norm().item() for size in sizes
    ]
    slope = np.polyfit(np.log(sizes), np.log(residuals), 1)[0]
    assert slope == pytest.approx(2, abs=0.1)


def test_parameters_without_a_step_do_not_move(model64: nn.Module) -> None:
    logits_fn = make_logits_fn(model64)
    start = {name: value.detach().clone() for name, value in model64.named_parameters()}
    whole = random_step(model64, 1e-2)
    part = {name: value for name, value in whole.items() if "layers.1" in name}
    rest = {name: value for name, value in whole.items() if name not in part}
    dlogits = [jvp_step(model64, lambda: logits_fn(PROMPTS, RESPONSES), start, s) for s in (whole, part, rest)]
    torch.testing.assert_close(dlogits[0], dlogits[1] + dlogits[2])  # linear in the step
    assert dlogits[1].abs().max() > 1e-3


@pytest.mark.parametrize("tied", [True, False])
def test_several_steps_at_once_are_as_each_alone(tied: bool) -> None:
    model = make_model(torch.float64, tied=tied)
    logits_fn = make_logits_fn(model)
    start = {name: value.detach().clone() for name, value in model.named_parameters()}
    whole = random_step(model, 1e-2)
    steps = [
        whole,
        {name: value for name, value in whole.items() if "layers.1" in name},
        {name: value for name, value in whole.items() if "layers.1" not in name},
        random_step(model, 1e-3, seed=1),
    ]
    with torch.no_grad():  # from `params_before`, not from where the model is now
        for name, value in model.named_parameters():
            value.add_(whole[name])

    def logits() -> Tensor:
        return logits_fn(PROMPTS, RESPONSES)

    together = jvp_steps(model, logits, start, steps)
    alone = torch.stack([jvp_step(model, logits, start, step) for step in steps])
    assert alone[1].abs().max() > 1e-3
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(together[0], together[1] + together[2], rtol=1e-12, atol=1e-13)


def test_the_model_is_left_as_it_was(model: nn.Module) -> None:
    logits_fn = make_logits_fn(model)
    logits_fn(PROMPTS, RESPONSES).square().sum().backward()
    params = {name: (value, value.detach().clone(), value.grad.clone()) for name, value in model.named_parameters()}
    attention = model.config._attn_implementation
    kernels = torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.mem_efficient_sdp_enabled()
    random = torch.random.get_rng_state()
    step = random_step(model, 1e-3)
    before = {n: p[1] for n, p in params.items()}
    jvp_step(model, lambda: logits_fn(PROMPTS, RESPONSES), before, step)
    jvp_steps(model, lambda: logits_fn(PROMPTS, RESPONSES), before, [step, step])
    for name, value in model.named_parameters():
        parameter, data, grad = params[name]
        assert value is parameter
        assert torch.equal(value, data)
        assert torch.equal(value.grad, grad)
        assert value.requires_grad
    assert model.config._attn_implementation == attention == "sdpa"
    assert kernels == (torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.mem_efficient_sdp_enabled())
    assert torch.equal(random, torch.random.get_rng_state())
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_refusals(model: nn.Module) -> None:
    logits_fn = make_logits_fn(model)
    with pytest.raises(UsageError, match=r"step: expected names of parameters of the model, got 'weight'"):
        jvp_step(model, lambda: logits_fn(PROMPTS, RESPONSES), {}, {"weight": torch.zeros(1)})
    with pytest.raises(UsageError, match=r"params_before: expected names of parameters of the model, got 'other'"):
        jvp_step(model, lambda: logits_fn(PROMPTS, RESPONSES), {"other": torch.zeros(1)}, {})
    with pytest.raises(UsageError, match=r"steps: expected names of parameters of the model, got 'weight'"):
        jvp_steps(model, lambda: logits_fn(PROMPTS, RESPONSES), {}, [{}, {"weight": torch.zeros(1)}])
    with pytest.raises(UsageError, match=r"steps: expected at least one, got none"):
        jvp_steps(model, lambda: logits_fn(PROMPTS, RESPONSES), {}, [])

    def no_rule() -> Tensor:
        raise NotImplementedError("Trying to use forward AD with _flash that does not support it\nmore")

    name, value = next(iter(model.named_parameters()))
    with pytest.raises(
        UsageError, match=r"model: expected attention with a forward-mode derivative, got none .*_flash.*'sdpa'"
    ):
        jvp_step(model, no_rule, {}, {name: torch.zeros_like(value)})


@pytest.mark.parametrize("temperature", [1.0, 0.6, 2.0])
def test_change_of_a_distribution_against_autograd(temperature: float) -> None:
    generator = torch.Generator().manual_seed(1)
    logits, dlogits = torch.randn(2, 6, 30, generator=generator, dtype=torch.float64) * 2
    tokens = torch.randint(30, (6,), generator=generator)

    def quantities(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        log_probs = torch.log_softmax(z / temperature, -1)
        entropy = -(log_probs.exp() * log_probs).sum(-1)
        return log_probs[torch.arange(6), tokens], entropy, log_probs.exp()

    _, expected = torch.func.jvp(quantities, (logits,), (dlogits,))
    change = distribution_change(torch.log_softmax(logits / temperature, -1), tokens, dlogits, temperature)
    for got, want in zip((change.log_prob, change.entropy, change.probs), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-14)


def test_masked_tokens_do_not_disturb() -> None:
    log_probs = torch.log_softmax(torch.tensor([[1.0, 0.0, -torch.inf]], dtype=torch.float64), -1)
    change = distribution_change(log_probs, torch.tensor([0]), torch.tensor([[0.1, 0.2, 0.0]]).double(), 1.0)
    assert torch.isfinite(change.entropy).all()
    assert change.probs[0, 2] == 0
