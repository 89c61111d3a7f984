"""Advantages that compare the responses of a group otherwise than by mean and standard deviation.

r is the reward, q the mean reward of a group of G, c the number of its correct responses. All of them are computed in
float64; a standard deviation is the unbiased one with 1e-6 added, as in `advantages`. Where rewards are 0 and 1:

    name            correct             wrong            source
    maxrl           (1 − q)/q           −1               arXiv 2602.02710; 0 where q = 0
    winner          1 − q               0                arXiv 2606.16154 (WAPO)
    quantile        1/std               0                arXiv 2509.22611 Eqs. 3, 4 (QAE), where q ≤ 1 − K
                    0                   −1/std           … where q > 1 − K
    pass_at_k       (1 − R)/σ           −(1 − R)/σ·q/(1 − q)   arXiv 2508.10751, R = 1 − C(G − c, k)/C(G, k)
    best_of_group   1/std where c = 1   0                arXiv 2503.19595, as verl's grpo_passk has it
    length_mean     1 − b               −b               arXiv 2505.23585 (OPO), b = Σ l·r/Σ l
    greedy          1 − r_greedy        −r_greedy        arXiv 2310.10505 (ReMax)
    offset          1 − q − δV          −q − δV          arXiv 2506.20520 (AsymRE), V the group's mean plus δV
    oreal_code      α·2(1 − q)·G/(G − 1)   −β·2q·G/(G − 1)   the released code of arXiv 2502.06781 (OREAL)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from ..common.whole_numbers import ceiling
from ..errors import UsageError
from .responses import ResponseBatch

__all__ = ["GROUP_ADVANTAGES", "STD_EPSILON", "group_std", "pass_at_k_pair"]

STD_EPSILON = 1e-6

Parameters = Mapping[str, Any]


def group_std(groups: Tensor) -> Tensor:
    """Unbiased standard deviation over the last axis, kept as an axis of length 1."""
    centred = groups - groups.mean(-1, keepdim=True)
    # torch.std, of one pass, takes six times as long over rows this short
    return (centred.square().sum(-1, keepdim=True) / (groups.shape[-1] - 1)).sqrt()


def standardised(groups: Tensor) -> Tensor:
    """Less the mean, over the standard deviation; exactly 0 where all values of a group are equal."""
    return _unless_equal((groups - groups.mean(-1, keepdim=True)) / (group_std(groups) + STD_EPSILON), groups)


def maxrl(groups: Tensor, responses: ResponseBatch, p: Parameters) -> Tensor:
    """(r − q)/q, 0 where q is not positive."""
    mean = groups.mean(-1, keepdim=True)
    return torch.where(mean > 0, _unless_equal(groups - mean, groups) / torch.where(mean > 0, mean, 1.0), 0.0)


def winner(groups: Tensor, responses: ResponseBatch, p: Parameters) -> Tensor:
    """max(r − q, 0)."""
    return _unless_equal(groups - groups.mean(-1, keepdim=True), groups).clamp(min=0)


def quantile(groups: Tensor, responses: ResponseBatch, p: Parameters) -> Tensor:
    """r less the K-quantile of the group, over its standard deviation where `divide_by` says so.

    step: the least reward x whose share of rewards ≤ x reaches K (the paper); linear: between the two nearest
    rewards, as torch.quantile has it (the released code).
    """
    if p["interpolation"] == "linear":
        baseline = groups.quantile(p["quantile"], -1, keepdim=True)
    else:
        size = groups.shape[-1]
        rank = max(1, ceiling(p["quantile"] * size))
        baseline = groups.sort(-1).values[..., rank - 1 : rank]
    return _over_std(groups - baseline, groups, p)


def pass_at_k_pair(correct: int, size: int, k: int) -> tuple[float, float]:
    """Advantage of a wrong and of a correct response in a group of `size` with `correct` correct ones (Pass@k).

    >>> [round(value, 4) for value in pass_at_k_pair(1, 4, 2)]
    [-0.3333, 1.0]
    """
    failing = Fraction(math.comb(size - correct, k), math.comb(size, k))
    sigma = math.sqrt(failing * (1 - failing)) + STD_EPSILON
    others = Fraction(math.comb(size - correct - 1, k - 1), math.comb(size - 1, k - 1)) if correct < size else failing
    return float(failing - others) / sigma, float(failing) / sigma


def pass_at_k(groups: Tensor, responses: ResponseBatch, p: Parameters) -> Tensor:
    """Mean advantage of a response over all subsets of k that contain it, whose reward is the greatest of the k."""
    k, size = int(p["k"]), groups.shape[-1]
    if bool(((groups != 0) & (groups != 1)).any()):
        raise UsageError(
            "rewards: Pass@k counts correct responses, expected rewards 0 and 1, got others; say above which reward a "
            "response counts as correct"
        )
    pairs = torch.tensor([pass_at_k_pair(c, size, k) for c in range(size + 1)], dtype=groups.dtype).to(groups.device)
    pair = pairs[groups.sum(-1).long()]
    return torch.where(groups > 0, pair[..., 1:], pair[..., :1])


def pass_at_k_full(groups: Tensor, responses: ResponseBatch, p: Parameters) -> Tensor:
    """The responses of a group in sets of k, in order; each has the standardised greatest reward of its set."""
    k = int(p["k"])
    best = rearrange(groups, "group (set k) -> group set k", k=k).amax(-1)
    return standardised(best).repeat_interleave(k, -1)


def best_of_group(groups: Tensor, responses: ResponseBatch, p: Parameters) -> Tensor:
    """The greatest reward less the second greatest, for the best response alone."""
    values, places = groups.topk(2, -1)
    lead = _over_std(values[..., :1] - values[..., 1:], groups, p)
    return torch.zeros_like(groups).scatter(-1, places[..., :1], lead)


def length_mean(groups: Tensor, responses: ResponseBatch, p: Parameters) -> Tensor:
    """r less the mean reward of the group's tokens, Σ l·r/Σ l."""
    assert responses.lengths is not None
    lengths = responses.lengths.to(groups).view_as(groups)
    if bool((lengths < 1).any()):
        raise UsageError(
            f"lengths: expected at least 1 token in each response, got {int(lengths.min())}; leave such responses out"
        )
    return _unless_equal(groups - (lengths * groups).sum(-1, keepdim=True) / lengths.sum(-1, keepdim=True), groups)


