"""Exact success probability: the log-probability of every correct response, from one pass over their prefix tree.

log π_T(y | x) = Σ_t log softmax(z(x, y_<t) / T)[y_t], for each correct response y of each prompt x and several
temperatures T at once. Responses of one prompt share prefixes, so the tree is walked level by level with the key-value
cache of the model: every distinct prefix is forwarded once, a response's last token never. Where no prefix of a level
branches for t tokens, those are forwarded together. The rows of one forward pass always have equal length (prompts
are grouped by length), so nothing is padded or masked and any causal language model of `transformers` will do.

With top-k or top-p the distribution of each step is truncated and renormalised as in sampling: a response with a token
outside the kept set has −inf. Whether a token is kept can depend on the rounding of its logit, in about 1 of 10⁷ steps
in float32.

With gradients enabled the values are differentiable, so ∇p = ∇ Σ_y π(y|x) is the exact policy gradient; under a
truncated distribution it is the gradient of its success probability with every kept set held constant, which is right
wherever no token is just entering or leaving one. Enumerate under `torch.inference_mode()` to evaluate.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from toy_models.truncation import check_truncation, kept_tokens, truncates

from ..common.arguments import check_float
from ..errors import UsageError
from .sampling_params import SamplingParams

__all__ = ["effective_solutions", "solution_log_probs", "success_probability"]

_PAD = -1  # shorter than any token id: a response sorts before its own continuations


class _Chunk(NamedTuple):
    """Responses that are walked together: prompts of one length, responses sorted by (prompt, tokens)."""

    prompts: list[int]  # indices of the distinct prompts
    prompt_row: np.ndarray  # (N,) which of them each response belongs to
    response: np.ndarray  # (N,) index of the response among all responses of the call
    tokens: np.ndarray  # (N, L) padded with _PAD
    lengths: np.ndarray  # (N,)


def solution_log_probs(
    model: Any,
    prompts: Sequence[Sequence[int]],
    solutions: Sequence[Sequence[Sequence[int]]],
    temperatures: Sequence[float],
    *,
    top_k: int = 0,
    top_p: float = 1.0,
    max_rows: int = 2048,
) -> list[Tensor]:
    """log π_T(solution | prompt) for every solution of every prompt at every temperature.

    Exact up to the model's own arithmetic; equals the naive

        for y in solutions[i]:
            z = model(prompts[i] + y[:-1]).logits[-len(y):]
            z[~kept_tokens(z, temperature=T, top_k=top_k, top_p=top_p)] = -inf
            sum(log_softmax(z / T)[range(len(y)), y])

    Args:
        model: any causal language model of transformers.
        prompts: token ids of each prompt.
        solutions: the responses to each prompt, end token included, all distinct.
        temperatures: one row of the result for each.
        top_k: keep the k most probable tokens of each step; 0 keeps all.
        top_p: of these keep the nucleus that holds this mass; 1 keeps all.
        max_rows: rows forwarded at a time, which bounds memory; a prompt with more solutions than that is walked in
            several parts.

    Returns:
        For each prompt a float64 tensor (n_temperatures, n_solutions) on the model's device, in nats, in the order
        given; −inf where a token is cut off by the truncation.

    Raises:
        UsageError: an empty prompt or solution, a repeated solution, a temperature that is not positive, top_k or
            top_p out of range.
    """
    settings = _check(prompts, solutions, temperatures, top_k, top_p, max_rows)
    device = next(model.parameters()).device
    counts = [len(group) for group in solutions]
    flat = torch.zeros(len(settings), sum(counts), dtype=torch.float64, device=device)
    for chunk in _chunks(prompts, solutions, max_rows):
        values = _walk(model, prompts, chunk, settings, device)
        flat = flat.index_copy(1, torch.as_tensor(chunk.response, device=device), values)
    return list(flat.split(counts, dim=1))


def success_probability(
    model: Any,
    prompts: Sequence[Sequence[int]],
    solutions: Sequence[Sequence[Sequence[int]]],
    temperature: float = 1.0,
    *,
    top_k: int = 0,
    top_p: float = 1.0,
    max_rows: int = 2048,
) -> Tensor:
    """p_x = Σ_y π_T(y | x) over the solutions of each prompt: float64 (n_prompts,), differentiable.

    `success_probability(...).mean().backward()` is the exact gradient that REINFORCE estimates. With gradients enabled
    the chunks are checkpointed: the backward pass walks each again, so memory is that of one chunk of `max_rows`
    solutions and time that of two forward passes and one backward.

    Args:
        model: any causal language model of transformers.
        prompts: token ids of each prompt.
        solutions: every correct response to each prompt, end token included.
        temperature: T of softmax(z / T).
        top_k, top_p: truncation, as in `solution_log_probs`.
        max_rows: rows forwarded at a time.

    Raises:
        UsageError: as in `solution_log_probs`.
    """
    settings = _check(prompts, solutions, [temperature], top_k, top_p, max_rows)
    device = next(model.parameters()).device
    total = torch.zeros(len(prompts), dtype=torch.float64, device=device)
    for chunk in _chunks(prompts, solutions, max_rows):
        if torch.is_grad_enabled():
            values = checkpoint(
                _walk, model, prompts, chunk, settings, device, use_reentrant=False, preserve_rng_state=False
            )
        else:
            values = _walk(model, prompts, chunk, settings, device)
        owner = torch.as_tensor(np.asarray(chunk.prompts)[chunk.prompt_row], device=device)
        total = total.index_add(0, owner, values[0].exp())
    return total


def effective_solutions(log_probs: Tensor) -> Tensor:
    """Effective number of correct responses: exp of the entropy of π given correct, over the last axis.

    exp(−Σ q log q) with q = softmax(log_probs): n for n equally likely responses, 1 when one has all the mass; free of
    the scale of p, so it is stable where every probability underflows.

    Args:
        log_probs: log-probabilities of all correct responses of a prompt on the last axis, in nats.

    Returns:
        The last axis is gone. 0 where no response has any mass (all −inf, out of the reach of a truncated
        distribution).

    Raises:
        UsageError: an empty axis.

    Example:
        >>> [round(v, 6) for v in effective_solutions(torch.tensor([[-900.0, -900.0], [0.0, -900.0]])).tolist()]
        [2.0, 1.0]
    """
    check_float("log_probs", log_probs)
    if log_probs.ndim < 1 or log_probs.shape[-1] == 0:
        raise UsageError(
            "log_probs: expected at least one solution on the last axis, got none; "
            "a prompt without correct responses has no distribution given correct"
        )
    out_of_reach = log_probs.isneginf().all(-1, keepdim=True)
    given_correct = log_probs.masked_fill(out_of_reach, 0.0).softmax(-1)
    return torch.special.entr(given_correct).sum(-1).exp().masked_fill(out_of_reach[..., 0], 0.0)


def _check(
    prompts: Sequence[Sequence[int]],
    solutions: Sequence[Sequence[Sequence[int]]],
    temperatures: Sequence[float],
    top_k: int,
    top_p: float,
    max_rows: int,
) -> tuple[SamplingParams, ...]:
    if len(prompts) != len(solutions):
        raise UsageError(f"solutions: expected one list for each of {len(prompts)} prompts, got {len(solutions)}")
    if max_rows < 1:
        raise UsageError(f"max_rows: expected at least 1, got {max_rows}")
    try:
        check_truncation(top_k, top_p)
    except ValueError as error:
        raise UsageError(str(error)) from error
    values = tuple(float(t) for t in temperatures)
    if not values or not all(t > 0 and np.isfinite(t) for t in values):
        raise UsageError(
            f"temperatures: expected positive numbers, got {list(temperatures)}; "
            "greedy decoding has no log-probabilities, use sampling at temperature 0"
        )
    for i, (prompt, group) in enumerate(zip(prompts, solutions, strict=True)):
        if len(prompt) == 0:
            raise UsageError(
                f"prompts: expected at least one token, got none in prompt {i}; start it with a token "
                "for the beginning of the sequence"
            )
        if any(len(solution) == 0 for solution in group):
            raise UsageError(
                f"solutions: expected at least the end token in every solution, got an empty one for prompt {i}"
            )
    return tuple(SamplingParams(t, top_k, top_p) for t in values)


def _chunks(
    prompts: Sequence[Sequence[int]], solutions: Sequence[Sequence[Sequence[int]]], max_rows: int
) -> Iterator[_Chunk]:
    """Sorted responses cut so that no level of the prefix tree of a chunk has more than max_rows nodes."""
    starts = np.cumsum([0, *(len(group) for group in solutions)])
    by_length: dict[int, list[int]] = {}
    for i, prompt in enumerate(prompts):
        if len(solutions[i]):
            by_length.setdefault(len(prompt), []).append(i)
    for same_length in by_length.values():
        group = [solution for i in same_length for solution in solutions[i]]
        owner = np.repeat(same_length, [len(solutions[i]) for i in same_length])
        index = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in same_length])
        lengths = np.fromiter(map(len, group), np.int64, len(group))
        tokens = np.full((len(group), lengths.max()), _PAD, dtype=np.int64)
        tokens[np.arange(tokens.shape[1]) < lengths[:, None]] = np.fromiter(chain.from_iterable(group), np.int64)
        order = np.lexsort((*tokens.T[::-1], owner))
        owner, index, tokens, lengths = owner[order], index[order], tokens[order], lengths[order]
        repeated = (owner[1:] == owner[:-1]) & (tokens[1:] == tokens[:-1]).all(1)
        if repeated.any():
            at = int(np.argmax(repeated))
            raise UsageError(
                f"solutions: expected distinct responses, got {tokens[at, : lengths[at]].tolist()} twice "
                f"for prompt {owner[at]}; its probability would count twice"
            )
        # a node of the tree lies on at least one response, so max_rows responses give at most max_rows nodes a level
        for low in range(0, len(owner), max_rows):
            part = slice(low, low + max_rows)
            members, prompt_row = np.unique(owner[part], return_inverse=True)
            yield _Chunk(members.tolist(), prompt_row, index[part], tokens[part, : lengths[part].max()], lengths[part])


def _walk(
    model: Any,
    prompts: Sequence[Sequence[int]],
    chunk: _Chunk,
    settings: tuple[SamplingParams, ...],
    device: torch.device,
) -> Tensor:
    """Log-probabilities (n_laws, N) of a chunk's responses."""
    count, longest = chunk.tokens.shape
    tokens = torch.as_tensor(chunk.tokens, device=device)
    levels = _levels(chunk)
    inputs = torch.tensor([list(prompts[i]) for i in chunk.prompts], device=device)
    total = torch.zeros(len(settings), count, dtype=torch.float64, device=device)
    cache, depth, ahead = None, 0, 1  # the last `ahead` positions of a forward pass are levels depth, depth + 1, …
    while True:
        out = model(input_ids=inputs, past_key_values=cache, use_cache=True, logits_to_keep=ahead)
        cache = out.past_key_values
        logits = out.logits.to(torch.promote_types(out.logits.dtype, torch.float32))
        for offset in range(ahead):
            level = levels[depth + offset]
            rows, node = torch.as_tensor(level.rows, device=device), torch.as_tensor(level.node, device=device)
            values = _log_probs(logits[:, offset], node, tokens[rows, depth + offset], settings)
            total = total.index_add(1, rows, values)
        depth += ahead
        if depth == longest:
            return total
        first = levels[depth].first
        ahead = _unbranched(levels, depth)
        cache.batch_select_indices(torch.as_tensor(levels[depth - 1].of_row(first), device=device))
        inputs = tokens[torch.as_tensor(first, device=device), depth - 1 : depth - 1 + ahead]


