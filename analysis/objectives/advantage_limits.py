"""Advantages in an infinite group: of a wrong and of a correct response, given the success probability of the prompt.

With p that probability, they are the limits of what `advantages` and `group_advantages` compute where rewards are 0 and
1. A normalisation over the batch, lengths and ranks have no such limit of the prompt alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import UsageError
from .advantages import STD_EPSILON, prompt_weight, signed_value
from .definition import Entry
from .rules import compares

__all__ = ["limits"]

Parameters = Mapping[str, Any]

_NO_LIMIT = {
    "unlikely": "ranks the responses of a group; in expectation there is none",
    "unlikely-paper": "ranks the responses of a group; in expectation there is none",
    "length_mean": "weighs the responses of a group by their lengths; in expectation it knows none",
    "token_baseline": "has a baseline for each position; in expectation it knows none",
    "greedy": "subtracts the reward of a greedy response, which the success probability does not tell",
    "decoupled": "normalises several rewards, of which there is one",
    "best_of_group": "rewards the best of a finite group; in an infinite one it is never alone",
    "pass_at_k_full": "splits a finite group into sets",
}


def limits(entry: Entry, p: Parameters, success: Tensor) -> Tensor:
    """(…, 2), A of a wrong response, then of a correct one; as `Objective.limit_advantages`.

    Raises UsageError for an objective whose A depends on more than the prompt's own rewards.
    """
    value, how = entry.value, p.get("advantage", "none")
    if value in _NO_LIMIT:
        raise UsageError(f"objective: {entry.name} {_NO_LIMIT[value]}")
    if "batch" in compares(entry, p):
        raise UsageError(
            f"objective: {entry.name} normalises over a batch, so that the advantages of a prompt depend on the others"
        )
    if value == "nft":
        weight = prompt_weight(p["prompt_weight"], success)
        return torch.stack([-weight, weight], -1)
    if value == "oreal":
        return torch.stack([-p["negative_weight"] * success, torch.full_like(success, p["positive_weight"])], -1)
    if value in _LIMITS:
        return torch.stack(_LIMITS[value](success, p), -1)
    wrong_value, correct_value = signed_value(value, torch.tensor([0.0, 1.0], dtype=success.dtype), p)
    pair = torch.stack([wrong_value.expand_as(success), correct_value.expand_as(success)], -1)
    if how == "none":
        return pair
    if how == "constant":
        return pair - p["baseline"]
    pair = pair - ((1 - success) * wrong_value + success * correct_value)[..., None]
    if how != "group_mean_std":
        return pair
    std = (correct_value - wrong_value).abs() * (success * (1 - success)).sqrt()
    return pair / (std + STD_EPSILON)[..., None]


def _maxrl(success: Tensor, p: Parameters) -> list[Tensor]:
    known = success > 0
    return [torch.where(known, -1.0, 0.0).to(success), torch.where(known, (1 - success) / success, 0.0)]


def _winner(success: Tensor, p: Parameters) -> list[Tensor]:
    return [torch.zeros_like(success), 1 - success]


def _quantile(success: Tensor, p: Parameters) -> list[Tensor]:
    """Both interpolations have the limit of the step: the K-quantile is 0 where 1 − p ≥ K."""
    std = (success * (1 - success)).sqrt() + STD_EPSILON
    size = torch.ones_like(success) if p["divide_by"] == "none" else 1 / std
    size = torch.where((success > 0) & (success < 1), size, 0.0)
    hard = 1 - success >= p["quantile"]
    return [torch.where(hard, 0.0, -size), torch.where(hard, size, 0.0)]


def _pass_at_k(success: Tensor, p: Parameters) -> list[Tensor]:
    others = (1 - success) ** (p["k"] - 1)
    failing = others * (1 - success)
    sigma = (failing * (1 - failing)).sqrt() + STD_EPSILON
    return [(failing - others) / sigma, failing / sigma]


def _offset(success: Tensor, p: Parameters) -> list[Tensor]:
    return [-success - p["baseline_offset"], 1 - success - p["baseline_offset"]]


def _oreal_code(success: Tensor, p: Parameters) -> list[Tensor]:
    return [-2 * p["negative_weight"] * success, 2 * p["positive_weight"] * (1 - success)]


_LIMITS = {
    "maxrl": _maxrl,
    "winner": _winner,
    "quantile": _quantile,
    "pass_at_k": _pass_at_k,
    "offset": _offset,
    "oreal_code": _oreal_code,
}
