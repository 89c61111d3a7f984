"""Losses of TRL's trainers as their papers and TRL's documentation state them, in float64 and token by token.

Written from the equations, one rollout after the other, for the tests of what `watch` measures. `Microbatch` is a list
of rows; a row's tensors hold its response tokens alone, without padding and without what tools wrote.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass
class Row:
    """One response of T tokens: float64 (T,) tensors; `log_probs` and `entropies` carry the graph."""

    log_probs: Tensor
    entropies: Tensor
    old: Tensor  # log π_old
    ref: Tensor | None
    advantage: float


@dataclass
class Setting:
    """What of a trainer's configuration the loss depends on."""

    loss_type: str
    level: str = "token"
    epsilon_low: float = 0.2
    epsilon_high: float = 0.2
    delta: float | None = None
    beta: float = 0.0
    corrected_kl: bool = False  # whether the KL of a token is multiplied by its ratio
    quantile: float = 1.0
    entropy_coef: float = 0.0
    accumulation: int = 1
    steps_per_generation: int = 1
    tokens_in_generation: int = 0
    max_length: int = 0
    sapo: tuple[float, float] = (1.0, 1.05)  # temperatures of positive and negative advantages
    vespo: tuple[tuple[float, float], tuple[float, float]] = ((2.0, 3.0), (3.0, 2.0))  # (k, λ) of either sign


def clipped(ratio: Tensor, advantage: float, setting: Setting) -> Tensor:
    """−min(ρA, clip(ρ, 1 − ε, 1 + ε_high)·A), and with δ ρ is at most δ in the first (dual clip)."""
    first = ratio if setting.delta is None else torch.clamp(ratio, max=setting.delta)
    second = torch.clamp(ratio, 1 - setting.epsilon_low, 1 + setting.epsilon_high)
    return -torch.minimum(first * advantage, second * advantage)


def token_losses(row: Row, setting: Setting) -> Tensor:
    """(T,) losses of the tokens before they are summed and divided, without the KL."""
    log_ratio = row.log_probs - row.old
    if setting.level == "sequence":
        log_ratio = log_ratio.mean().expand_as(log_ratio)  # ρ = (π(response)/π_old(response))^(1/T), GSPO Eq. 7
    ratio, advantage = log_ratio.exp(), row.advantage
    if setting.loss_type == "cispo":  # −sg(min(ρ, ε_high))·A·log π
        return -ratio.clamp(max=setting.epsilon_high).detach() * advantage * row.log_probs
    if setting.loss_type == "sapo":  # −σ(τ(ρ − 1))·4/τ·A
        tau = setting.sapo[0] if advantage > 0 else setting.sapo[1]
        return -torch.sigmoid(tau * (ratio - 1)) * 4 / tau * advantage
    if setting.loss_type == "vespo":  # −φ(w)·A·log π with φ(w) = e^λ·w^k·e^{−λw}, w the ratio of the whole response
        k, lam = setting.vespo[0] if advantage >= 0 else setting.vespo[1]
        whole = float((row.log_probs - row.old).sum().detach().clamp(math.log(1e-8), 20))
        phi = math.exp(lam + k * whole - lam * math.exp(whole))
        return -phi * advantage * row.log_probs
    return clipped(ratio, advantage, setting)


