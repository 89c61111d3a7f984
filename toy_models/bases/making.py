"""The child process that makes a base: it runs the stages of the recipe and reports the loss on the way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import torch

from ..child_process import Send
from .recipes import BaseRecipe

__all__ = ["main", "make_base"]


def main(send: Send, request: str) -> None:
    """Make the base of a request, the JSON text of its recipe, seed and folder; sends [step, loss] for each report."""
    fields = json.loads(request)
    recipe = BaseRecipe.from_json(fields["recipe"])
    torch.set_num_threads(recipe.threads)
    for report in make_base(recipe, fields["seed"], Path(fields["out"])):
        send(report)


def make_base(recipe: BaseRecipe, seed: int, out: Path) -> Iterator[tuple[int, float]]:
    """Train a base and save it to `out`; yields (step, mean loss in nats per response token since the last report)."""
    if recipe.exact is not None:
        from .exact_targets import pretrain_on_targets

        return pretrain_on_targets(recipe, seed, out)
    if recipe.refinement is not None:
        from .refinement import pretrain_and_refine

        return pretrain_and_refine(recipe, seed, out)
    from .pretraining import pretrain

    return pretrain(recipe, seed, out)
