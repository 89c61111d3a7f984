"""The pages docs/claims/: an index, and for each family of claims the mathematics, the entries and their verdicts.

They are made from the entries in the code and from the committed ledger, figures/ledger.json. A claim that it does not
hold is shown as not yet decided.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from analysis.claims import Claim, Entry
from analysis.claims.claim import FAMILIES
from analysis.claims.pages import claim_page
from analysis.claims.registry import all_claims
from analysis.claims.results import COMMITTED, committed
from analysis.claims.tables import NOT_YET, by_family, counts

__all__ = ["MATHEMATICS", "family_page", "index_page", "markdown_rows", "text_of"]

_HEAD = "<!-- Generated from analysis/claims/entries/ and the committed ledger by `python -m docs.generators`. -->"
_ORIGIN = "from the committed ledger"

# family -> what its claims are about, as equations
MATHEMATICS = {
    "gradients": r"""
A token $y$ that is sampled from $\pi = \mathrm{softmax}(z)$ and has weight $w$ moves the logits, to first order, by

$$\Delta z_v = \eta\, w\, ([v = y] - \pi_v).$$

PSR has $w = 1$ on the tokens of correct responses, NSR $w = -1$ on those of wrong ones. Under NSR the *logits* of all
other tokens rise in proportion to $\pi_v$. Their *probabilities* move by

$$\Delta \pi_v = \eta\, \pi_v \left(\pi_v + \pi_y - \sum_u \pi_u^2\right), \qquad v \neq y,$$

so that an unlikely token loses where $\pi_v + \pi_y$ is below $\sum_u \pi_u^2$. Optimisers, shared parameters, clipping
and group advantages change $w$ or the step; the entries measure how much of the law they leave.""",
    "identity": r"""
Let $r$ be the reward of a response, 0 or 1, and $p$ the probability of a correct one. The score has mean zero, hence

$$\nabla p = E[\,r\, \nabla \log \pi\,] = -E[\,(1 - r)\, \nabla \log \pi\,].$$

The expected gradients of PSR and NSR are one and the same if rollouts are fresh and the normaliser is fixed. Sampled
gradients differ in variance: that of PSR is larger where correct responses are many, that of NSR where wrong ones are.
What separates the two methods in training is therefore noise, the optimiser, the form of the objective, reuse with
clipping, and what is dropped from a batch. The decomposition switches these as factors of one design.""",
    "dynamics": r"""
A step $\Delta z$ of the logits changes the entropy $H = -\sum_v \pi_v \log \pi_v$, to first order, by

$$\Delta H = -\sum_v \pi_v\, (\log \pi_v + H)\, \Delta z_v.$$

Over training, methods travel at different speeds, so that curves at equal steps compare different distances. The
entries compare at equal steps, at equal optimiser updates and at equal Pass@1, always all three. Pass@1 is matched on
validation prompts, and what is compared is measured on test prompts.""",
    "pass-at-k": r"""
With $p_x$ the probability that one response to prompt $x$ is correct,

$$\mathrm{Pass}_k = E_x[\,1 - (1 - p_x)^k\,].$$

It depends on nothing but the distribution of $p_x$ over prompts. One response counts the mean of $p_x$, many count the
prompts that are hardly ever solved. On the tasks here $p_x$ is computed exactly, without sampling, so that the only
uncertainty is which seeds and which prompts were drawn.""",
    "field": r"""
Later papers change the weight of a prompt or of a sign. With $q$ the fraction of correct responses in a group, GRPO
without its division by the standard deviation, GRPO and MaxRL all weigh correct responses by $1 - q$ and wrong ones by
$-q$, times a factor of the prompt. Training on Pass@k weighs the gradient of a prompt by the chance that all other
attempts fail,

$$\nabla \mathrm{Pass}_k = E_x[\,k\, (1 - p_x)^{k-1}\, \nabla p_x\,],$$

and a step that helps one prompt moves another by the kernel $\kappa(x, x') = \nabla p_x \cdot \nabla p_{x'}$.""",
}

_INDEX = """\
# The ledger of claims

{head}

