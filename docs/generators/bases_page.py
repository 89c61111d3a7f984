"""The page docs/bases.md: what the built-in bases know, measured exactly on the validation prompts.

Rendered from docs/results/bases.json. `measure` makes that file from the cached weights, and pretrains what is not
cached, so the page says what the bases are on the machine that measured them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from toy_models.bases.recipes import BASES, BaseRecipe, NearFirst

from .results import read

if TYPE_CHECKING:
    import pandas as pd

    from toy_models import Policy, Prompt
    from toy_models.tasks.puzzle import PuzzleTask

__all__ = ["bases_page", "measure", "recipe_cells"]

CEILING = 0.99

_HEAD = f"""\
# Bases

<!-- Generated from docs/results/bases.json by `python -m docs.generators`; do not edit. -->

`policy.base` in a recipe takes one of these names, or [another model](how_to/choose_a_policy.md). The numbers are
measured at T = 1 on the validation prompts of the base's task. The settings of the corpora were chosen by these
numbers, too.

- Pass@1, Pass@256 and effective solutions are exact.
- H is the mean entropy of a token on responses that the base samples itself.
- "below" is the fraction of prompts whose Pass@256 is below {CEILING}. If there are none, no method can show a gain at
  large k.
- "effective solutions" is exp of the entropy of the distribution over the correct responses, beside the number of
  correct responses that exist. Both are geometric means over prompts, so that their ratio is a geometric mean too.

"Steps" are steps of pretraining. "Rounds" are rounds of expert iteration that follow
(`toy_models/bases/refinement.py`): "4 rounds of 1024 × 4" samples 4 responses to each of 1024 prompts outside all
splits and trains on the first correct response to each, four times. This raises accuracy and costs diversity.

A base without a corpus learns the exact distribution over the correct responses instead, from numbers that are embedded
by value (`toy_models/bases/exact_targets.py`). It learns it on the stated number of prompts, or for `countdown` on
every puzzle outside all splits with numbers up to the stated one.

A base is made on first use. The more steps and the more exact its targets, the longer that takes
([Performance](performance.md)).

| base | task | corpus | steps | Pass@1 | Pass@256 | below | H, nats | effective solutions | correct responses |
|:--|:--|:--|--:|--:|--:|--:|--:|--:|--:|
"""
_MODES = """
## Two modes

A response can walk silently or aloud ([Tasks](explanation/tasks.md)). The mode is walking aloud, and its mass is the
exact probability that a response opens so.

| base | prompts | Pass@1 | mass of the mode | Pass@1 within the mode | Pass@1 outside it |
|:--|:--|--:|--:|--:|--:|
"""


def recipe_cells(name: str, recipe: BaseRecipe) -> str:
    """What the page says of a base before it is measured."""
    corpus = ", ".join(f"{setting} {value:g}" for setting, value in recipe.corpus.items())
    if recipe.exact is not None:
        lessons = recipe.exact.lessons
        extent = f"{lessons.prompts} prompts" if isinstance(lessons, NearFirst) else f"numbers up to {lessons.largest}"
        corpus = f"exact distribution, {extent}"
    return f"| `{name}` | {recipe.task} | {corpus} | {recipe.steps}{_rounds(recipe)} |"


def _rounds(recipe: BaseRecipe) -> str:
    stage = recipe.refinement
    if stage is None:
        return ""
    return f" + {stage.rounds} rounds of {stage.prompts} × {stage.samples} at T = {stage.temperature:g}"


def measure(progress: Callable[[str], None] = lambda name: None) -> dict[str, Any]:
    """What each built-in base knows, by name; `progress` is told the name of each before it is loaded.

    Keys of a base: pass_at_1, pass_at_256, below (fraction of prompts), entropy (nats), effective_solutions and
    solutions (geometric means over prompts), and for a task with two modes `modes`, by kind of prompt.
    """
    from toy_models import load_policy
    from toy_models.tasks.registry import built_in_task

    bases = {}
    for name, recipe in BASES.items():
        progress(name)
        policy, task = load_policy(name), built_in_task(recipe.task)
        prompts = task.prompts("validation")
        measured = _measured(policy, task, prompts)
        counts = [len(task.solutions(prompt.ids)) for prompt in prompts]
        bases[name] = _accuracy(measured) | {"solutions": math.exp(sum(map(math.log, counts)) / len(counts))}
        tag = getattr(task, "tagged", None)
        if tag is not None:
            tagged = _measured(policy, task, [replace(prompt, ids=tag(prompt.ids)) for prompt in prompts])
            bases[name]["modes"] = {"plain": _by_mode(measured), "after the tag": _by_mode(tagged)}
    return {"bases": bases}


def bases_page(data: Mapping[str, Any] | None = None) -> str:
    """The page as Markdown, from measurements (default: the committed ones).

    Raises:
        KeyError: a built-in base that was not measured.
    """
    known = (read("bases") if data is None else data)["bases"]
    rows, modes = [], []
    for name, recipe in BASES.items():
        base = known[name]
        cells = [
            f"{base['pass_at_1']:.3f}",
            f"{base['pass_at_256']:.3f}",
            f"{base['below']:.1%}",
            f"{base['entropy']:.2f}",
            f"{base['effective_solutions']:.1f}",
            f"{base['solutions']:.1f}",
        ]
        rows.append(f"{recipe_cells(name, recipe)} {' | '.join(cells)} |")
        for kind, values in base.get("modes", {}).items():
            modes.append(f"| `{name}` | {kind} | {' | '.join(f'{value:.3f}' for value in values.values())} |")
    return _HEAD + "\n".join(rows) + "\n" + _MODES + "\n".join(modes) + "\n" + _settings()


def _settings() -> str:
    from toy_models.tasks.registry import built_in_task

    tasks = [built_in_task(recipe.task) for recipe in BASES.values()]
    meanings = dict.fromkeys(f"- `{name}`: {doc}\n" for task in tasks for name, doc in task.corpus_settings.items())
    return "\n## Settings of the corpora\n\n" + "".join(meanings)


def _measured(policy: Policy, task: PuzzleTask[Any], prompts: Sequence[Prompt]) -> pd.DataFrame:
    import pandas as pd
    import torch

    from analysis.evaluation.eval_rows import FixedPrefixes, evaluate

    own = FixedPrefixes.from_samples(policy, task, prompts, generator=torch.Generator().manual_seed(0))
    return pd.DataFrame(evaluate(policy, task, prompts, fixed=own, samples=0))


def _accuracy(rows: pd.DataFrame) -> dict[str, Any]:
    from analysis.evaluation.metrics import METRICS

    at_256 = METRICS["pass@256"].values(rows)
    return {
        "pass_at_1": float(rows["p"].mean()),
        "pass_at_256": float(at_256.mean()),
        "below": float((at_256 < CEILING).mean()),
        "entropy": float(rows["entropy_fixed"].mean()),
        "effective_solutions": math.exp(METRICS["log_effective_solutions"].values(rows).mean()),
    }


def _by_mode(rows: pd.DataFrame) -> dict[str, float]:
    from analysis.evaluation.metrics import METRICS

    return {name: float(METRICS[name].values(rows).mean()) for name in ("pass@1", "mode_mass", "mode_p", "outside_p")}
