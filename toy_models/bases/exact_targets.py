"""Pretraining on the exact law over correct responses, numbers embedded by their value: how the most accurate bases
are made.

Drawn text says what must not be written only by never having it, and a number is a token that says nothing of its
neighbours: a model of this size then writes sums well, but learns no constraint that lies in the difference of two
numbers, and does not search. What teaches it those:

- The target of a token is its law given what precedes it, where the response is uniform over the correct ones
  (`solved_prompts.py`). The loss is the cross entropy of that law, hence without the noise of one drawn token. The
  responses themselves are drawn from the same law.
- Numbers start with features of their value (`value_embedding.py`). The rest of their embedding is small noise, words
  of one kind share a mark, and the embedding learns more slowly than the other weights, which would otherwise overwrite
  it before they can read it.
- «path» starts on the prompts whose numbers lie closest together and goes on to all of them (`NearFirst`).
- «countdown» has so few puzzles that a model learns them by heart. It is taught on those with wider numbers too, most
  batches holding no more of a response than takes the search (`WideNumbers`), and the matrices learn by Muon.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..tasks.countdown import GIVEN, CountdownTask
from ..tasks.puzzle import PAD, PROMPT_LENGTH, PuzzleTask
from ..tasks.registry import built_in_task
from .muon import Muon
from .pretraining import _REPORT_EVERY, _learning_rate, build_model
from .recipes import BaseRecipe, ExactLaw, NearFirst
from .solved_prompts import SolvedPrompts
from .value_embedding import embed_by_value

__all__ = ["batches", "pretrain_on_law"]


def batches(recipe: BaseRecipe, task: PuzzleTask, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """A batch of every step: rows of text and the laws of their response tokens, as `SolvedPrompts.draw` gives them.

    Raises ValueError where wide numbers are asked of a task other than «countdown».
    """
    assert recipe.exact is not None
    lessons, rng = recipe.exact.lessons, np.random.default_rng(seed)
    if isinstance(lessons, NearFirst):
        solved = SolvedPrompts.drawn(task, lessons.prompts, np.random.default_rng([seed, 1]))
        for step in range(recipe.steps):
            share = lessons.share(step / recipe.steps)
            yield solved.draw(rng.integers(0, max(1, int(share * len(solved))), recipe.batch), rng)
        return
    if not isinstance(task, CountdownTask):
        raise ValueError(f"lessons: expected NearFirst for the task {task.name!r}, got WideNumbers")
    puzzles, solutions = zip(*task.solved_puzzles(lessons.largest), strict=True)
    solved = SolvedPrompts(task, [task.encode_prompt(puzzle) for puzzle in puzzles], solutions)
    weights = solved.counts**lessons.power
    weights /= weights.sum()
    for _ in range(recipe.steps):
        width = lessons.opening if rng.random() < lessons.short else None
        text, laws = solved.draw(rng.choice(len(solved), recipe.batch, p=weights), rng, width)
        numbers = text[:, :GIVEN].numpy()
        moved = rng.random(len(numbers)) < lessons.shuffled
        numbers[moved] = rng.permuted(numbers[moved], axis=1)
        yield text, laws


def pretrain_on_law(recipe: BaseRecipe, seed: int, out: Path) -> Iterator[tuple[int, float]]:
    """Train a base and save it to `out`; yields (step, mean loss in nats per response token since the last report)."""
    law = recipe.exact
    assert law is not None
    task = built_in_task(recipe.task)
    model = build_model(recipe, task, seed)
    embed_by_value(model, task, law, recipe.init_std)
    model.train()
    optimizers = _optimizers(model, recipe, law)
    schedules = [torch.optim.lr_scheduler.LambdaLR(o, lambda step: _learning_rate(recipe, step)) for o in optimizers]
    recent: list[float] = []
    for step, (text, targets) in enumerate(batches(recipe, task, seed), start=1):
        logits = model(input_ids=text[:, :-1], use_cache=False, logits_to_keep=targets.shape[1]).logits
        nats = -(targets * logits.log_softmax(dim=-1)).sum()
        tokens = (text[:, PROMPT_LENGTH:] != task.ids[PAD]).sum()
        for optimizer in optimizers:
            optimizer.zero_grad()
        (nats / _denominator(law, text, tokens)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
        recent.append((nats / tokens).item())
        if step % _REPORT_EVERY == 0 or step == recipe.steps:
            yield step, sum(recent) / len(recent)
            recent.clear()
    model.eval()
    model.save_pretrained(out)
    task.tokenizer.save_pretrained(out)


def _denominator(law: ExactLaw, text: Tensor, tokens: Tensor) -> Tensor | int:
    """What the loss of a batch in nats is divided by: its tokens; or what makes a token weigh the same in every batch,
    where some are cut short."""
    return tokens if isinstance(law.lessons, NearFirst) else len(text) * law.lessons.opening


def _optimizers(model: Any, recipe: BaseRecipe, law: ExactLaw) -> list[torch.optim.Optimizer]:
    """AdamW, slower on the embedding; or Muon for the matrices, which alone decay, and AdamW for the rest."""
    embedding = model.get_input_embeddings().weight
    others = [parameter for parameter in model.parameters() if parameter is not embedding]
    slow: dict[str, Any] = {"params": [embedding], "lr": recipe.lr * law.embedding_rate, "weight_decay": 0.0}
    if law.muon_lr is None:
        return [_adamw([{"params": others, "weight_decay": recipe.weight_decay}, slow], recipe)]
    matrices = [parameter for parameter in others if parameter.ndim == 2]
    vectors = [parameter for parameter in others if parameter.ndim != 2]
    return [
        _adamw([{"params": vectors, "weight_decay": 0.0}, slow], recipe),
        Muon(matrices, law.muon_lr, weight_decay=recipe.weight_decay),
    ]


def _adamw(groups: list[dict[str, Any]], recipe: BaseRecipe) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.98), fused=True)
