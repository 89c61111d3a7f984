"""Responses from any causal language model of transformers, faster than `generate` where many share a prompt.

Each prompt goes through the model once and its key-value cache is repeated over its group; rows that have ended leave
the batch. The t-th token of rollout i is the inverse of the cumulative distribution, in the order of the vocabulary, at
`uniforms[i, t]`: in float64, so that a response depends on the policy, the prompt and its own uniforms, not on what
else is in the batch. (A rounding difference in the logits can still turn a token whose uniform lies within it of an
edge: about 1e-7 of draws in float32.)

`log_probs` and `entropy` are of the policy's law softmax(z / T), also where a nucleus truncates the law that is
sampled from; in nats. Greedy decoding (temperature 0) reports them at T = 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from .batching import left_pad

__all__ = ["Samples", "sample"]

# Logits looked at in one go: bounds the float64 copies where the vocabulary is large (32 MB each).
_CHUNK = 1 << 22
# Ended rows leave the batch once they are this share of it: removing them copies the cache.
_COMPACT_SHARE = 0.125


@dataclass(frozen=True)
class Samples:
    """N responses of at most R tokens, right-padded; rollout i answers prompt i // group_size."""

    response_ids: Tensor  # (N, R) int64, pad_id after the end
    lengths: Tensor  # (N,) int64, end token included
    log_probs: Tensor  # (N, R), 0 after the end
    entropy: Tensor  # (N, R) nats, 0 after the end
    finished: Tensor  # (N,) bool: whether the end token was drawn


def sample(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    group_size: int,
    max_new_tokens: int,
    eos_id: int,
    pad_id: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    uniforms: Tensor | None = None,
) -> Samples:
    """Draw `group_size` responses to each prompt, or decode greedily where `temperature` is 0.

    `uniforms` is (N, max_new_tokens) float64 in [0, 1), N = len(prompts)·group_size; greedy decoding needs none. The
    width R of the result is that of the longest response. Cost: one pass over each prompt and one over each token.
    Raises ValueError for arguments out of range and FloatingPointError for logits that are no distribution.
    """
    _check(prompts, group_size, max_new_tokens, temperature, top_p, uniforms)
    with torch.inference_mode():
        drawn = _sample(model, prompts, group_size, max_new_tokens, eos_id, pad_id, temperature, top_p, uniforms)
    # Tensors made in inference mode cannot enter a loss; their copies can.
    return Samples(*(getattr(drawn, field.name).clone() for field in fields(Samples)))


