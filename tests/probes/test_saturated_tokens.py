"""Weights of tokens from 1 − π = 1e-16 to 0.5: each is right within its tolerance or missing, by type and route."""

from __future__ import annotations

import math
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import analysis
from analysis import RecordSpec
from analysis.probes.logit_gradients import Measured, scalar_part
from analysis.probes.weight_accuracy import FLOAT16_GAP, FULL, FUSED, FUSED_GAP, FUSED_HALF, HALF, UNDERFLOW_GAP
from analysis.token_stats import token_statistics
from tests.probes.causal_lms import small_lm

V = 1000
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "log_softmax": lambda z, y: z.log_softmax(-1).gather(-1, y[:, None])[:, 0],
    "cross_entropy": lambda z, y: -torch.nn.functional.cross_entropy(z, y, reduction="none"),
    "softmax": lambda z, y: z.softmax(-1).gather(-1, y[:, None])[:, 0].log(),
    "logsumexp": lambda z, y: z.gather(-1, y[:, None])[:, 0] - z.logsumexp(-1),
}
WAYS = {  # type of the logits, type that the loss is worked out in
    "float64": (torch.float64, torch.float64),
    "float64, loss in float32": (torch.float64, torch.float32),
    "float32": (torch.float32, torch.float32),
    "float32, loss in bfloat16": (torch.float32, torch.bfloat16),
    "float32, loss in float16": (torch.float32, torch.float16),
    "bfloat16, loss in float32": (torch.bfloat16, torch.float32),
    "bfloat16": (torch.bfloat16, torch.bfloat16),
    "float16, loss in float32": (torch.float16, torch.float32),
    "float16": (torch.float16, torch.float16),
}


def confident_rows(dtype: torch.dtype, flat: bool) -> tuple[Tensor, Tensor, Tensor]:
    """(logits, tokens, weights): 1 − π from 1e-16 to 0.5; the rest is flat, or nearly all on one token."""
    generator = torch.Generator().manual_seed(0)
    gaps = torch.tensor([0.5, 0.3, 0.1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-10, 1e-12, 1e-14, 1e-16])
    gaps = gaps.double().repeat(4)
    n = len(gaps)
    y = torch.randint(V, (n,), generator=generator)
    z = torch.randn(n, V, generator=generator, dtype=torch.float64)
    if not flat:
        z[torch.arange(n), (y + 1) % V] = 12.0
    z.scatter_(1, y[:, None], -torch.inf)
    z.scatter_(1, y[:, None], (z.logsumexp(-1) + (1 - gaps).log() - gaps.log())[:, None])
    w = torch.randn(n, generator=generator, dtype=torch.float64).sign() * torch.rand(n, generator=generator).add(0.1)
    w[::7] = 0
    return z.to(dtype), y, w.double()


def measured(way: str, loss: str, *, flat: bool = True, temperature: float = 1.0, scale: float = 1.0):
    dtype, inner = WAYS[way]
    z, y, w = confident_rows(dtype, flat)
    z.requires_grad_()
    log_probs = LOSSES[loss]((z / temperature).to(inner), y)
    (-(log_probs.double() * w * scale)[w != 0]).sum().backward()
    stats = token_statistics(z.detach(), y, temperature=temperature)
    found = scalar_part(z.detach(), z.grad, y, stats, torch.arange(len(y)), temperature=temperature)
    return found, scale * w, stats.one_minus_prob


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("way", WAYS)
def test_every_weight_is_right_or_missing(way: str, loss: str, temperature: float, flat: bool) -> None:
    found, w, rest = measured(way, loss, flat=flat, temperature=temperature)
    known = ~found.unmeasured
    half = "16" in way
    tolerance = HALF if half else FULL
    wrong = known & ((found.weight - w).abs() > tolerance * w.abs())
    assert not wrong.any(), [(rest[i].item(), found.weight[i].item(), w[i].item()) for i in wrong.nonzero()[:, 0]]
    assert found.weight[~known].isnan().all()
    assert found.residual[~known].isnan().all()
    assert (found.residual[known & (w != 0)] < 2 * tolerance).all()
    if not half:
        assert known.all()
    else:
        assert known[(rest > 0.3) & (w != 0)].all() or loss == "logsumexp"  # rounds log Σ e^z by up to 6%


