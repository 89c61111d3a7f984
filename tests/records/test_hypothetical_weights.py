"""Weights assumed of an offline trace, which holds all tokens: against objectives on whole responses, one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from analysis import UsageError, objectives
from analysis.objectives import TokenBatch
from analysis.records import Run, RunWriter, load_trace
from analysis.records.encoding import ragged

LENGTHS = (3, 1, 5, 2, 4, 2)
REWARDS = (1.0, 0.0, 1.0, 1.0, 0.0, 0.0)
GROUPS = (0, 1, 0, 1, 0, 1)  # they do not stand next to each other


def offline(
    folder: Path,
    *,
    rewards: Any = REWARDS,
    groups: Any = GROUPS,
    old: bool = True,
    engine: str = "offline",
    steps: Any = (0,) * 6,
    advantage: Any = None,
) -> Run:
    writer = RunWriter(
        folder,
        run_json={
            "run_id": "a",
            "label": "a",
            "engine": engine,
            "recipe": None,
            "hash": "h",
            "seed": None,
            "temperature": 1.0,
        },
    )
    generator = np.random.default_rng(0)
    n = sum(LENGTHS)
    log_prob = -generator.random(n) * 2 - 0.1
    filler = dict.fromkeys(("one_minus_prob", "entropy", "collision", "direction_norm"), 0.5)
    writer.append(
        "tokens",
        filler
        | {
            "update": -1,
            "step": np.repeat(steps, LENGTHS),
            "rollout": np.repeat(np.arange(6), LENGTHS),
            "position": np.concatenate([np.arange(i) for i in LENGTHS]),
            "epoch": 0,
            "minibatch": 0,
            "token": np.zeros(n, dtype=int),
            "log_prob": log_prob,
            "collision_log_prob": -0.5,
            "advantage": advantage,
            "old_log_prob": log_prob + generator.normal(size=n) * 0.3 if old else None,
        },
    )
    writer.append(
        "rollouts",
        {
            "step": list(steps),
            "rollout": list(range(6)),
            "rank": 0,
            "prompt_id": "p",
            "group": list(groups),
            "response_ids": ragged(np.zeros(n, dtype=np.int32), LENGTHS),
            "response_text": "",
            "length": list(LENGTHS),
            "finished": True,
            "reward": list(rewards),
            "noise_flipped": False,
            "dropped": False,
        },
    )
    writer.commit(6, {})
    run = load_trace(folder)
    assert isinstance(run, Run)
    return run


def one_by_one(run: Run, name: str) -> np.ndarray:
    """The objective on each group padded by itself, its advantages from that group alone."""
    objective = objectives.parse_objective(name)
    tokens, rollouts = run.table("tokens"), run.table("rollouts")
    weight = np.full(len(tokens), np.nan)
    for _, group in rollouts.groupby(["step", "group"]):
        rewards = torch.tensor(group["reward"].to_numpy(float))
        rows = [np.flatnonzero(tokens["rollout"] == r) for r in group["rollout"]]
        width = max(map(len, rows))

        def padded(column: str, rows: Any = rows, width: int = width) -> torch.Tensor:
            values = tokens[column].to_numpy(float)
            filled = [np.pad(values[of], (0, width - len(of)), constant_values=-7.0) for of in rows]
            return torch.tensor(np.stack(filled))

        mask = torch.arange(width) < torch.tensor([len(of) for of in rows])[:, None]
        mean = torch.tensor([tokens["log_prob"].to_numpy(float)[of].mean() for of in rows])
        accuracy = torch.full_like(rewards, rewards.mean().item())
        lengths = torch.tensor(group["length"].to_numpy())
        advantages = objective.advantages(rewards, len(rewards), mean_log_probs=mean, lengths=lengths)
        batch = TokenBatch(padded("log_prob"), padded("old_log_prob"), advantages, mask, rewards, accuracy)
        found = objective.weights(batch).weight
        for i, of in enumerate(rows):
            weight[of] = found[i, : len(of)].numpy()
    return weight


@pytest.mark.parametrize(
    "name",
    [
        "nsr-log",
        "psr-ratio,clip_high=0.2",
        "grpo",
        "rloo",
        "nft",
        "oreal",
        "gspo",
        "topr",
        "sequence-nft",
        "rewarding-unlikely",
        "maxrl",
        "qae",
        "opo",
        "wapo",
        "raft-plus-plus",
        "pass-at-k,k=2",
        "pass-at-k-best",
        "kimi-1.5",
        "dro-token",
        "grpo,off_policy_threshold=0.02",
        "dppo-tv,divergence_high=0.01",
        "gspo-token",
        "gmpo",
        "vespo",
        "dft",
    ],
)
@pytest.mark.parametrize("groups", [GROUPS, (0, 0, 1, 1, 1, 1)])
def test_weights_are_those_of_each_group_by_itself(tmp_path: Path, name: str, groups: Any) -> None:
    run = offline(tmp_path, groups=groups)
    weight = run.laws(objectives.parse_objective(name))["weight"]
    np.testing.assert_allclose(weight, one_by_one(run, name), rtol=1e-6)
    assert np.abs(weight).max() > 0


def test_steps_have_groups_of_their_own(tmp_path: Path) -> None:
    run = offline(tmp_path, groups=(0, 0, 1, 0, 0, 1), steps=(0, 0, 1, 1, 1, 1), rewards=(1, 0, 1, 0, 0, 1))
    np.testing.assert_allclose(run.laws("grpo")["weight"], one_by_one(run, "grpo"), rtol=1e-6)


def test_batch_normalisation_is_over_the_step_whatever_its_groups(tmp_path: Path) -> None:
    objective = objectives.get("reinforce-log", advantage="batch_mean_std")
    values = 2 * np.array(REWARDS) - 1
    expected = pd.Series((values - values.mean()) / values.std(ddof=1)).repeat(LENGTHS)
    for i, groups in enumerate((GROUPS, (0, 0, 1, 1, 1, 1))):
        weight = offline(tmp_path / str(i), groups=groups).laws(objective)["weight"]
        np.testing.assert_allclose(weight, expected, rtol=1e-5)


@pytest.mark.parametrize(
    "text", ["gpg", "rloo,whiten=responses", "reinforce-plus-plus-baseline", "grpo,advantage=group_mean_batch_std"]
)
def test_what_is_normalised_over_the_step_sees_groups_of_every_size(tmp_path: Path, text: str) -> None:
    """Against the formula on all responses at once, each group centred by itself."""
    groups = (0, 0, 1, 1, 1, 1)
    run = offline(tmp_path, groups=groups)
    frame = pd.DataFrame({"group": groups, "reward": REWARDS, "length": LENGTHS})
    by = frame.groupby("group")["reward"]
    centred = frame["reward"] - by.transform("mean")
    if text == "gpg":
        expected = centred * 6 / (centred != 0).sum()
    elif text.startswith("rloo"):
        others = centred * by.transform("size") / (by.transform("size") - 1)
        expected = (others - others.mean()) / (others.std() + 1e-4)
    elif text.startswith("reinforce"):
        tokens = centred.repeat(LENGTHS)
        expected = (centred - tokens.mean()) / np.sqrt(tokens.var() + 1e-8)
    else:
        expected = centred / (frame["reward"].std() + 1e-6)
    objective = objectives.parse_objective(text)
    tokens = run.table("tokens")
    ratio = np.exp(tokens["log_prob"].astype(float) - tokens["old_log_prob"].astype(float)).to_numpy()
    a = expected.repeat(LENGTHS).to_numpy()
    clipped = (a > 0) & (ratio > 1.2) | (a < 0) & (ratio < 0.8)
    weight = a if objective.form == "log" else a * ratio * (~clipped if text.startswith("reinforce") else 1)
    np.testing.assert_allclose(run.laws(objective)["weight"], weight, rtol=1e-5, atol=1e-7)


def test_graded_rewards_where_they_are_compared_and_not_where_verdicts_are_counted(tmp_path: Path) -> None:
    run = offline(tmp_path, rewards=(0.25, 1.0, 0.5, 0.0, 0.0, 1.0))
    for name in ("maxrl", "qae", "opo", "wapo", "pass-at-k-best"):
        np.testing.assert_allclose(run.laws(name)["weight"], one_by_one(run, name), rtol=1e-6)
    for name in ("pass-at-k,k=2", "raft"):
        with pytest.raises(UsageError, match=f"expected rewards 0 and 1 for {name.partition(',')[0]}, got 0.25"):
            run.laws(objectives.parse_objective(name))


def test_what_a_trace_does_not_have(tmp_path: Path) -> None:
    run = offline(tmp_path)
    for name, why in (
        ("remax", "subtracts the reward of each prompt's greedy response"),
        ("gdpo", "normalises several rewards of each response apart"),
        ("kto", "refers to a reference policy"),
        ("dro", "refers to a reference policy"),
        ("orpo", "compares pairs of responses"),
    ):
        with pytest.raises(UsageError, match=f"objective: {name} {why}, which a trace does not have"):
            run.laws(name)
    with pytest.raises(UsageError, match=r"rollout.group_size: pass-at-k takes 4 of the responses .* got 3"):
        run.laws(objectives.get("pass-at-k", k=4))


def test_numbers_that_are_no_verdicts(tmp_path: Path) -> None:
    run = offline(tmp_path, rewards=(-1.0, 1.0, 0.5, 1.0, -1.0, 1.0))
    np.testing.assert_allclose(run.laws("grpo")["weight"], one_by_one(run, "grpo"), rtol=1e-6)
    with pytest.raises(UsageError, match=r"expected rewards 0 and 1 for nsr-log, got -1; give a"):
        run.laws("nsr-log")


def test_advantages_in_place_of_rewards(tmp_path: Path) -> None:
    advantage = np.linspace(-1, 1, sum(LENGTHS))  # one of each token
    run = offline(tmp_path / "a", rewards=[None] * 6, advantage=advantage)
    tokens = run.table("tokens")
    ratio = np.exp(tokens["log_prob"].astype(float) - tokens["old_log_prob"].astype(float))
    np.testing.assert_allclose(run.laws("grpo")["weight"], advantage * ratio, rtol=1e-6)
    np.testing.assert_allclose(run.laws("rloo")["weight"], advantage, rtol=1e-6)
    for name in ("psr-log", "oreal", "gspo", "nft", "rloo,whiten=responses", "maxrl", "reinforce-plus-plus"):
        with pytest.raises(UsageError, match=f"expected rewards for {name.partition(',')[0]}"):
            run.laws(objectives.parse_objective(name))
    with_rewards = offline(tmp_path / "b", advantage=advantage)
    np.testing.assert_allclose(with_rewards.laws("grpo")["weight"], one_by_one(with_rewards, "grpo"), rtol=1e-6)


def test_inputs_that_are_missing(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"expected old log-probs for nsr-ratio, got a trace without them; give the column"
    ):
        offline(tmp_path / "a", old=False).laws("nsr-ratio")
    assert offline(tmp_path / "a2", old=False).laws("nsr-log")["weight"].min() == -1
    with pytest.raises(UsageError, match=r"expected rewards for nsr-log, got rollouts without them; give their column"):
        offline(tmp_path / "b", rewards=[None] * 6).laws("nsr-log")
    with pytest.raises(
        UsageError, match=r"expected several responses in each group for grpo, got one in 1 of 2 groups"
    ):
        offline(tmp_path / "c", groups=(0, 1, 1, 1, 1, 1)).laws("grpo")
    assert len(offline(tmp_path / "d", groups=range(6)).laws("nsr-log")) == sum(LENGTHS)
    with pytest.raises(UsageError, match=r"expected whole responses for gspo, got some of their tokens"):
        offline(tmp_path / "e").laws("gspo", where=[("position", "==", 0)])
    with pytest.raises(UsageError, match=r"expected one that weights each token independently, got gspo"):
        offline(tmp_path / "f", engine="small").laws("gspo")
    with pytest.raises(UsageError, match=r"independently, got grpo, which needs whole"):
        offline(tmp_path / "f2", engine="small").laws(objectives.get("grpo", off_policy_threshold=0.1))
    with pytest.raises(UsageError, match=r"opd learns from a teacher, which a trace does not have"):
        offline(tmp_path / "f3").laws("opd")
    with pytest.raises(UsageError, match=r"grpo corrects for the log-probs of the engine that sampled, which a trace"):
        offline(tmp_path / "f4").laws(objectives.get("grpo", rollout_is="token-mask", rollout_is_high=2.0))
    with pytest.raises(UsageError, match=r"high-entropy chooses tokens over a minibatch, which a trace does not have"):
        offline(tmp_path / "g").laws("high-entropy")
