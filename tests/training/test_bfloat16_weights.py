"""Weights in bfloat16: what stays in float32, that small steps are not lost, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from analysis import UsageError
from analysis.recipes import Recipe
from analysis.recipes.fields import OptimizerFields, RecordFields
from analysis.records import digest, load_trace
from analysis.training.loop import Loop
from analysis.training.master_weights import MasterWeights
from analysis.training.optimizer import make_optimizer
from analysis.training.record_rows import pass_statistics
from analysis.training.step_targets import StepTargets
from tests.training.naive_update import make_config, make_updater, random_batch, random_policy
from tests.training.test_resume_state import NAMED, config_of, killed_after, model

__all__ = ["model"]

ROWS = torch.arange(16)
RATE = 1e-6


def updater_of(dtype: torch.dtype, steps: int = 1, **update: Any) -> Any:
    """After some AdamW updates at a usual learning rate of the same float32 weights, rounded to `dtype` or not."""
    policy = random_policy()
    policy.model.float()
    with torch.no_grad():
        for parameter in policy.model.parameters():  # of the size that pretrained weights have
            parameter.mul_(0.05)
    config = make_config(objective={"name": "reinforce"}, update=update, optimizer={"name": "adamw", "lr": RATE})
    copies = MasterWeights(list(policy.model.parameters())) if dtype == torch.bfloat16 else None
    policy.model.to(dtype)
    updater = make_updater(config, policy)
    updater._masters = copies
    if copies is not None:
        updater.optimizer = make_optimizer(copies.values, OptimizerFields(name="adamw", lr=RATE))
    batch = random_batch(updater.objective)
    start = [p.detach().float().clone() for p in (copies.values if copies else policy.model.parameters())]
    for step in range(steps):
        result = updater.apply(batch, StepTargets.on_policy(batch), ROWS, None, f"update {step}")
    return updater, copies, start, result


@pytest.mark.parametrize("update", [{}, {"micro_batch": 3}, {"micro_batch_tokens": 30, "gradient_checkpointing": True}])
def test_everything_but_the_weights_is_float32(update: dict[str, Any]) -> None:
    updater, copies, _, result = updater_of(torch.bfloat16, **update)
    assert {p.dtype for p in updater.parameters} == {torch.bfloat16}
    assert {value.dtype for value in copies.values} == {torch.float32}
    for state in updater.optimizer.state.values():
        assert state["exp_avg"].dtype == state["exp_avg_sq"].dtype == torch.float32
    for one in result.passes:
        values = (one.log_probs, one.logits, one.weights, one.old_log_probs, one.advantages)
        assert {value.dtype for value in values} == {torch.float32}
        assert pass_statistics(one, RecordFields()).entropy.dtype == torch.float32
    assert {g.dtype for gradients in result.gradients.values() for g in gradients} == {torch.float32}
    for parameter, value in zip(updater.parameters, copies.values, strict=True):
        assert torch.equal(parameter, value.bfloat16())


def test_the_gradient_is_that_of_float32_to_the_rounding_of_bfloat16() -> None:
    (_, _, _, low), (_, _, _, high) = (updater_of(dtype) for dtype in (torch.bfloat16, torch.float32))
    for name, expected in high.gradients.items():
        a, b = (torch.cat([g.flatten() for g in r.gradients[name]]) for r in (low, high))
        # 2^-9 a rounding, some tens of roundings deep, on random weights
        assert (a - b).norm() / b.norm() < 0.03, name
        assert expected


def test_small_steps_add_up_in_the_copies_and_vanish_without_them() -> None:
    """Steps of 1e-6 on weights of 0.02: bfloat16 numbers there are 1e-4 apart."""
    steps = 30
    updater, copies, start, result = updater_of(torch.bfloat16, steps)
    pairs = zip(copies.values, start, strict=True)
    moved = torch.cat([(value.detach() - before).abs().flatten() for value, before in pairs])
    _, _, start_high, _ = updater_of(torch.float32, steps)
    high = updater_of(torch.float32, steps)[0]
    expected = torch.cat([(p - b).abs().flatten() for p, b in zip(high.parameters, start_high, strict=True)])
    assert moved.mean().item() == pytest.approx(expected.mean().item(), rel=0.05)
    weights = [torch.nn.Parameter(value.bfloat16()) for value in start]
    begin = [weight.detach().clone() for weight in weights]
    plain = torch.optim.AdamW(weights, lr=RATE, weight_decay=0.0)
    for _ in range(steps):
        for weight, *gradients in zip(weights, *result.gradients.values(), strict=True):
            weight.grad = sum(gradients, torch.zeros_like(gradients[0])).bfloat16()
        plain.step()
    lost = torch.cat([(w.detach() == b).flatten() for w, b in zip(weights, begin, strict=True)]).float().mean()
    assert lost > 0.85  # of all weights; those that moved are near 0
    assert updater.parameters[0].dtype == torch.bfloat16


BFLOAT16 = {"policy.dtype": "bfloat16", "record.contexts": 0}


@pytest.mark.parametrize("kl", [0.0, 0.1])
def test_a_run_and_its_resumption(model: Path, tmp_path: Path, kl: float) -> None:
    config = config_of(model, **BFLOAT16, **{"objective.kl_coef": kl, "record.checkpoint": "final", "steps": 4})
    whole = Loop(config, tmp_path / "whole", **NAMED)
    assert whole.run() == "complete"
    info = load_trace(tmp_path / "whole").info
    assert info["dtype"] == "bfloat16"
    killed_after(config, tmp_path / "parts", 2)
    resumed = Loop(config, tmp_path / "parts", resume=True, **NAMED)
    assert resumed.masters is not None
    assert all(value.dtype == torch.float32 for value in resumed.masters.values)
    rounded = [torch.equal(value, value.bfloat16().float()) for value in resumed.masters.values]
    assert not all(rounded)  # the copies themselves were stored
    assert resumed.run() == "complete"
    assert digest(load_trace(tmp_path / "parts")) == digest(load_trace(tmp_path / "whole"))
    from transformers import AutoModelForCausalLM

    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "parts" / "checkpoints" / "final", dtype="auto")
    assert saved.dtype == torch.bfloat16
    assert info["base_sha256"] == load_trace(tmp_path / "parts").info["base_sha256"]


def test_the_base_is_known_by_its_float32_weights(model: Path, tmp_path: Path) -> None:
    hashes = set()
    for dtype in ("float32", "bfloat16"):
        config = config_of(model, **BFLOAT16 | {"policy.dtype": dtype, "steps": 0})
        Loop(config, tmp_path / dtype, **NAMED)
        hashes.add(load_trace(tmp_path / dtype).info["base_sha256"])
    assert len(hashes) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"record.contexts": 8}, r'policy.dtype = "bfloat16" with record.contexts = 8: what one update changes'),
        ({"record.noise_every": 1}, r'policy.dtype = "bfloat16" with record.noise_every = 1: exact gradients'),
        ({"update.autocast": "bfloat16"}, r'policy.dtype = "bfloat16" with update.autocast = "bfloat16": all matrix'),
        ({"rollout.dtype": "float32"}, r'policy.dtype = "bfloat16" with rollout.dtype = "float32": the policy samples'),
        (
            {"update.estimator": "exact"},
            r'policy.dtype = "bfloat16" with update.estimator = "exact": an exact',
        ),
    ],
)
def test_what_does_not_go_with_it(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Recipe.load("tiny").set(**{"grid": "unset", **BFLOAT16, **changes}).expand()