def _sample(
    model: Any,
    prompts: Sequence[Sequence[int]],
    group_size: int,
    max_new_tokens: int,
    eos_id: int,
    pad_id: int,
    temperature: float,
    top_p: float,
    uniforms: Tensor | None,
) -> Samples:
    device = model.device
    ids, prompt_mask = left_pad(prompts, pad_id)
    padded = not bool(prompt_mask.all())
    n = len(prompts) * group_size
    inputs: dict[str, Tensor] = {"input_ids": ids.to(device)}
    if padded:
        mask = prompt_mask.long().to(device)
        inputs |= {"attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
        mask = mask.repeat_interleave(group_size, dim=0)
    output = model(**inputs, use_cache=True, logits_to_keep=1)
    cache = output.past_key_values
    cache.batch_repeat_interleave(group_size)
    logits = output.logits[:, -1].repeat_interleave(group_size, dim=0)

    dtype = torch.promote_types(logits.dtype, torch.float32)
    response = torch.full((n, max_new_tokens), pad_id, dtype=torch.int64, device=device)
    log_probs = torch.zeros((n, max_new_tokens), dtype=dtype, device=device)
    entropy = torch.zeros_like(log_probs)
    draws = None if uniforms is None else uniforms.to(device, torch.float64)
    rows = torch.arange(n, device=device)  # rollout of each row of the batch
    alive = torch.ones(n, dtype=torch.bool, device=device)  # among the rows of the batch
    for t in range(max_new_tokens):
        draw = None if draws is None else draws[rows, t]
        token, log_prob, row_entropy = _next_tokens(logits, draw, temperature, top_p)
        # Rows that ended but are still in the batch write padding and zeros.
        response[rows, t] = torch.where(alive, token, pad_id)
        log_probs[rows, t] = torch.where(alive, log_prob, 0.0).to(dtype)
        entropy[rows, t] = torch.where(alive, row_entropy, 0.0).to(dtype)
        alive &= token != eos_id
        n_alive = int(alive.sum())
        if n_alive == 0 or t == max_new_tokens - 1:
            break
        if n_alive <= len(rows) * (1 - _COMPACT_SHARE):
            keep = alive.nonzero().squeeze(1)
            cache.reorder_cache(keep)
            rows, token, alive = rows[keep], token[keep], alive[keep]
            if padded:
                mask = mask[keep]
        inputs = {"input_ids": token[:, None]}
        if padded:
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
            inputs |= {"attention_mask": mask, "position_ids": mask.sum(1, keepdim=True) - 1}
        logits = model(**inputs, past_key_values=cache, use_cache=True).logits[:, -1]

    finished = torch.ones(n, dtype=torch.bool, device=device)
    finished[rows[alive]] = False
    ended = (response == eos_id).long()
    lengths = torch.where(finished, ended.argmax(1) + 1, max_new_tokens)
    width = int(lengths.max())
    return Samples(response[:, :width], lengths, log_probs[:, :width], entropy[:, :width], finished)


def _next_tokens(
    logits: Tensor, uniforms: Tensor | None, temperature: float, top_p: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Next token of each row, its log-probability and the entropy of its law, each (N,)."""
    size = max(1, _CHUNK // logits.shape[1])
    if len(logits) <= size:
        return _next_tokens_of_chunk(logits, uniforms, temperature, top_p)
    pieces = [
        _next_tokens_of_chunk(
            logits[i : i + size], None if uniforms is None else uniforms[i : i + size], temperature, top_p
        )
        for i in range(0, len(logits), size)
    ]
    token, log_prob, entropy = (torch.cat(column) for column in zip(*pieces, strict=True))
    return token, log_prob, entropy


def _next_tokens_of_chunk(
    logits: Tensor, uniforms: Tensor | None, temperature: float, top_p: float
) -> tuple[Tensor, Tensor, Tensor]:
    z = logits.double()
    if temperature not in (0.0, 1.0):
        z /= temperature
    z -= z.amax(dim=1, keepdim=True)
    probs = z.exp()  # not yet normalised
    total = probs.sum(dim=1, keepdim=True)
    if not bool(total.isfinite().all()):
        raise FloatingPointError(
            f"logits: expected finite numbers, received NaN, +inf or only −inf in {int((~total.isfinite()).sum())} of "
            f"{len(total)} rows; the policy has diverged"
        )
    log_total = total.log()
    if temperature == 0.0:
        token = logits.argmax(dim=1, keepdim=True)
    else:
        assert uniforms is not None
        token = _invert_cdf(probs if top_p == 1.0 else _nucleus(probs, top_p), uniforms)
    log_prob = z.gather(1, token) - log_total
    # Σ π z over finite logits only: a token of probability zero adds nothing.
    mean = torch.linalg.vecdot(probs, z.clamp(min=-1e300)).unsqueeze(1) / total
    return token.squeeze(1), log_prob.squeeze(1), (log_total - mean).squeeze(1)


def _invert_cdf(probs: Tensor, uniforms: Tensor) -> Tensor:
    """First token (N, 1) whose cumulative mass exceeds u·total; tokens of mass zero are never drawn."""
    cdf = probs.cumsum(dim=1)
    # In float64 u ≤ 1 − 2⁻⁵³, and then u·total is always rounded to less than the total: some mass exceeds it.
    return torch.searchsorted(cdf, uniforms[:, None] * cdf[:, -1:], right=True)


def _nucleus(probs: Tensor, top_p: float) -> Tensor:
    """Zero all but the fewest most probable tokens whose mass reaches `top_p`; ties go to the lower id."""
    ordered, order = probs.sort(dim=1, descending=True, stable=True)
    before = ordered.cumsum(dim=1) - ordered
    outside = before >= top_p * ordered.sum(dim=1, keepdim=True)
    return probs.masked_fill(outside.scatter(1, order, outside), 0.0)


def _check(
    prompts: Sequence[Sequence[int]],
    group_size: int,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    uniforms: Tensor | None,
) -> None:
    if not prompts or not all(len(prompt) for prompt in prompts):
        raise ValueError("prompts: expected at least one prompt, each of at least one token, received an empty one")
    if group_size < 1 or max_new_tokens < 1:
        raise ValueError(
            f"group_size and max_new_tokens: expected at least 1, received {group_size} and {max_new_tokens}"
        )
    if not temperature >= 0.0:
        raise ValueError(f"temperature: expected 0 (greedy) or a positive number, received {temperature}")
    if not 0.0 < top_p <= 1.0:
        raise ValueError(f"top_p: expected a number in (0, 1], received {top_p}; 1 samples from the whole law")
    if temperature == 0.0:
        return
    shape = (len(prompts) * group_size, max_new_tokens)
    if uniforms is None or tuple(uniforms.shape) != shape:
        received = None if uniforms is None else tuple(uniforms.shape)
        raise ValueError(
            f"uniforms: expected the shape (prompts·group_size, max_new_tokens) = {shape}, received {received}; "
            "draw them with torch.rand(shape, dtype=torch.float64, generator=…)"
        )
    if bool(((uniforms < 0) | (uniforms >= 1)).any()):
        raise ValueError("uniforms: expected numbers in [0, 1), received some outside of it")
