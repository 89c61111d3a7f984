"""Second stage of a built-in base: expert iteration (rejection fine-tuning) on its own correct responses.

A round draws fresh prompts as those of the splits are drawn, none of which is in a split; samples responses from the
model itself; keeps the first correct response to each prompt, if any; and minimises their cross entropy with AdamW, in
one pass. With each round accuracy rises and diversity falls.

The reports of `pretrain_and_refine` continue those of pretraining: each round counts as one more step.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ..sampling import sample
from ..tasks.puzzle import PROMPT_LENGTH, PuzzleTask
from ..tasks.registry import built_in_task
from ..tasks.task import verify_all
from .pretraining import pretrain
from .recipes import BaseRecipe, Refinement

__all__ = ["pretrain_and_refine", "refine"]


def pretrain_and_refine(recipe: BaseRecipe, seed: int, out: Path) -> Iterator[tuple[int, float]]:
    """Both stages, saved to `out`; yields (step, mean loss in nats per response token since the last report)."""
    from transformers import AutoModelForCausalLM

    assert recipe.refinement is not None
    yield from pretrain(recipe, seed, out)
    model = AutoModelForCausalLM.from_pretrained(out, local_files_only=True)
    losses = refine(model, built_in_task(recipe.task), recipe.refinement, seed)
    yield from ((recipe.steps + n, loss) for n, loss in enumerate(losses, start=1))
    model.save_pretrained(out)


def refine(model: Any, task: PuzzleTask[Any], refinement: Refinement, seed: int) -> Iterator[float]:
    """Refine a model in place.

    Args:
        model: A causal language model of transformers.
        task: The task that it was pretrained on.
        refinement: Number of rounds, and what each of them does.
        seed: Seed of the prompts and of the sampled responses.

    Yields:
        The mean loss of each round in nats per response token.

    Raises:
        ValueError: No response of a round is correct, so that there is nothing to learn from.
    """
    rng = np.random.default_rng([seed, 1])  # another stream than the text of the first stage
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=refinement.lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    pad_id = task.tokenizer.pad_token_id
    for number in range(1, refinement.rounds + 1):
        rows = _own_successes(model, task, task.fresh_prompts(refinement.prompts, rng), refinement, generator)
        if not len(rows):
            raise ValueError(
                f"refinement: expected a correct response, got none in round {number}; pretrain the base for longer"
            )
        total = 0.0
        batches = rows.split(refinement.batch)
        for batch in batches:
            targets = batch[:, PROMPT_LENGTH:]
            logits = model(input_ids=batch[:, :-1], use_cache=False, logits_to_keep=targets.shape[1]).logits
            loss = cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=pad_id)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            total += loss.item()
        yield total / len(batches)


def _own_successes(
    model: Any,
    task: PuzzleTask[Any],
    prompts: list[tuple[int, ...]],
    refinement: Refinement,
    generator: torch.Generator,
) -> Tensor:
    """Rows of text in the form of `corpus`: each prompt with its first correct response, if any."""
    size, width, pad_id = refinement.samples, task.max_new_tokens, task.tokenizer.pad_token_id
    uniforms = torch.rand((len(prompts) * size, width), dtype=torch.float64, generator=generator)
    drawn = sample(
        model,
        prompts,
        group_size=size,
        max_new_tokens=width,
        eos_id=task.tokenizer.eos_token_id,
        pad_id=pad_id,
        temperature=refinement.temperature,
        uniforms=uniforms,
    )
    repeated = [prompt for prompt in prompts for _ in range(size)]
    responses = [ids[:n].tolist() for ids, n in zip(drawn.response_ids, drawn.lengths, strict=True)]
    kept: dict[tuple[int, ...], list[int]] = {}
    for prompt, response, verdict in zip(repeated, responses, verify_all(task, repeated, responses), strict=True):
        if verdict.correct and prompt not in kept:
            kept[prompt] = [*prompt, *response, *[pad_id] * (width - len(response))]
    return torch.tensor(list(kept.values()), dtype=torch.int64)
