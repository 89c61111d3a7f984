"""Runs made by hand, with the real writer and schema, that are healthy or have one fault planted.

A policy of 12 tokens with independent random logits at each position; responses are sampled from it, rewarded at
random, and weighted as GRPO without a scale would, divided by the tokens of the batch. A fault changes one of these.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from analysis.laws import dense_statistics
from analysis.records import Run, RunWriter
from analysis.records.rows import (
    PromptRow,
    RolloutRow,
    TokenColumns,
    prompt_rows,
    rollout_rows,
    statistics_columns,
    token_rows,
)

VOCABULARY, GROUPS, SIZE, STEPS = 12, 8, 8, 14
JUMP = 12  # the step from which a fault that comes suddenly is there


def planted_run(
    folder: Path, fault: str = "", *, seed: int = 0, updates: bool = True, recipe: dict[str, Any] | None = None
) -> Run:
    """A run with `fault`, healthy without; without `updates` it has the tables that `attach` writes."""
    writer = RunWriter(
        folder,
        run_json={
            "run_id": folder.name,
            "label": fault or "healthy",
            "engine": "small" if updates else "attach",
            "recipe": recipe,
            "hash": None,
            "seed": None,
            "temperature": 1.0,
        },
    )
    rng = np.random.default_rng(seed)
    prompts = [
        PromptRow(prompt_id=f"p{i}", split="train", text=f"prompt {i}", token_ids=[i, i + 1]) for i in range(GROUPS)
    ]
    writer.append("prompts", prompt_rows(prompts))
    for step in range(STEPS):
        _append_step(writer, rng, step, fault, updates=updates)
    writer.commit(STEPS, {})
    writer.finish("complete")
    return Run(folder)


def _rewards(rng: np.random.Generator, step: int, fault: str) -> np.ndarray:
    success = 0.05 if fault == "reward-drop" and step >= 0.8 * STEPS else 0.45
    rewards = (rng.random((GROUPS, SIZE)) < success).astype(float)
    rewards[:, 0], rewards[:, 1] = 1.0, 0.0  # no group is dead by chance
    if fault == "verifier":
        rewards[:] = 0.0
    if fault == "reward-drop" and step >= 0.8 * STEPS:
        rewards[:, 0] = 0.0
    if fault == "dead-groups":
        rewards[: GROUPS // 2] = rng.integers(0, 2, GROUPS // 2)[:, None]
    return rewards


def _append_step(writer: RunWriter, rng: np.random.Generator, step: int, fault: str, *, updates: bool) -> None:
    rewards = _rewards(rng, step, fault)
    advantages = (rewards - rewards.mean(1, keepdims=True)).reshape(-1)
    count = GROUPS * SIZE
    lengths = rng.integers(4, 25, count)
    total = int(lengths.sum())
    rollout = np.repeat(np.arange(count), lengths)
    position = np.concatenate([np.arange(length) for length in lengths])
    scale = 1.0 if fault != "entropy-drift" else 1.0 + 9.0 * step / STEPS
    log_probs = torch.log_softmax(torch.from_numpy(scale * rng.normal(size=(total, VOCABULARY))), -1)
    sampler = torch.log_softmax(log_probs / 0.7, -1) if fault == "sampler-mismatch" else log_probs
    noise = torch.from_numpy(rng.gumbel(size=sampler.shape))
    token = (sampler + noise).argmax(-1)
    sampling = sampler.gather(1, token[:, None])[:, 0].numpy()
    trainer = log_probs.gather(1, token[:, None])[:, 0].numpy()
    if fault == "duplicates":  # every group repeats its first response
        lengths = np.repeat(lengths[::SIZE], SIZE)
        responses: list[Any] = [
            [int(i)] * int(n) for i, n in zip(np.repeat(np.arange(GROUPS), SIZE), lengths, strict=True)
        ]
    else:
        responses = np.split(token.numpy(), np.cumsum(lengths)[:-1])
    divisor = total if fault != "normaliser" else count * lengths[rollout]
    weight = advantages[rollout] / divisor
    if fault == "prompts":
        weight = np.where(rollout < SIZE, 20 * weight, weight)
    clip = np.zeros(total, dtype=np.int8)
    if fault == "clip":
        clip[(advantages[rollout] < 0) & (rng.random(total) < 0.7)] = -1
        weight = np.where(clip == 0, weight, 0.0)
    finished = rng.random(count) > (0.4 if fault == "truncation" else 0.01)
    writer.append(
        "rollouts",
        rollout_rows(
            [
                RolloutRow(
                    step=step,
                    rollout=i,
                    prompt_id=f"p{i // SIZE}",
                    group=i // SIZE,
                    response_ids=[int(token) for token in responses[i]],
                    length=int(lengths[i]),
                    response_text=" ".join(f"w{int(token)}" for token in responses[i]),
                    finished=bool(finished[i]),
                    reward=float(rewards.reshape(-1)[i]),
                    advantage=float(advantages[i]),
                )
                for i in range(count)
            ]
        ),
    )
    residual = np.full(total, 0.6 if fault == "residual" else 1e-4)
    writer.append(
        "tokens",
        token_rows(
            TokenColumns(
                step=step,
                update=step,
                rollout=rollout,
                position=position,
                token=token.numpy(),
                statistics=statistics_columns(dense_statistics(log_probs, token)),
                sampling_log_prob=sampling if updates or fault == "sampler-mismatch" else None,
                old_log_prob=trainer,
                advantage=advantages[rollout],
                ratio=np.ones(total),
                clip=clip if updates else None,
                weight=weight,
                residual=residual,
            )
        ),
    )
    if updates:
        writer.append("updates", _update(rng, step, fault, advantages[rollout], clip, weight))


def _update(
    rng: np.random.Generator, step: int, fault: str, advantage: np.ndarray, clip: np.ndarray, weight: np.ndarray
) -> dict[str, list[Any]]:
    norm = float(np.exp(0.1 * rng.normal())) * (50.0 if fault == "history" and step >= JUMP else 1.0)
    up, down = advantage > 0, advantage < 0
    row: dict[str, Any] = {
        "update": step,
        "step": step,
        "epoch": 0,
        "minibatch": 0,
        "skipped": fault == "skipped-updates" and step % 4 > 0,
        "rows_pos": 1,
        "rows_neg": 1,
        "tokens_pos": int(up.sum()),
        "tokens_neg": int(down.sum()),
        "lr": 1e-3,
        "grad_norm_total": norm,
        "param_step_norm": 1e-3,
        "weight_sum_pos": float(weight[up].sum()),
        "weight_sum_neg": float(weight[down].sum()),
    }
    for name, chosen in (("pos", up), ("neg", down)):
        for side, value in (("low", -1), ("high", 1)):
            row[f"clip_{side}_{name}"] = float((clip[chosen] == value).mean()) if chosen.any() else None
    return {name: [value] for name, value in row.items()}