def greedy(groups: Tensor, responses: ResponseBatch, p: Parameters) -> Tensor:
    """r less the reward of the prompt's greedy response."""
    assert responses.greedy_rewards is not None
    return groups - responses.greedy_rewards.to(groups).view_as(groups)


def decoupled(groups: Tensor, responses: ResponseBatch, p: Parameters) -> Tensor:
    """Σ_k w_k·(r_k − mean r_k)/std r_k, each component k standardised within the group."""
    assert responses.reward_components is not None
    size = groups.shape[-1]
    parts = rearrange(responses.reward_components.to(groups), "(group response) k -> k group response", response=size)
    weights = responses.component_weights
    shares = torch.ones(len(parts)).to(groups) if weights is None else weights.to(groups)
    return torch.einsum("k,kgr->gr", shares, standardised(parts))


def offset(groups: Tensor, responses: ResponseBatch, p: Parameters) -> Tensor:
    """r − (q + δV)."""
    return _unless_equal(groups - groups.mean(-1, keepdim=True), groups) - p["baseline_offset"]


def oreal_code(groups: Tensor, responses: ResponseBatch, p: Parameters) -> Tensor:
    """The reward as ±1 less the mean of the others, times the weight of correct or of wrong responses."""
    size = groups.shape[-1]
    signed = 2 * groups - 1
    others = (signed.sum(-1, keepdim=True) - signed) / (size - 1)
    advantage = _unless_equal(signed - others, groups)
    return torch.where(groups > 0, p["positive_weight"] * advantage, p["negative_weight"] * advantage)


def _unless_equal(values: Tensor, groups: Tensor) -> Tensor:
    """`values`, and exactly 0 in a group whose rewards are all equal, whatever rounding does to their mean."""
    return torch.where(groups.amax(-1, keepdim=True) == groups.amin(-1, keepdim=True), 0.0, values)


def _over_std(values: Tensor, groups: Tensor, p: Parameters) -> Tensor:
    return values if p["divide_by"] == "none" else values / (group_std(groups) + STD_EPSILON)


GROUP_ADVANTAGES: dict[str, Callable[[Tensor, ResponseBatch, Parameters], Tensor]] = {
    function.__name__: function
    for function in (
        maxrl,
        winner,
        quantile,
        pass_at_k,
        pass_at_k_full,
        best_of_group,
        length_mean,
        greedy,
        decoupled,
        offset,
        oreal_code,
    )
}