def _log_probs(logits: Tensor, node: Tensor, token: Tensor, settings: tuple[SamplingParams, ...]) -> Tensor:
    """log softmax(logits / T)[node, token] of each one, −inf where left out, (n_laws, n_rows) float64."""
    chosen = logits[node, token].double()
    values = []
    for params in settings:
        scaled = logits if params.temperature == 1 else logits / params.temperature
        of_token = chosen / params.temperature
        if truncates(params.top_k, params.top_p):
            kept = kept_tokens(logits, **params._asdict())
            scaled = scaled.masked_fill(~kept, -torch.inf)
            of_token = of_token.masked_fill(~kept[node, token], -torch.inf)
        values.append(of_token - scaled.logsumexp(-1).double()[node])
    return torch.stack(values)


class _Level(NamedTuple):
    """The distinct prefixes of d response tokens that some response goes on from: the nodes at depth d."""

    rows: np.ndarray  # (A,) responses with more than d tokens, ascending
    node: np.ndarray  # (A,) the node that each of them passes through
    first: np.ndarray  # (n_nodes,) one response through each node

    def of_row(self, rows: np.ndarray) -> np.ndarray:
        return self.node[np.searchsorted(self.rows, rows)]


def _levels(chunk: _Chunk) -> list[_Level]:
    """Nodes of the prefix tree: neighbours in the order share a node at depth d if their first d tokens agree."""
    same_prompt = chunk.prompt_row[1:] == chunk.prompt_row[:-1]
    agree = np.cumprod(chunk.tokens[1:] == chunk.tokens[:-1], axis=1).sum(1)
    shared = np.concatenate([[-1], np.where(same_prompt, agree, -1)])
    levels = []
    for depth in range(chunk.tokens.shape[1]):
        rows = np.flatnonzero(chunk.lengths > depth)
        _, first, node = np.unique(np.cumsum(shared < depth)[rows], return_index=True, return_inverse=True)
        levels.append(_Level(rows, node, rows[first]))
    return levels


def _unbranched(levels: list[_Level], depth: int) -> int:
    """How many levels from `depth` on have the same nodes: every node goes on, by exactly one token."""
    count = 1
    while depth + count < len(levels):
        ancestors = np.unique(levels[depth].of_row(levels[depth + count].first))
        if not len(ancestors) == len(levels[depth].first) == len(levels[depth + count].first):
            break
        count += 1
    return count
