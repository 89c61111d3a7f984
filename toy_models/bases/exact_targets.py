"""Pretraining on the exact distribution over correct responses: how the most accurate bases are made.

Drawn text says what must not be written only by never containing it, and a number is a token that says nothing about
its neighbours. A model of this size then learns to write sums well, but no constraint on the difference of two
numbers, and it does not search. Four changes teach it both:

- The target of a token is its distribution given the tokens before it, where the response is uniform over the correct
  ones (`solved_prompts.py`). The loss is the cross entropy with that target, so that it lacks the noise of a drawn
  token. The responses themselves are drawn from the same distribution.
- Numbers start with features of their value (`value_embedding.py`). The rest of their embedding is small noise, words
  of one kind share a mark, and the embedding learns more slowly than the other weights, which could otherwise
  overwrite it before they can read it.
- For `path`, training starts on the prompts whose numbers lie closest together and widens to all of them
  (`NearFirst`).
- `countdown` has so few puzzles that a model learns them by heart. It is also taught on puzzles with wider numbers,
  most batches hold no more of a response than the search needs (`WideNumbers`), and the matrices learn with Muon.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from ..tasks.countdown import N_STARTING, CountdownTask
from ..tasks.puzzle import PAD, PROMPT_LENGTH, PuzzleTask
from ..tasks.registry import built_in_task
from .muon import Muon
from .pretraining import REPORT_EVERY, build_model, learning_rate_factor
from .recipes import BaseRecipe, ExactTargets, NearFirst
from .solved_prompts import SolvedPrompts
from .value_embedding import embed_by_value

__all__ = ["batches", "pretrain_on_targets", "prompt_share"]


def batches(recipe: BaseRecipe, task: PuzzleTask[Any], seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The batch of every step: rows of text and the distributions of their response tokens (`SolvedPrompts.draw`).

    Raises ValueError for `WideNumbers` with a task other than `countdown`.
    """
    assert recipe.exact is not None
    lessons, rng = recipe.exact.lessons, np.random.default_rng(seed)
    if isinstance(lessons, NearFirst):
        solved = SolvedPrompts.drawn(task, lessons.prompts, np.random.default_rng([seed, 1]))
        for step in range(recipe.steps):
            share = prompt_share(lessons, step / recipe.steps)
            yield solved.draw(rng.integers(0, max(1, int(share * len(solved))), recipe.batch), rng)
        return
    if not isinstance(task, CountdownTask):
        raise ValueError(
            f"lessons: expected NearFirst for the task {task.name!r}, got WideNumbers; only countdown has them"
        )
    puzzles, solutions = zip(*task.solved_puzzles(lessons.largest), strict=True)
    solved = SolvedPrompts(task, [task.encode_prompt(puzzle) for puzzle in puzzles], solutions)
    weights = solved.counts**lessons.power
    weights /= weights.sum()
    for _ in range(recipe.steps):
        width = lessons.opening if rng.random() < lessons.short else None
        text, targets = solved.draw(rng.choice(len(solved), recipe.batch, p=weights), rng, width)
        numbers = text[:, :N_STARTING].numpy()
        moved = rng.random(len(numbers)) < lessons.shuffled
        numbers[moved] = rng.permuted(numbers[moved], axis=1)
        yield text, targets


def prompt_share(lessons: NearFirst, done: float) -> float:
    """Fraction of the prompts that are drawn from when the fraction `done` of the steps is done.

    >>> lessons = NearFirst(1000, first_share=0.2, all_from=(0.4, 0.6))
    >>> [round(prompt_share(lessons, done), 3) for done in (0.0, 0.4, 0.5, 0.6, 1.0)]
    [0.2, 0.2, 0.6, 1.0, 1.0]
    """
    start, end = lessons.all_from
    return lessons.first_share + (1.0 - lessons.first_share) * min(1.0, max(0.0, (done - start) / (end - start)))


def pretrain_on_targets(recipe: BaseRecipe, seed: int, out: Path) -> Iterator[tuple[int, float]]:
    """Train a base and save it to `out`; yields (step, mean loss in nats per response token since the last report)."""
    settings = recipe.exact
    assert settings is not None
    task = built_in_task(recipe.task)
    model = build_model(recipe, task, seed)
    embed_by_value(model, task, settings, recipe.init_std)
    model.train()
    optimizers = _optimizers(model, recipe, settings)
    schedules = [LambdaLR(optimizer, lambda step: learning_rate_factor(recipe, step)) for optimizer in optimizers]
    recent: list[float] = []
    for step, (text, targets) in enumerate(batches(recipe, task, seed), start=1):
        logits = model(input_ids=text[:, :-1], use_cache=False, logits_to_keep=targets.shape[1]).logits
        nats = -(targets * logits.log_softmax(dim=-1)).sum()
        tokens = (text[:, PROMPT_LENGTH:] != task.ids[PAD]).sum()
        for optimizer in optimizers:
            optimizer.zero_grad()
        (nats / _denominator(settings, text, tokens)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
        recent.append((nats / tokens).item())
        if step % REPORT_EVERY == 0 or step == recipe.steps:
            yield step, sum(recent) / len(recent)
            recent.clear()
    model.eval()
    model.save_pretrained(out)
    task.tokenizer.save_pretrained(out)


def _denominator(settings: ExactTargets, text: Tensor, tokens: Tensor) -> Tensor | int:
    """What the loss of a batch in nats is divided by: its number of tokens, or, where some batches are short, a number
    that gives a token the same weight in every batch."""
    return tokens if isinstance(settings.lessons, NearFirst) else len(text) * settings.lessons.opening


def _optimizers(model: Any, recipe: BaseRecipe, settings: ExactTargets) -> list[torch.optim.Optimizer]:
    """AdamW, slower on the embedding; or Muon for the matrices, the only weights that decay, and AdamW for the rest."""
    embedding = model.get_input_embeddings().weight
    others = [parameter for parameter in model.parameters() if parameter is not embedding]
    slow: dict[str, Any] = {"params": [embedding], "lr": recipe.lr * settings.embedding_rate, "weight_decay": 0.0}
    if settings.muon_lr is None:
        return [_adamw([{"params": others, "weight_decay": recipe.weight_decay}, slow], recipe)]
    matrices = [parameter for parameter in others if parameter.ndim == 2]
    vectors = [parameter for parameter in others if parameter.ndim != 2]
    return [
        _adamw([{"params": vectors, "weight_decay": 0.0}, slow], recipe),
        Muon(matrices, settings.muon_lr, weight_decay=recipe.weight_decay),
    ]


def _adamw(groups: list[dict[str, Any]], recipe: BaseRecipe) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.98), fused=True)
