"""Losses of the likelihood of single tokens or responses: unlikelihood, and NFT's implicit policy of wrong ones."""

from __future__ import annotations

import torch
from torch import Tensor

from ..advantages import Q_RANGE
from ..token_batch import TokenBatch
from .shared import Parameters, gap_to, length, no_clip, total

__all__ = [
    "dft_loss",
    "dft_weight",
    "nft_loss",
    "nft_weight",
    "sequence_nft_loss",
    "sequence_nft_weight",
    "unlikelihood_loss",
    "unlikelihood_weight",
]

LOG_RATIO_MOST = 10.0  # of NFT: log ρ is clamped there, and has no gradient above


def unlikelihood_weight(batch: TokenBatch, p: Parameters) -> tuple[Tensor, Tensor]:
    """A·π_y/(1 − π_y), 0 where 1 − π_y is below the floor."""
    rest = -torch.expm1(batch.log_probs)
    weight = batch.per_token("advantages") * batch.log_probs.exp() / rest.clamp(min=p["floor"])
    return torch.where(rest >= p["floor"], weight, 0.0), no_clip(rest)


def unlikelihood_loss(log_probs: Tensor, batch: TokenBatch, p: Parameters) -> Tensor:
    """A·log(max(1 − π_y, floor)); 1 − π_y as −expm1(log π_y), which a difference of floats would lose."""
    return batch.per_token("advantages") * torch.log(torch.clamp(-torch.expm1(log_probs), min=p["floor"]))


def _nft_weight_of(log_ratio: Tensor, batch: TokenBatch, p: Parameters) -> Tensor:
    """The row of NFT for a log-ratio of tokens or of sequences, of the shape of `log_ratio`."""
    a, q = batch.per_token("advantages"), batch.per_token("accuracy").clamp(*Q_RANGE)
    ratio = log_ratio.clamp(max=LOG_RATIO_MOST).exp()
    correct = ratio / ratio.clamp(min=p["ratio_floor"])
    incorrect = -(q * ratio / (1 - q)) / ((1 - q * ratio) / (1 - q)).clamp(min=p["epsilon"])
    # ω is |A|; where ρ underflows to 0 so does its ratio to itself
    weight = a.abs() * torch.where(a > 0, torch.nan_to_num(correct, nan=1.0), incorrect)
    return torch.where(log_ratio > LOG_RATIO_MOST, 0.0, weight)


def _straight_through_nft(log_ratio: Tensor, batch: TokenBatch, p: Parameters) -> Tensor:
    """−ω·log R for correct and −ω·log((1 − qR)/(1 − q)) for wrong responses, each maximum straight through."""
    a, q = batch.per_token("advantages"), batch.per_token("accuracy").clamp(*Q_RANGE)
    near = log_ratio.clamp(max=LOG_RATIO_MOST)
    if p["ratio_floor"] > 0:
        ratio = near.exp()
        correct = (ratio + (ratio.clamp(min=p["ratio_floor"]) - ratio).detach()).log()
    else:
        correct = near
    implied = (1 - q * near.exp()) / (1 - q)
    incorrect = (implied + (implied.clamp(min=p["epsilon"]) - implied).detach()).log()
    return -a.abs() * torch.where(a > 0, correct, incorrect)


def nft_weight(batch: TokenBatch, p: Parameters) -> tuple[Tensor, Tensor]:
    """NFT of tokens."""
    assert batch.old_log_probs is not None
    return _nft_weight_of(batch.log_probs - batch.old_log_probs, batch, p), no_clip(batch.log_probs)


def nft_loss(log_probs: Tensor, batch: TokenBatch, p: Parameters) -> Tensor:
    """NFT of tokens."""
    assert batch.old_log_probs is not None
    return _straight_through_nft(log_probs - batch.old_log_probs.detach(), batch, p)


def sequence_nft_weight(batch: TokenBatch, p: Parameters) -> tuple[Tensor, Tensor]:
    """NFT's row at Π ρ, the same at every token."""
    summed = total(gap_to(batch.log_probs, batch.old_log_probs), batch).expand_as(batch.log_probs)
    return _nft_weight_of(summed, batch, p), no_clip(summed)


def sequence_nft_loss(log_probs: Tensor, batch: TokenBatch, p: Parameters) -> Tensor:
    """NFT's loss of the sequence, spread evenly over its tokens."""
    summed = total(gap_to(log_probs, batch.old_log_probs), batch).expand_as(log_probs)
    return _straight_through_nft(summed, batch, p) / length(batch)


def dft_weight(batch: TokenBatch, p: Parameters) -> tuple[Tensor, Tensor]:
    """π_y."""
    return batch.log_probs.exp(), no_clip(batch.log_probs)


def dft_loss(log_probs: Tensor, batch: TokenBatch, p: Parameters) -> Tensor:
    """−sg(π_y)·log π_y."""
    return -log_probs.exp().detach() * log_probs
