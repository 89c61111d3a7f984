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

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from toy_models.truncation import check_truncation, kept_tokens, truncates

from ..common.arguments import check_float
from ..errors import UsageError
from .prefix_trees import PrefixTrees, TreeChunk
from .sampling_params import SamplingParams

__all__ = ["check_responses", "effective_solutions", "solution_log_probs", "success_probability", "tree_log_probs"]


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
    check_responses(prompts, solutions, max_rows)
    return tree_log_probs(model, PrefixTrees(prompts, solutions, max_rows), temperatures, top_k=top_k, top_p=top_p)


def tree_log_probs(
    model: Any, trees: PrefixTrees, temperatures: Sequence[float], *, top_k: int = 0, top_p: float = 1.0
) -> list[Tensor]:
    """`solution_log_probs` of responses whose prefix trees are made already; the same numbers, bit for bit."""
    settings = _settings(temperatures, top_k, top_p)
    device = next(model.parameters()).device
    flat = torch.zeros(len(settings), sum(trees.counts), dtype=torch.float64, device=device)
    for chunk in trees.chunks:
        values = _walk(model, chunk, settings, device)
        flat = flat.index_copy(1, torch.as_tensor(chunk.response, device=device), values)
    return list(flat.split(trees.counts, dim=1))


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
    check_responses(prompts, solutions, max_rows)
    settings = _settings([temperature], top_k, top_p)
    device = next(model.parameters()).device
    total = torch.zeros(len(prompts), dtype=torch.float64, device=device)
    for chunk in PrefixTrees(prompts, solutions, max_rows).chunks:
        if torch.is_grad_enabled():
            values = checkpoint(_walk, model, chunk, settings, device, use_reentrant=False, preserve_rng_state=False)
        else:
            values = _walk(model, chunk, settings, device)
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


def check_responses(
    prompts: Sequence[Sequence[int]], solutions: Sequence[Sequence[Sequence[int]]], max_rows: int
) -> None:
    """UsageError for an empty prompt or response, for lists that do not fit, or rows out of range."""
    if len(prompts) != len(solutions):
        raise UsageError(f"solutions: expected one list for each of {len(prompts)} prompts, got {len(solutions)}")
    if max_rows < 1:
        raise UsageError(f"max_rows: expected at least 1, got {max_rows}")
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


def _settings(temperatures: Sequence[float], top_k: int, top_p: float) -> tuple[SamplingParams, ...]:
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
    return tuple(SamplingParams(t, top_k, top_p) for t in values)


def _walk(model: Any, chunk: TreeChunk, settings: tuple[SamplingParams, ...], device: torch.device) -> Tensor:
    """Log-probabilities (n_laws, N) of a chunk's responses."""
    count, longest = chunk.tokens.shape
    tokens = torch.as_tensor(chunk.tokens, device=device)
    levels, steps = chunk.levels, iter(chunk.steps)
    inputs = torch.as_tensor(chunk.inputs, device=device)
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
        ahead = next(steps)
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
