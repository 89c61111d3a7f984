"""Objectives as text: the table and the single entry that the command prints, and the page docs/objectives.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .aggregation import CORRESPONDENCE
from .definition import Entry
from .entries import ENTRIES
from .parameters import Parameter

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["objectives_page", "one_entry", "table"]

_COUPLED = {
    "token": "",
    "response": "coupled over its response",
    "minibatch": "coupled over the minibatch",
    "pair": "coupled over a pair of responses",
}

_HEAD = """\
# Objectives

<!-- Generated from analysis/objectives/ by `python -m docs.generators`; do not edit. -->

Every objective is a weight for each token, and a loss that does not know of it: ∂L/∂z = −w·(e_y − π) + r at logits z,
with ρ = π_y/π_old,y, A the advantage, r in {0, 1} the reward, q the mean reward of the group, ref the reference policy,
sg the stop-gradient, σ the sigmoid. A temperature T multiplies the vector by 1/T, with π taken at z/T. For each of them
a test compares the closed form with autograd of the loss, ‖Δ‖∞ ≤ 1e-10·max(1, |w|) in float64, over ratios from 1e-6 to
1e6 and both sides of every clip; rows whose token has all the mass but 1e-130 are compared with sixty digits.

`python -m analysis.objectives` prints the table, `python -m analysis.objectives grpo` one of them in full. In a recipe
`objective.name` names it and `objective.<parameter>` its parameters; from Python `objectives.get(name, **parameters)`.
psr, nsr, w-reinforce and reinforce are three objectives each: write psr-ratio, or psr with `objective.form`. A
verifier's noise flips rewards before any of this: `task.false_positive`, `task.false_negative`.
"""

_OWN = """\
## One's own

```python
# mine.py
from analysis import objectives

@objectives.register("square", needs=("advantages",))
def square(log_probs, batch):  # (B, T), objectives.TokenBatch -> the loss of each token
    return -batch.per_token("advantages") * log_probs.exp() ** 2
```

`objectives.get("square")` in the same process; `objective.name = "mine.py:square"` in a recipe (its source is part of
the recipe's hash, its digest of run.json), `--methods PSR,NSR,mine.py:square` in the factorial. Its weight is the
derivative of the loss by autograd. `objectives.analyze(loss, objectives.Example(logits, tokens, fields))` gives the
weight, the part that no weight explains, and whether there is any; with `of="logits"` for losses of the logits.
"""

_DIFFERENCES = """\
## Where this differs from what is written elsewhere

- GRPO on binary rewards has A = √((1 − q)/q) and −√(q/(1 − q)) with the biased standard deviation. verl and TRL take
  the unbiased one: both are √((G − 1)/G) times that, and 1e-6 (TRL 1e-4) is added to the denominator. The implied λ of
  (1 − q)/q is the same.
- GSPO's weight is A·s, and its 1/|y| that of the sequence mean (`update.normalizer = per_sequence`): with 1/|y| in the
  weight as well it would be counted twice.
- DAPO's, Dr. GRPO's and GSPO's aggregations are no part of their entries: set `update.normalizer` (batch_tokens,
  constant, per_sequence).
- NFT with its floor at 0 has weight ω·1 on correct responses for every ρ, also where ρ underflows to 0.
- The sampled KL in a loss: k1 has the weight −β, so its expected gradient is zero; verl's k3 has weight 0 where k3
  itself (not the log-ratio) exceeds 10.
- KL-Cov is written with a KL penalty in the paper; its code, as here, with |log ρ|, whose weight is 0 at ρ = 1.
- OREAL's code normalises correct and wrong responses apart; here the update's normaliser divides both.
"""


def _default(one: Parameter) -> str:
    return "required" if one.required else "unset" if one.default is None else str(one.default)


def _notes(entry: Entry) -> str:
    return "; ".join(text for text in (entry.note, _COUPLED[entry.coupling]) if text)


def table() -> Table:
    """All objectives, for a terminal."""
    from rich.markup import escape
    from rich.table import Table

    out = Table(title="Objectives: the weight w of a token, ∂L/∂z = −w·(e_y − π) + r", title_justify="left")
    for column, ratio in (("name", 4), ("w, or the vector r", 6), ("source", 6)):
        out.add_column(column, overflow="fold", ratio=ratio)
    for entry in ENTRIES.values():
        out.add_row(*map(escape, (entry.name, entry.weight, entry.source)))
    return out


def one_entry(entry: Entry) -> str:
    """One objective in full: formula, source, inputs, parameters, notes."""
    lines = [
        f"{entry.name}: {entry.title}",
        "",
        f"  {'w' if entry.scalar else 'r'}  {entry.weight}",
        f"  source      {entry.source}",
        f"  inputs      {', '.join(('log_probs', *entry.needs))}",
    ]
    if entry.aliases:
        lines.append(f"  also called {', '.join(entry.aliases)}")
    if notes := _notes(entry):
        lines.append(f"  note        {notes}")
    lines += ["", "  parameters" if entry.parameters else "  no parameters"]
    for one in entry.parameters:
        lines.append(f"    {one.name.rstrip('_'):<16} {_default(one):<15} {one.range}: {one.doc}")
    return "\n".join(lines)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def objectives_page() -> str:
    """docs/objectives.md as text."""
    lines = [
        _HEAD,
        "| name | w per token (or the vector r) | source | parameters (default) | |",
        "|:--|:--|:--|:--|:--|",
    ]
    for entry in ENTRIES.values():
        parameters = ", ".join(f"{one.name.rstrip('_')} ({_default(one)})" for one in entry.parameters)
        aliases = f" ({', '.join(entry.aliases)})" if entry.aliases else ""
        lines.append(_row(f"`{entry.name}`{aliases}", entry.weight, entry.source, parameters, _notes(entry)))
    lines += [
        "\n## What TRL and verl call it\n",
        "Their names of normalisers (token-mean, bnpo, seq-mean-token-mean, "
        "seq-mean-token-sum,\nseq-mean-token-sum-norm) and of advantages (grpo, dr_grpo, rloo) are accepted in "
        "recipes as well; B is the number of\nresponses of a minibatch.\n",
        "| what | here | TRL | verl |",
        "|:--|:--|:--|:--|",
    ]
    lines += [_row(*row) for row in CORRESPONDENCE]
    return "\n".join([*lines, "", _OWN, _DIFFERENCES])
