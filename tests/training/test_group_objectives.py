"""Objectives of groups, batches and preferences in the loop: what they read beside rewards, and short runs of each.

The runs are those of the built-in recipe `tiny` with two steps: what they recorded is compared with advantages computed
afresh from the recorded rewards and lengths.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from analysis.errors import UsageError
from analysis.objectives import get
from analysis.recipes import Recipe
from analysis.records import Run, load_trace
from analysis.training.loop import Loop
from toy_models import response_logits, teacher_batch

NAMES: dict[str, dict[str, Any]] = {
    "maxrl": {},
    "qae": {},
    "opo": {},
    "remax": {},
    "gpg": {},
    "optimal-token-baseline": {},
    "pass-at-k": {"objective.k": 2},
    "pass-at-k-full": {"objective.k": 2},
    "pass-at-k-best": {},
    "raft": {},
    "raft-plus-plus": {},
    "wapo": {},
    "reinforce-plus-plus": {},
    "reinforce-plus-plus-baseline": {},
    "kimi-1.5": {},
    "dro": {},
    "dro-token": {},
    "kto": {},
    "apo-zero-unpaired": {},
}
SHORT: dict[str, Any] = {
    "grid": "unset",
    "steps": 2,
    "objective.form": "unset",
    "objective.clip_low": "unset",
    "objective.clip_high": "unset",
    "update.rows": "keep",
    "eval.every": 2,
    "eval.prompts": 1,
    "eval.final_prompts": 1,
    "record.checkpoint": False,
    "record.contexts": 4,
}


def loop_of(folder: Path, name: str, **fields: Any) -> Loop:
    (planned,) = Recipe.load("tiny").set(**(SHORT | {"objective.name": name} | fields)).expand()
    return Loop(planned.config, folder, run_id="r", label="L")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_two_steps_of_the_built_in_recipe(name: str, tmp_path: Path) -> None:
    loop = loop_of(tmp_path / "run", name, **NAMES[name])
    before = [p.detach().clone() for p in loop.policy.model.parameters()]
    assert loop.run() == "complete"
    after = list(loop.policy.model.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(torch.isfinite(p).all() for p in after)
    run = load_trace(tmp_path / "run")
    assert isinstance(run, Run)
    rollouts = run.table("rollouts")
    assert rollouts["step"].nunique() == 2
    assert rollouts["advantage"].notna().all()
    assert run.table("tokens")["weight"].notna().all()
    if name in ("remax", "optimal-token-baseline"):  # of what the records do not have: see below
        return
    for _, step in rollouts.groupby("step"):
        expected = loop.objective.advantages(
            torch.tensor(step["reward"].to_numpy(float)), 4, lengths=torch.tensor(step["length"].to_numpy())
        )
        torch.testing.assert_close(
            torch.tensor(step["advantage"].to_numpy(float)), expected.double(), rtol=1e-5, atol=1e-6
        )


@pytest.mark.slow
def test_remax_subtracts_the_reward_of_the_most_probable_response(tmp_path: Path) -> None:
    """Decoded again, token by token, by the policy before its first update; verifier noise flips every verdict."""
    loop = loop_of(tmp_path / "run", "remax", **{"task.false_positive": 1.0, "task.false_negative": 1.0, "steps": 1})
    policy, task = loop.policy, loop.task
    rewards: dict[tuple[int, ...], float] = {}

    def decode(prompt: Any) -> float:
        response: list[int] = []
        while len(response) < task.max_new_tokens and policy.eos_id not in response:
            batch = teacher_batch([prompt.ids], [[*response, 0]], policy.pad_id, policy.model.device)
            with torch.no_grad():
                response.append(int(response_logits(policy.model, batch)[0, -1].argmax()))
        return 1.0 - float(task.verify(prompt.ids, response).correct)

    seen: list[Any] = []
    collect = loop.updater.apply

    def apply(batch: Any, *arguments: Any, **more: Any) -> Any:
        if not seen:
            rewards.update({tuple(prompt.ids): decode(prompt) for prompt in batch.prompts})
        seen.append(batch)
        return collect(batch, *arguments, **more)

    loop.updater.apply = apply  # type: ignore[method-assign]
    assert loop.run() == "complete"
    batch = seen[0]
    expected = batch.rewards - torch.tensor([rewards[tuple(batch.prompt(i).ids)] for i in range(len(batch))])
    assert torch.equal(batch.advantages, expected)
    assert len(set(rewards.values())) == 2


@pytest.mark.slow
def test_the_optimal_token_baseline_weighs_positions_by_the_sampling_policy(tmp_path: Path) -> None:
    """Against the definition, response by response and position by position, from a pass of the base itself."""
    loop = loop_of(tmp_path / "run", "optimal-token-baseline", **{"policy.dtype": "float64", "steps": 1})
    policy = loop.policy
    seen: list[Any] = []
    collect = loop.updater.apply

    def apply(batch: Any, targets: Any, *arguments: Any, **more: Any) -> Any:
        if not seen:
            owners = [batch.prompt(i).ids for i in range(len(batch))]
            teacher = teacher_batch(owners, batch.responses, policy.pad_id, policy.model.device)
            with torch.no_grad():
                probs = response_logits(policy.model, teacher).softmax(-1)
            one_hot = torch.nn.functional.one_hot(teacher.tokens, probs.shape[-1])
            seen.append((batch, targets, (one_hot - probs).square().sum(-1)))
        return collect(batch, targets, *arguments, **more)

    loop.updater.apply = apply  # type: ignore[method-assign]
    assert loop.run() == "complete"
    batch, targets, squares = seen[0]
    for group in range(len(batch) // 4):
        rows = range(4 * group, 4 * group + 4)
        for i in rows:
            for t in range(int(batch.lengths[i])):
                others = [j for j in rows if batch.lengths[j] > t]
                energy = {j: float(squares[j, : t + 1].sum()) for j in others}
                mean = sum(energy[j] * float(batch.rewards[j]) for j in others) / sum(energy.values())
                expected = float(batch.rewards[i]) - (mean if len(others) > 1 else 0.0)
                assert float(targets.token_advantages[i, t]) == pytest.approx(expected, abs=1e-5)
    assert batch.token_advantages.any(1).tolist() == batch.selected.tolist()


@pytest.mark.slow
def test_kto_compares_with_the_kl_of_the_rollouts(tmp_path: Path) -> None:
    loop = loop_of(tmp_path / "run", "kto", **{"policy.dtype": "float64", "optimizer.lr": 0.01})
    steps: list[Any] = []
    loop.on_update = lambda index, batch, targets, result: steps.append((batch, targets))
    assert loop.run() == "complete"
    for batch, targets in steps[:1] + steps[-1:]:
        gaps = torch.where(batch.mask(), batch.sampling_log_probs.double() - targets.ref_log_probs, 0.0).sum(1)
        assert targets.kl_baseline.unique().numel() == 1
        assert float(targets.kl_baseline[0]) == pytest.approx(max(0.0, float(gaps.mean())), abs=1e-4)
    assert float(steps[0][1].kl_baseline[0]) == 0  # the policy starts at the reference
    assert float(steps[-1][1].kl_baseline[0]) > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["reinforce-plus-plus", "opo"])
def test_the_kl_before_the_baseline_is_part_of_what_lengths_weigh(name: str, tmp_path: Path) -> None:
    """REINFORCE++ as published: rewards less β·Σ k1, then whitened over the tokens of the batch."""
    kl = {"objective.kl_coef": 0.2, "objective.kl_estimator": "k1", "objective.kl_placement": "before_baseline"}
    loop = loop_of(tmp_path / "run", name, **kl, **{"policy.dtype": "float64"})
    steps: list[Any] = []
    loop.on_update = lambda index, batch, targets, result: steps.append((batch, targets))
    assert loop.run() == "complete"
    batch, targets = steps[-1]
    gaps = torch.where(batch.mask(), batch.sampling_log_probs.double() - targets.ref_log_probs, 0.0).sum(1)
    rewards = batch.rewards.double() - 0.2 * gaps
    expected = loop.objective.advantages(rewards, 4, lengths=batch.lengths)
    assert (expected - loop.objective.advantages(batch.rewards.double(), 4, lengths=batch.lengths)).abs().max() > 1e-4
    torch.testing.assert_close(targets.advantages.double(), expected, rtol=1e-3, atol=1e-4)  # sampled in float32


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"objective.name": "gdpo"},
            "gdpo normalises several rewards apart, of which a task has one; use grpo or rloo",
        ),
        ({"objective.name": "orpo"}, "orpo compares pairs of a chosen and a rejected response"),
        ({"objective.name": "pass-at-k", "objective.k": 8}, r"pass-at-k takes 8 of the responses of a prompt .* got 4"),
        ({"objective.name": "pass-at-k"}, "objective.k: pass-at-k needs it, got none"),
        ({"objective.name": "pass-at-k", "objective.k": 2.5}, "objective.k"),
        (
            {"objective.name": "kimi-1.5", "update.rows": "drop"},
            r'update.rows = "drop" with objective.name = "kimi-1.5": its tokens have a weight where the advantage is 0',
        ),
        ({"objective.name": "kimi15", "update.rows": "drop"}, r'update.rows = "drop" with objective.name = "kimi15"'),
        (
            {
                "objective.name": "optimal-token-baseline",
                "objective.kl_placement": "reward",
                "objective.kl_coef": 0.1,
                "objective.kl_estimator": "k1",
            },
            r'objective.kl_placement = "reward" with objective.name = "optimal-token-baseline": its advantages are',
        ),
        ({"objective.name": "maxrl", "critic.enabled": True}, "its group mean is a baseline already"),
        ({"objective.name": "reinforce++", "critic.enabled": True}, "its batch mean is a baseline already"),
    ],
)
def test_what_the_loop_refuses_before_it_starts(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Recipe.load("tiny").set(**(SHORT | fields)).expand()


def test_an_alias_may_have_a_critic() -> None:
    """vanilla is PPO, which learns a baseline."""
    Recipe.load("tiny").set(**(SHORT | {"objective.name": "vanilla", "critic.enabled": True})).expand()
    assert get("vanilla").name == "ppo"