Each mechanistic claim of "The Surprising Effectiveness of Negative Reinforcement in LLM Reasoning"
([arXiv 2506.01347](https://arxiv.org/abs/2506.01347)) and of the papers that followed it is an entry with a statistic,
a margin and a rule. They are code, and older than the runs that they decide: every result names the commit of its
rules. A verdict is one of

- **holds** or **fails**: the whole 95% interval lies on one side of the bound;
- **depends**: on what, is stated;
- **undecided**: with the number of seeds, or whatever else, was missing.

```sh
python -m analysis.claims --list        # all claims, their verdicts and what each costs
python -m analysis.claims --show P2     # one claim, its numbers and its figure
python -m analysis.claims --quick       # what fits into a few minutes
python -m analysis.claims --full        # everything; the same command continues after an interruption
python -m analysis.claims --on RUN      # your own runs, by every claim that they can decide
```

[Judge your own runs](../how_to/judge_your_runs.md) describes the last one.

{state}
{figure}
{table}

"If it holds" says what to do in practice where the verdict is *holds*.

## The file of the ledger

`make ledger` writes ledger.json beside the figures. `schema` is {schema}; a file of another schema is refused.

| field | what it holds |
|:--|:--|
| `command`, `date`, `commit`, `versions` | what made the file |
| `entries` | one object for each claim that was decided |
| `entries[].id`, `verdict`, `reason`, `depends_on`, `missing` | the decision |
| `entries[].effects` | what was measured: `label`, `condition`, `value`, its interval from `low` to `high`, `unit` |
| | `n` units of the kind `over`, `null` (no effect), `margin`, `kind` of interval, `reason` where it has none |
| `entries[].tables` | numbers for figures: name, column, values |
| `entries[].studies` | training runs: `name`, `recipe`, `methods`, `seeds`, number of `runs`, `hash` of all fields |
| `entries[].made_with` | `commit of the rules`, digests of the code and of the runs, versions |
| `entries[].diverged` | study, method, seeds of runs that diverged |
| `entries[].seconds` | of the decision, without training |

```{{toctree}}
:hidden:

{pages}
```
"""


def index_page() -> str:
    """The page docs/claims/index.md."""
    from analysis.claims.ledger import SCHEMA

    claims, entries = list(all_claims().values()), committed()
    figure = _figure("ledger.png", "Verdict and first effect of every claim")
    return _INDEX.format(
        head=_HEAD,
        state=f"Today: {counts(entries, claims)}.",
        figure=figure,
        table=_index_table(claims, entries),
        schema=SCHEMA,
        pages="\n".join(name for name in FAMILIES if any(claim.family == name for claim in claims)),
    )


def family_page(family: str) -> str:
    """The page of one family, docs/claims/FAMILY.md."""
    claims = [claim for claim in all_claims().values() if claim.family == family]
    decided = {entry.id: entry for entry in committed()}
    parts = [f"# {FAMILIES[family]}", _HEAD, "## The mathematics in short", MATHEMATICS[family].strip()]
    if figure := _figure(f"ledger_{family}.png", f"Effects of the claims of this family: {FAMILIES[family]}"):
        parts += ["## Effects", figure.strip()]
    for claim in claims:
        parts.append(text_of(claim_page(claim, decided.get(claim.id), _ORIGIN, level=2)))
    return "\n\n".join(parts) + "\n"


def markdown_rows(claims: Sequence[Claim], entries: Sequence[Entry], link: str) -> str:
    """Rows of claim, statement in short, verdict and what to do if it holds.

    Args:
        claims: The claims.
        entries: What was decided.
        link: The page of a family, with `{family}` in it.
    """
    verdicts = {entry.id: str(entry.decision.verdict) for entry in entries}
    lines = ["| claim | in short | verdict | if it holds |", "|:--|:--|:--|:--|"]
    for claim in by_family(claims):
        verdict = verdicts.get(claim.id)
        shown = f"**{verdict}**" if verdict else f"{NOT_YET} decided"
        name = f"[{claim.id}]({link.format(family=claim.family)})"
        cells = [name, *(text_of(text).replace("|", "\\|") for text in (claim.title, shown, claim.practice))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def text_of(text: str) -> str:
    """A text of an entry for a Markdown page: a star or a sign that opens a tag stands for itself.

    Example:
        >>> text_of("**Rule.** the crossing p* < 1, p* > 0")
        '**Rule.** the crossing p\\\\* &lt; 1, p\\\\* > 0'
    """
    kept = text.replace("**", "\0").replace("*", "\\*").replace("\0", "**")
    return kept.replace("<", "&lt;")


def _index_table(claims: Sequence[Claim], entries: Sequence[Entry]) -> str:
    return markdown_rows(claims, entries, "{family}.md")


def _figure(name: str, text: str) -> str:
    folder: Path = COMMITTED.parent
    return f"\n![{text}](../../figures/{name})\n" if (folder / name).exists() else ""
