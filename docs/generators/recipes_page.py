"""The page docs/recipes.md: how a recipe is written, the built-in ones, and every field."""

from __future__ import annotations

from itertools import groupby

from analysis.recipes.config import FIELDS, Field, show
from analysis.recipes.field_helpers import Table
from analysis.recipes.recipe import Recipe

__all__ = ["recipes_page"]

_HEAD = """\
# Recipes

<!-- Generated from analysis/recipes/fields.py and recipes/ by `python -m docs.generators`; do not edit. -->

A recipe is a TOML file that describes an experiment. Each factor of a run is a field, and a field that a recipe leaves
out keeps its default. `python -m analysis.trace --run mine.toml` runs a recipe; `--dry-run` shows what it resolves to.

```toml
schema = 1                    # the version of this format
about = "what it shows"       # shown by --list, like cost; neither is part of the experiment's identity
steps = 40

[optimizer]
lr = 1.5e-4

[grid]                        # lists multiply out to runs
seed = [0, 1]

[[grid.method]]               # and so do methods: a label, and the fields that it sets
label = "PSR"
objective.name = "psr-ratio"
update.rows = "drop"

[[grid.method]]
label = "W-REINFORCE"
objective.name = "w-reinforce-ratio"
objective.lambda = 0.1
```

`--set field=value` sets a field for all runs. The value is a TOML literal, or a bare word as a string. From Python it
is `Recipe.load(name).set(**{"update.epochs": 2})`.

- A field that is set stops varying in the grid.
- `objective.lambda` reaches only the w-reinforce methods, and a setting of the critic only methods with a critic.
- `unset` restores the default.
- `'grid.seed=[0,1,2]'` varies a field (the quotes are for zsh), and `grid=unset` leaves a single run.

The folder of an experiment carries a hash of all fields of all runs: equal hashes mean equal experiments.
"""
_COSTS = "[Performance](performance.md) says what they cost.\n"


def recipes_page() -> str:
    """The page as Markdown."""
    parts = [_HEAD, "## Built-in recipes\n", _COSTS, "| name | what | runs |\n|---|---|---|"]
    for recipe in map(Recipe.load, Recipe.names()):
        labels = ", ".join(run.label for run in recipe.expand())
        parts.append(f"| `{recipe.name}` | {recipe.about} | {labels} |")
    for table, fields in groupby(FIELDS.values(), key=lambda field: field.path.rpartition(".")[0]):
        parts.append(f"\n## {f'`[{table}]`' if table else 'Above the tables'}\n")
        parts.append("| field | type | default | range | meaning |\n|---|---|---|---|---|")
        parts += map(_row, fields)
    return "\n".join(parts) + "\n"


def _row(field: Field) -> str:
    kind = {int: "integer", float: "number", bool: "boolean", str: "string", Table: "table"}[field.kind]
    if field.size is not None:
        kind = f"{field.size or 'list of'} {kind}s"
    cells = [f"`{field.path}`", kind, f"`{show(field.default)}`", field.range, field.doc]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