@pytest.mark.parametrize("loss", ["log_softmax", "cross_entropy"])
def test_bfloat16_logits_with_a_loss_in_float32_lose_nothing(loss: str) -> None:
    found, _, _ = measured("bfloat16, loss in float32", loss)
    assert not found.unmeasured.any()


def test_a_softmax_in_half_precision_hides_confident_tokens() -> None:
    """π_y rounds to 1: the own entry is 0, and the other entries alone would give half of the weight, or twice it."""
    found, w, rest = measured("bfloat16", "softmax")
    between = (rest < 2e-2) & (rest > 5e-5)
    assert found.unmeasured[between & (w != 0)].all()
    assert not found.unmeasured[w == 0].any()


def one_row(gap: float, dtype: torch.dtype = torch.float32, weight: float = 1.0) -> Measured:
    z = torch.zeros(2, V, dtype=torch.float64)
    z[0, 3] = gap
    z = z.to(dtype).requires_grad_()
    y = torch.tensor([3, 3])
    log_probs = z.float().log_softmax(-1)[:, 3]
    (-(weight * log_probs[0] + 2.0 * log_probs[1])).backward()
    return scalar_part(z.detach(), z.grad, y, token_statistics(z.detach(), y), torch.arange(2))


@pytest.mark.parametrize(("gap", "unmeasured"), [(30.0, False), (80.0, False), (102.0, True), (150.0, True)])
def test_underflow(gap: float, unmeasured: bool) -> None:
    """Below 1 − π = 1e-37 the entries of the others are subnormal or 0: a weight of 1 is not 0 there, but missing."""
    found = one_row(gap)
    assert ((V - 1) * math.exp(-gap) < UNDERFLOW_GAP) == unmeasured
    assert found.unmeasured.tolist() == [unmeasured, False]
    if not unmeasured:
        assert found.weight[0].item() == pytest.approx(1, rel=FULL)


def test_a_weight_of_zero_is_zero_unless_nothing_could_show() -> None:
    assert one_row(30.0, weight=0.0).weight[0] == 0
    assert one_row(150.0, weight=0.0).unmeasured[0]


def test_gradients_in_float16_underflow_early_and_a_loss_scale_helps() -> None:
    plain, _, rest = measured("float16, loss in float32", "log_softmax")
    scaled, w, _ = measured("float16, loss in float32", "log_softmax", scale=1024.0)
    assert plain.unmeasured[(rest < 1e-8) & (w != 0)].all()
    assert plain.unmeasured[(rest < FLOAT16_GAP) & (w != 0)].double().mean() > 0.5
    assert not plain.unmeasured[(rest > 10 * FLOAT16_GAP) & (w != 0)].any()
    assert scaled.unmeasured.sum() < plain.unmeasured.sum()


@dataclass
class FusedLoss:
    loss: Tensor
    logits: Tensor | None = None


@dataclass
class FusedOutput:
    log_probs: Tensor
    logits: Tensor | None = None


def saturated_lm(dtype: torch.dtype = torch.float32):
    """A model whose greedy tokens are confident to any degree, with its own continuation."""
    model = small_lm("qwen3", dtype=dtype, scale=500.0)
    ids = torch.arange(3, 11)[:, None]
    with torch.no_grad():
        for _ in range(15):
            ids = torch.cat([ids, model(input_ids=ids).logits[:, -1:].argmax(-1)], 1)
    return model, ids


def attached(route: str, kernel: torch.dtype, dtype: torch.dtype = torch.float32):
    """Records of Σ −log π(y) with weight 1, by what the forward pass gives; `kernel` is the type inside of it."""
    model, ids = saturated_lm(dtype)

    def log_probs_of(logits: Tensor) -> Tensor:
        return logits[:, :-1].to(kernel).log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]

    def forward(self, input_ids: Tensor, **_: object) -> FusedLoss | FusedOutput:
        hidden = self.base_model(input_ids).last_hidden_state
        log_probs = log_probs_of(self.lm_head(hidden))
        return FusedOutput(log_probs) if route == "log_probs" else FusedLoss(-log_probs.sum())

    if route != "logits":
        model.forward = types.MethodType(forward, model)
    with analysis.attach(model, record=RecordSpec(tokens=1)) as trace:
        output = model(input_ids=ids)
        if route == "logits":
            (-log_probs_of(output.logits).sum()).backward()
        else:
            (output.loss if route == "hidden" else -output.log_probs.sum()).backward()
        trace.step()
        return trace.records()["tokens"], trace


