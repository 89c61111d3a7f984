"""Responses from any causal language model of transformers, faster than `generate` where many share a prompt.

Each prompt passes through the model once, and its key-value cache is repeated over its group; rows that have ended
leave the batch. Token t of rollout i inverts the cumulative distribution, in the order of the vocabulary, at
`uniforms[i, t]`, in float64. A response therefore depends on the policy, the prompt and its own uniforms, and not on
what else is in the batch. (Rounding of the logits can still change a token whose uniform lies within it of an edge:
about 1e-7 of the draws in float32.)

Log-probabilities and entropies, in nats, are those of two distributions: softmax(z / T) of the policy, and the one that
is sampled from, which top-k and top-p truncate and renormalise (`truncation.py`). Without truncation the two are the
same. Greedy decoding (temperature 0) samples from neither; both are then softmax(z).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from einops import repeat
from torch import Tensor

from .batching import left_pad
from .truncation import check_truncation, kept_tokens, truncates

__all__ = ["Samples", "sample"]

# Logits that are processed together: bounds the float64 copies of a large vocabulary (32 MB each).
_CHUNK = 1 << 22
# Ended rows leave the batch once they are this fraction of it: removing them copies the cache.
_COMPACT_SHARE = 0.125


@dataclass(frozen=True)
class Samples:
    """N responses of at most R tokens, padded on the right; rollout i answers prompt i // group_size.

    Attributes:
        response_ids: (N, R) int64, `pad_id` after the end.
        lengths: (N,) int64, end token included.
        log_probs: (N, R) nats, log π_y under the policy, 0 after the end.
        entropy: (N, R) nats, of the policy at that position, 0 after the end.
        sampling_log_probs: (N, R) nats, log q_y under the distribution q that was sampled from, 0 after the end.
        sampling_entropy: (N, R) nats, of q, 0 after the end.
        finished: (N,) bool, whether an end token was drawn.
    """

    response_ids: Tensor
    lengths: Tensor
    log_probs: Tensor
    entropy: Tensor
    sampling_log_probs: Tensor
    sampling_entropy: Tensor
    finished: Tensor


def sample(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    group_size: int,
    max_new_tokens: int,
    eos_id: int | Sequence[int],
    pad_id: int,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    uniforms: Tensor | None = None,
) -> Samples:
    """Draw `group_size` responses to each prompt, or decode greedily.

    Cost: one pass over each prompt, and one over each token of each response.

    Args:
        model: A causal language model of transformers, in evaluation mode.
        prompts: Token ids of each prompt, without padding.
        group_size: Responses per prompt.
        max_new_tokens: Greatest length of a response, end token included.
        eos_id: The end token, or several, any of which ends a response.
        pad_id: The token that fills prompts and responses up.
        temperature: Logits are divided by it; 0 decodes greedily.
        top_k: Number of most probable tokens that can be drawn, 0 for all.
        top_p: Mass of most probable tokens that can be drawn, after top-k; 1 for all.
        uniforms: (len(prompts)·group_size, max_new_tokens) numbers in [0, 1), float64; greedy decoding needs none.

    Returns:
        The responses. Their width R is the length of the longest one.

    Raises:
        ValueError: An argument is out of range or has the wrong shape.
        FloatingPointError: The logits are NaN or infinite.
    """
    _check(prompts, group_size, max_new_tokens, temperature, top_k, top_p, uniforms)
    if temperature == 0.0:
        top_k, top_p = 0, 1.0  # the most probable token stays in every truncation
    with torch.inference_mode():
        drawn = _sample(model, prompts, group_size, max_new_tokens, eos_id, pad_id, temperature, top_k, top_p, uniforms)
    # Tensors made in inference mode cannot enter a loss; their copies can.
    response, lengths, finished, values = (tensor.clone() for tensor in drawn)
    return Samples(response, lengths, values[0], values[1], values[-2], values[-1], finished)


def _sample(
    model: Any,
    prompts: Sequence[Sequence[int]],
    group_size: int,
    max_new_tokens: int,
    eos_id: int | Sequence[int],
    pad_id: int,
    temperature: float,
    top_k: int,
    top_p: float,
    uniforms: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Responses, lengths, whether they ended, and the values of `_next_tokens`, (2 or 4, N, R)."""
    device = model.device
    ends = torch.tensor([eos_id] if isinstance(eos_id, int) else list(eos_id), device=device)
    ids, prompt_mask = left_pad(prompts, pad_id)
    padded = not bool(prompt_mask.all())
    n = len(prompts) * group_size
    inputs: dict[str, Tensor] = {"input_ids": ids.to(device)}
    if padded:
        mask = prompt_mask.long().to(device)
        inputs |= {"attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
        mask = repeat(mask, "prompt position -> (prompt group) position", group=group_size)
    output = model(**inputs, use_cache=True, logits_to_keep=1)
    cache = output.past_key_values
    cache.batch_repeat_interleave(group_size)
    logits = repeat(output.logits[:, -1], "prompt token -> (prompt group) token", group=group_size)

    dtype = torch.promote_types(logits.dtype, torch.float32)
    response = torch.full((n, max_new_tokens), pad_id, dtype=torch.int64, device=device)
    values = torch.zeros((4 if truncates(top_k, top_p) else 2, n, max_new_tokens), dtype=dtype, device=device)
    draws = None if uniforms is None else uniforms.to(device, torch.float64)
    rows = torch.arange(n, device=device)  # rollout of each row of the batch
    alive = torch.ones(n, dtype=torch.bool, device=device)  # among the rows of the batch
    for t in range(max_new_tokens):
        draw = None if draws is None else draws[rows, t]
        token, row_values = _next_tokens(logits, draw, temperature, top_k, top_p)
        # Rows that ended but are still in the batch write padding and zeros.
        response[rows, t] = torch.where(alive, token, pad_id)
        values[:, rows, t] = torch.where(alive, row_values, 0.0).to(dtype)
        alive &= ~torch.isin(token, ends)
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
    ended = torch.isin(response, ends).long()
    lengths = torch.where(finished, ended.argmax(1) + 1, max_new_tokens)
    width = int(lengths.max())
    return response[:, :width], lengths, finished, values[..., :width]


def _next_tokens(
    logits: Tensor, uniforms: Tensor | None, temperature: float, top_k: int, top_p: float
) -> tuple[Tensor, Tensor]:
    """Next token of each row, (N,), with its log-probability and the entropy: (2, N), those of the policy; where it is
    truncated (4, N), followed by those of the distribution that is sampled from."""
    size = max(1, _CHUNK // logits.shape[1])
    if len(logits) <= size:
        return _next_tokens_of_chunk(logits, uniforms, temperature, top_k, top_p)
    pieces = [
        _next_tokens_of_chunk(
            logits[i : i + size], None if uniforms is None else uniforms[i : i + size], temperature, top_k, top_p
        )
        for i in range(0, len(logits), size)
    ]
    token, values = zip(*pieces, strict=True)
    return torch.cat(token), torch.cat(values, dim=1)


def _next_tokens_of_chunk(
    logits: Tensor, uniforms: Tensor | None, temperature: float, top_k: int, top_p: float
) -> tuple[Tensor, Tensor]:
    z = logits.double()
    if temperature not in (0.0, 1.0):
        z /= temperature
    z -= z.amax(dim=1, keepdim=True)
    probs = z.exp()  # not yet normalised
    total = probs.sum(dim=1, keepdim=True)
    if not bool(total.isfinite().all()):
        raise FloatingPointError(
            f"logits: expected finite numbers, got NaN, +inf or only −inf in {int((~total.isfinite()).sum())} of "
            f"{len(total)} rows; the policy has diverged"
        )
    truncated = truncates(top_k, top_p)
    sampled = probs.masked_fill(~kept_tokens(z, top_k=top_k, top_p=top_p), 0.0) if truncated else probs
    if temperature == 0.0:
        token = logits.argmax(dim=1, keepdim=True)
    else:
        assert uniforms is not None
        token = _invert_cdf(sampled, uniforms)
    chosen, finite = z.gather(1, token), z.clamp(min=-1e300)
    values = _log_prob_and_entropy(probs, total, finite, chosen)
    if truncated:
        values += _log_prob_and_entropy(sampled, sampled.sum(dim=1, keepdim=True), finite, chosen)
    return token.squeeze(1), torch.cat(values, dim=1).T


def _log_prob_and_entropy(probs: Tensor, total: Tensor, z: Tensor, chosen: Tensor) -> list[Tensor]:
    """log π_y = z_y − log Σ e^z and H = log Σ e^z − Σ π z over the tokens where `probs` = e^z is not 0, each (N, 1)."""
    log_total = total.log()
    # Over finite logits only: a token of probability zero adds nothing.
    mean = torch.linalg.vecdot(probs, z).unsqueeze(1) / total
    return [chosen - log_total, log_total - mean]


def _invert_cdf(probs: Tensor, uniforms: Tensor) -> Tensor:
    """First token (N, 1) whose cumulative mass exceeds u·total; tokens of mass zero are never drawn."""
    cdf = probs.cumsum(dim=1)
    # In float64 u ≤ 1 − 2⁻⁵³, and then u·total is always rounded to less than the total: some mass exceeds it.
    return torch.searchsorted(cdf, uniforms[:, None] * cdf[:, -1:], right=True)


def _check(
    prompts: Sequence[Sequence[int]],
    group_size: int,
    max_new_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    uniforms: Tensor | None,
) -> None:
    if not prompts or not all(len(prompt) for prompt in prompts):
        raise ValueError("prompts: expected at least one prompt, each of at least one token, got none or an empty one")
    if group_size < 1 or max_new_tokens < 1:
        raise ValueError(f"group_size and max_new_tokens: expected at least 1, got {group_size} and {max_new_tokens}")
    if not temperature >= 0.0:
        raise ValueError(f"temperature: expected 0 (greedy) or a positive number, got {temperature}")
    check_truncation(top_k, top_p)
    if temperature == 0.0:
        return
    shape = (len(prompts) * group_size, max_new_tokens)
    if uniforms is None or tuple(uniforms.shape) != shape:
        shape_got = None if uniforms is None else tuple(uniforms.shape)
        raise ValueError(
            f"uniforms: expected the shape (prompts·group_size, max_new_tokens) = {shape}, got {shape_got}; "
            "draw them with torch.rand(shape, dtype=torch.float64, generator=…)"
        )
    if bool(((uniforms < 0) | (uniforms >= 1)).any()):
        raise ValueError("uniforms: expected numbers in [0, 1), got some outside of it")