def loss_of(rows: list[Row], setting: Setting) -> Tensor:
    """The loss of one microbatch, divided as an optimiser step of `accumulation` microbatches needs it."""
    if (
        setting.loss_type == "rloo"
    ):  # the ratio of whole responses, mean over responses (TRL leaves the rest to Trainer)
        losses = [clipped((row.log_probs - row.old).sum().exp(), row.advantage, setting) for row in rows]
        return torch.stack(losses).mean() / setting.accumulation
    kept = [torch.ones_like(row.log_probs) for row in rows]
    if setting.quantile < 1:  # tokens whose entropy is at least the (1 − ρ)-quantile of the microbatch
        everything = torch.cat([row.entropies for row in rows]).detach().float()
        threshold = torch.quantile(everything, 1 - setting.quantile)
        kept = [(row.entropies.detach().float() >= threshold).double() for row in rows]
    if setting.loss_type == "gmpo":
        return gmpo(rows, kept, setting)
    losses = [token_losses(row, setting) * keep for row, keep in zip(rows, kept, strict=True)]
    if setting.beta:
        losses = [loss + setting.beta * kl(row, setting) for loss, row in zip(losses, rows, strict=True)]
    summed = torch.stack([loss.sum() for loss in losses])
    lengths = torch.tensor([max(len(row.log_probs), 1) for row in rows], dtype=torch.float64)
    tokens = sum(len(row.log_probs) for row in rows)
    accumulation = setting.accumulation
    if setting.loss_type in ("grpo", "sapo"):
        loss = (summed / lengths).mean() / accumulation
    elif setting.loss_type == "bnpo":
        loss = summed.sum() / max(tokens, 1) / accumulation
    elif setting.loss_type == "dr_grpo":
        loss = summed.sum() / (len(rows) * setting.max_length) / accumulation
    elif setting.loss_type == "luspo":
        loss = summed.mean() / accumulation
    else:  # dapo, cispo, vespo: tokens of an optimiser step, as the mean over those of the generation batch
        loss = summed.sum() / (setting.tokens_in_generation * accumulation / setting.steps_per_generation)
    if setting.entropy_coef:
        entropies = sum(((row.entropies * keep).sum() for row, keep in zip(rows, kept, strict=True)), torch.zeros(()))
        loss = loss - setting.entropy_coef * entropies / sum(keep.sum() for keep in kept) / accumulation
    return loss


def gmpo(rows: list[Row], kept: list[Tensor], setting: Setting) -> Tensor:
    """−A·exp(mean of log ρ clipped in log space on the side that A pushes to), mean over responses."""
    losses = []
    for row, keep in zip(rows, kept, strict=True):
        log_ratio = row.log_probs - row.old
        inside = log_ratio.clamp(-setting.epsilon_low, setting.epsilon_high)
        bound = torch.minimum if row.advantage > 0 else torch.maximum
        mean = (bound(log_ratio, inside) * keep).sum() / keep.sum().clamp(min=1)
        loss = -mean.exp() * row.advantage
        if setting.beta:
            loss = loss + setting.beta * (k3(row).mean() if len(row.log_probs) else 0.0)
        losses.append(loss)
    return torch.stack(losses).mean() / setting.accumulation


def k3(row: Row) -> Tensor:
    """π_ref/π − log(π_ref/π) − 1."""
    assert row.ref is not None
    gap = row.ref - row.log_probs
    return gap.exp() - gap - 1


def kl(row: Row, setting: Setting) -> Tensor:
    """The KL estimate of each token, with `corrected_kl` weighed for the policy that sampled (DeepSeek-V3.2)."""
    if not setting.corrected_kl:
        return k3(row)
    log_ratio = row.log_probs - row.old
    if setting.level == "sequence":
        log_ratio = log_ratio.mean().expand_as(log_ratio)
    return k3(row) * log_ratio.exp()


def setting_of(trainer: Any) -> Setting:
    """The setting of a trainer of TRL, read from its configuration."""
    args = trainer.args
    kind = {"RLOOTrainer": "rloo", "GMPOTrainer": "gmpo"}.get(type(trainer).__name__)
    rloo = kind == "rloo"
    high = args.epsilon if args.epsilon_high is None else args.epsilon_high
    return Setting(
        loss_type=kind or args.loss_type,
        level="token" if kind else args.importance_sampling_level,
        epsilon_low=args.epsilon,
        epsilon_high=high,
        delta=None if rloo else args.delta,
        beta=0.0 if rloo else args.beta,
        corrected_kl=not rloo and args.use_bias_correction_kl,
        quantile=1.0 if rloo else args.top_entropy_quantile,
        entropy_coef=0.0 if kind else args.entropy_coef,
        accumulation=args.gradient_accumulation_steps,
        steps_per_generation=args.steps_per_generation,
        max_length=args.max_completion_length,
        sapo=(1.0, 1.05) if rloo else (args.sapo_temperature_pos, args.sapo_temperature_neg),
    )
