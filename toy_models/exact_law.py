"""Pretraining on the exact law over correct responses, numbers embedded by their value: how the most accurate bases
are made.

Drawn text says what must not be written only by never having it, and a number is a token that says nothing of its
neighbours: a model of this size then writes sums well, but learns no constraint that lies in the difference of two
numbers. Three things teach it those:

- The target of a token is its law given what precedes it, where the response is uniform over the correct ones:
  q(v | x, y_<t) = #{solutions that open with y_<t v} / #{solutions that open with y_<t}. The loss is the cross entropy
  of that law, hence without the noise of one drawn token. The responses themselves are drawn from the same law.
- A number n starts with the features cos and sin of 2πn/P, so that sums and differences are rotations, and of
  2πk·ind(n)/100, so that products are (ind is the index to base 2 modulo 101: 2^ind(n) = n, hence ind(xy) = ind(x) +
  ind(y) modulo 100). The rest of its embedding is small noise, words of one kind share a mark, and the embedding
  learns more slowly than the other weights, which would otherwise overwrite it before they can read it.
- Training starts on the prompts whose numbers lie closest together and goes on to all of them.

Run by `ensure_base` as `python -m toy_models.exact_law REQUEST` in place of `toy_models.pretraining`; reports as that.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .bases import BaseRecipe, ExactLaw
from .pretraining import _REPORT_EVERY, _learning_rate, build_model
from .puzzle import PAD, PROMPT_LENGTH, Ints, PuzzleTask
from .refinement import fresh_prompts
from .task import built_in_task

__all__ = ["SolvedPrompts", "embed_by_value", "pretrain_on_law", "value_features"]

_PRIME, _ROOT = 101, 2  # 2 is a primitive root of 101, the first prime above every number of the tasks
_KINDS = 3  # numbers, marks with a number (jumps), other words


class SolvedPrompts:
    """Prompts with all their solutions, ascending in the span of their numbers (greatest less least)."""

    def __init__(self, task: PuzzleTask, n: int, rng: np.random.Generator) -> None:
        """Draw `n` prompts by the law of the splits, none of which is in a split; a prompt may come twice."""
        drawn = fresh_prompts(task, n, rng)
        solved = [task.solutions(prompt) for prompt in drawn]
        spans = [max(puzzle) - min(puzzle) for puzzle in map(task.parse, drawn)]
        order = np.argsort(spans, kind="stable")
        self.task = task
        self.prompts: Ints = np.array(drawn, dtype=np.int64)[order]
        self.counts: Ints = np.array([len(solutions) for solutions in solved])[order]
        width, pad = task.max_new_tokens, task.tokenizer.pad_token_id
        # Vocabularies are of about a hundred words: a byte a token keeps millions of responses small.
        self._responses = np.array(
            [[*response, *[pad] * (width - len(response))] for i in order for response in solved[i]], dtype=np.uint8
        )
        self._first = np.concatenate([[0], self.counts.cumsum()[:-1]])

    def draw(self, n: int, rng: np.random.Generator, share: float = 1.0) -> tuple[Tensor, Tensor]:
        """`n` rows of text (n, L) from the first `share` of the prompts, each with one of its solutions, uniformly;
        and the law of every response token given those before it, (n, R, vocabulary), 0 under padding."""
        which = rng.integers(0, max(1, int(share * len(self.prompts))), n)
        rows = self._first[which] + rng.integers(0, self.counts[which])
        own = self._responses[rows].astype(np.int64)
        text = np.concatenate([self.prompts[which], own], axis=1)
        return torch.from_numpy(text), torch.from_numpy(self._laws(which, own))

    def _laws(self, which: Ints, own: Ints) -> NDArray[np.float32]:
        """Shares of the next tokens among the prompt's solutions that agree with the row's own so far."""
        counts, (n, width), size = self.counts[which], own.shape, len(self.task.words)
        row = np.repeat(np.arange(n), counts)
        within = np.arange(len(row)) - np.repeat(counts.cumsum() - counts, counts)
        others = self._responses[np.repeat(self._first[which], counts) + within].astype(np.int64)
        agree = np.ones(others.shape, dtype=np.bool_)
        np.logical_and.accumulate(others[:, :-1] == own[row, :-1], axis=1, out=agree[:, 1:])
        cell = (row[:, None] * width + np.arange(width)) * size + others
        laws = np.bincount(cell[agree], minlength=n * width * size).reshape(n, width, size).astype(np.float32)
        laws /= laws.sum(axis=-1, keepdims=True)
        laws[own == self.task.tokenizer.pad_token_id] = 0.0
        return laws


def value_features(value: int, periods: tuple[int, ...], characters: tuple[int, ...]) -> list[float]:
    """cos and sin of 2πn/P for each period P, then of 2πk·ind(n)/100 for each k (0 has no index: zeros).

    >>> [round(x, 3) for x in value_features(3, (4, 12), ())]
    [-0.0, -1.0, 0.0, 1.0]
    >>> six, two, three = (np.array(value_features(n, (), (1,))) @ [1, 1j] for n in (6, 2, 3))
    >>> bool(abs(six - two * three) < 1e-12)
    True
    """
    features = [f(2 * math.pi * value / period) for period in periods for f in (math.cos, math.sin)]
    if value == 0:
        return features + [0.0] * (2 * len(characters))
    index = _indices()[value]
    return features + [f(2 * math.pi * k * index / (_PRIME - 1)) for k in characters for f in (math.cos, math.sin)]


def _indices() -> dict[int, int]:
    return {pow(_ROOT, exponent, _PRIME): exponent for exponent in range(_PRIME - 1)}


def embed_by_value(model: Any, task: PuzzleTask, law: ExactLaw, std: float) -> None:
    """Rewrite the embedding (tied: the head too) in place; `std` is that of its random entries.

    Numbers and jumps (+d has the features of d) are scaled down to `noise` and get their features, each coordinate
    `feature_scale` times as large as the random ones were; every word's last coordinates mark its kind, `mark_scale`
    times as large. Raises ValueError where features and marks are more than the embedding has room for.
    """
    table = model.get_input_embeddings().weight
    n_features = 2 * (len(law.periods) + len(law.characters))
    if n_features + _KINDS > table.shape[1]:
        raise ValueError(
            f"periods, characters: expected at most {(table.shape[1] - _KINDS) // 2} together, as hidden is "
            f"{table.shape[1]}, received {n_features // 2}"
        )
    with torch.no_grad():
        for word, token in task.ids.items():
            row, digits = table[token], word.lstrip("+")
            kind = 0 if not digits.isdecimal() else 1 if digits != word else 2
            if kind:
                features = torch.tensor(value_features(int(digits), law.periods, law.characters))
                row *= law.noise
                row[:n_features] = features * (law.feature_scale * math.sqrt(2) * std)
            row[-_KINDS:] = 0.0
            row[-1 - kind] = law.mark_scale * std


def pretrain_on_law(recipe: BaseRecipe, seed: int, out: Path) -> Iterator[tuple[int, float]]:
    """Train a base and save it to `out`; yields (step, mean loss in nats per response token since the last report)."""
    law = recipe.exact
    assert law is not None
    task = built_in_task(recipe.task)
    model = build_model(recipe, task, seed)
    embed_by_value(model, task, law, recipe.init_std)
    model.train()
    embedding = model.get_input_embeddings().weight
    others = [parameter for parameter in model.parameters() if parameter is not embedding]
    slow: dict[str, Any] = {"params": [embedding], "lr": recipe.lr * law.embedding_rate, "weight_decay": 0.0}
    optimizer = torch.optim.AdamW(
        [{"params": others}, slow], lr=recipe.lr, betas=(0.9, 0.98), weight_decay=recipe.weight_decay, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _learning_rate(recipe, step))
    solved = SolvedPrompts(task, law.prompts, np.random.default_rng([seed, 1]))
    rng = np.random.default_rng(seed)
    recent: list[float] = []
    for step in range(1, recipe.steps + 1):
        text, targets = solved.draw(recipe.batch, rng, law.share((step - 1) / recipe.steps))
        logits = model(input_ids=text[:, :-1], use_cache=False, logits_to_keep=task.max_new_tokens).logits
        loss = -(targets * logits.log_softmax(dim=-1)).sum() / (text[:, PROMPT_LENGTH:] != task.ids[PAD]).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        recent.append(loss.item())
        if step % _REPORT_EVERY == 0 or step == recipe.steps:
            yield step, sum(recent) / len(recent)
            recent.clear()
    model.eval()
    model.save_pretrained(out)
    task.tokenizer.save_pretrained(out)


def _main() -> None:
    request = json.loads(sys.argv[1])
    fields = request["recipe"]
    recipe = BaseRecipe(**{**fields, "exact": ExactLaw.from_json(fields["exact"])})
    torch.set_num_threads(recipe.threads)
    channel, sys.stdout = sys.stdout, sys.stderr  # what libraries print must not mix with the reports
    for step, loss in pretrain_on_law(recipe, request["seed"], Path(request["out"])):
        print(json.dumps([step, loss]), file=channel, flush=True)


if __name__ == "__main__":
    _main()