@pytest.mark.parametrize(
    ("route", "kernel"),
    [
        ("logits", torch.float32),
        ("logits", torch.bfloat16),
        ("log_probs", torch.float32),
        ("log_probs", torch.bfloat16),
        ("hidden", torch.float32),
    ],
)
def test_by_route(route: str, kernel: torch.dtype) -> None:
    tokens, trace = attached(route, kernel)
    assert len(tokens) == 8 * 15
    assert tokens["one_minus_prob"].min() < 1e-12
    assert tokens["one_minus_prob"].max() > 0.01
    known = tokens["weight"].notna()
    tolerance = {"logits": HALF if kernel == torch.bfloat16 else FULL, "log_probs": 1e-5, "hidden": FUSED}[route]
    assert tokens["weight"][known].to_numpy() == pytest.approx(1, rel=tolerance)
    assert (~known == tokens["weight"].isna()).all()
    if route == "log_probs" or (route == "logits" and kernel == torch.float32):
        assert known.all()
    assert known[tokens["one_minus_prob"] > 0.2].all() or kernel == torch.bfloat16
    if route == "hidden":
        assert not known[tokens["one_minus_prob"] < FUSED_GAP / 2].any()
        assert known[tokens["one_minus_prob"] > FUSED_GAP].all()
    assert trace.unmeasured == int((~known).sum())
    assert tokens["residual"][~known].isna().all()


def test_a_fused_loss_under_autocast() -> None:
    """Its logits are in bfloat16, which neither states nor head show: confident tokens have no weight."""
    with torch.autocast("cpu", torch.bfloat16):
        tokens, _ = attached("hidden", torch.float32)
    known = tokens["weight"].notna()
    assert tokens["weight"][known].to_numpy() == pytest.approx(1, rel=FUSED_HALF)
    assert not known[tokens["one_minus_prob"] < 1e-6].any()


@pytest.mark.parametrize("route", ["logits", "hidden"])
def test_models_in_half_precision(route: str) -> None:
    tokens, trace = attached(route, torch.float32, torch.bfloat16)
    known = tokens["weight"].notna()
    assert tokens["weight"][known].to_numpy() == pytest.approx(1, rel=FUSED_HALF if route == "hidden" else HALF)
    assert trace.unmeasured == int((~known).sum())
    if route == "logits":
        assert known.all()
    else:
        assert not known[tokens["one_minus_prob"] < 1e-6].any()


def test_what_is_not_measured_is_counted_and_said(tmp_path: Path) -> None:
    model, ids = saturated_lm()
    with analysis.attach(model, out=tmp_path / "mine", record=RecordSpec(tokens=1)) as trace:
        log_probs = model(input_ids=ids).logits[:, :-1].half().log_softmax(-1)
        (-log_probs.gather(-1, ids[:, 1:, None]).sum()).backward()
        trace.step()
        assert f"<th>tokens without a weight</th><td>{trace.unmeasured}</td>" in trace._repr_html_()
    run = analysis.load_trace(tmp_path / "mine", verify=True)
    missing = run.table("tokens")["weight"].isna()
    assert 0 < missing.sum() < len(missing)
    assert run.info["weights"] == {"tokens": len(missing), "unmeasured": int(missing.sum())}
    laws = run.laws()
    assert laws["dentropy"].isna().equals(missing)
    assert laws["squeeze_boundary"].notna().all()
    text = str(run.report())
    assert f"{missing.sum()} of {len(missing)} tokens have no measured weight" in text


def test_a_gradient_that_is_not_finite_is_not_missing() -> None:
    model, ids = saturated_lm()
    with analysis.attach(model, record=RecordSpec(tokens=1)) as trace:
        log_probs = model(input_ids=ids).logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
        (log_probs * torch.where(torch.arange(15) == 3, torch.nan, 1.0)).sum().backward()
        trace.step()
    assert trace.unmeasured == 0
    tokens = trace._tables._rows["tokens"][0].to_pydict()
    assert sum(w is not None and np.isnan(w) for w in tokens["weight"]) == 8
    assert sum(r is not None and np.isnan(r) for r in tokens["residual"]) == 8
