"""docs/objectives.md: every objective with its formula, what other libraries call it, and how to add one."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.objectives.correspondence import CORRESPONDENCE
from analysis.objectives.definition import Entry
from analysis.objectives.entries import SECTIONS
from analysis.objectives.estimators import ESTIMATORS
from analysis.objectives.listing import default_text, notes
from analysis.objectives.parameters import CORRECTIONS
from analysis.objectives.registries import REGISTRIES

__all__ = ["objectives_page"]

_HEAD = """\
# Objectives

<!-- Generated from analysis/objectives/ by `python -m docs.generators`; do not edit. -->

Each objective is implemented twice, independently: as a closed-form weight w per token and as a loss. The gradient
of the loss in the logits z is ∂L/∂z = −w·(e_y − π) + r, where r is zero except for regularisers. Symbols: ρ =
π_y/π_old,y is the ratio, A the advantage, q the mean reward of the group, ref the reference policy, sg the
stop-gradient, σ the sigmoid; in formulas of A, r is the reward, 0 or 1. A temperature T multiplies the vector by
1/T, with π taken at z/T.

For each objective a test compares the closed form with autograd of the loss: ‖Δ‖∞ ≤ 1e-10·max(1, |w|) in float64,
over ratios from 1e-6 to 1e6 and on both sides of every clip. Rows whose token has all the mass except 1e-130 are
compared with sixty digits.

`python -m analysis.objectives` prints the tables, `--family WORD` one of them, and `python -m analysis.objectives grpo`
one objective in full; `--json` prints any of these as data. In a recipe `objective.name` names the objective and
`objective.<parameter>` sets its parameters; from Python use `objectives.get(name, **parameters)`. psr, nsr, w-reinforce
and reinforce are three objectives each: write psr-ratio, or psr with `objective.form`. The noise of a verifier flips
rewards before any of this: `task.false_positive`, `task.false_negative`.

The columns TRL and verl say under which settings the two libraries compute the same weights, and where they differ. A
dash: the library has no such objective. The tests compare with the libraries' own functions.

Where a source writes one form and its code another, or practice a third, each form has its own name, and the note says
which one a name is.

## The objectives"""

_OWN = """\
## Your own objective

```python
# mine.py
from analysis import objectives

@objectives.register("square", needs=("advantages",))
def square(log_probs, batch):  # (B, T), objectives.TokenBatch -> the loss of each token
    return -batch.per_token("advantages") * log_probs.exp() ** 2
```

Use it as `objectives.get("square")` in the same process, as `objective.name = "mine.py:square"` in a recipe (its
source is part of the recipe's hash, and its digest is in run.json), or as `--methods PSR,NSR,mine.py:square` in the
factorial. A is 1 for a correct and −1 for a wrong response unless `objective.advantage` says otherwise. Its weight is
the derivative of the loss by autograd. `objectives.analyze(loss,
objectives.Example(logits, tokens, fields))` gives the weight, the part of the gradient that no weight explains, and
whether there is such a part; pass `of="logits"` for a loss of the logits.

To add an objective to the toolkit, write one `Entry` in the module of its family in `analysis/objectives/entries/`,
its two functions `…_weight` and `…_loss` in the module of `analysis/objectives/formulas/` that the entry's `formula`
names, and a case in `tests/objectives/cases/`. Recipes, this page and the command follow from the entry.
"""

_DIFFERENCES = """\
## Where this differs from what is written elsewhere

- PSR and NSR have the same expected gradient, ∇p, where rollouts come from the policy that is differentiated, the form
  is log or ratio, no clip binds, and token losses are summed over a fixed divisor. Without one of these they differ;
  [The laws, section 4](explanation/laws.md), says how.
- GRPO on binary rewards has A = √((1 − q)/q) and −√(q/(1 − q)) with the biased standard deviation. verl and TRL take
  the unbiased one: both are √((G − 1)/G) times that, and 1e-6 (TRL 1e-4) is added to the denominator. The implied λ of
  (1 − q)/q is the same.
- The advantages of a group share that λ and differ by the weight of the prompt: on binary rewards A₋ = −w and A₊ =
  w(1 − q)/q, where w, what a failure weighs, is q in Dr. GRPO, GPG, Kimi k1.5 and DRO, qG/(G − 1) in RLOO,
  √(q/(1 − q)) in GRPO, 1 in MaxRL, and in Pass@k √((1 − R)/R)·q/(1 − q) with R the chance that one of k is correct.
  QAE, WAPO, RAFT and ReMax push one side alone. OPO, the optimal token baseline and REINFORCE++ count tokens, so that
  in their λ the fraction of the tokens in correct responses stands for q.
- Where code and paper of an advantage differ, a parameter says which one is meant: `interpolation` (QAE), `rescaling`
  (GPG), `divide_by`, `whiten`; MaxRL's code adds 1e-6 to q, which is not done here. Several estimators of Pass@k are in
  use: `pass-at-k`, `pass-at-k-full` and verl's `grpo_passk`, `pass-at-k-best`. ROLL trains on none; its kimi15 and
  verl's dro are one loss, `dro-token`, in which tokens replace the responses of both papers.
- GSPO's weight is A·s, and its 1/|y| that of the sequence mean (`update.normalizer = per_sequence`): with 1/|y| in the
  weight as well it would be counted twice.
- The aggregations of DAPO, Dr. GRPO and GSPO are not part of their entries: set `update.normalizer` (batch_tokens,
  constant, per_sequence).
- LUSPO is GSPO's loss summed over the tokens: `update.normalizer = constant` with the number of responses. With
  per_sequence it is GSPO.
- verl's vanilla, dppo, sapo and cispo bound |log ρ| at 20, beyond which vanilla and sapo have no gradient; here only
  `gspo-token` has such a bound, its log_ratio_max.
- verl adds a distillation loss to that of the task's rewards by default; here it is the objective by itself.
- TRL's `delta` is dual_clip = δ where δ ≥ 1 + ε_high; below it is clip_high = δ − 1 with dual_clip = 1 + ε_high.
- TRL's VESPO multiplies the factors of a rollout correction of tokens into W instead of the loss; so does `vespo`.
- verl multiplies GMPO's loss by the geometric mean of the factors over the response, here it is their mean.
- DPPO's old policy is the one that sampled, in the paper and in prime-rl; verl takes the recomputed one.
- NFT with its floor at 0 has weight ω·1 on correct responses for every ρ, also where ρ underflows to 0.
- The sampled KL in a loss: k1 has the weight −β, so its expected gradient is zero; verl's k3 has weight 0 where k3
  itself (not the log-ratio) exceeds 10.
- KL-Cov is written with a KL penalty in the paper; its code, as here, with |log ρ|, whose weight is 0 at ρ = 1.
- OREAL's code normalises correct and wrong responses apart; here the update's normaliser divides both.
"""


_CORRECTIONS = """
## Corrections that combine with any objective of tokens or responses

A factor c_t that is not differentiated multiplies the loss of each token; where every token carries the loss of its
response (as in gspo, gmpo or kto) the weight takes the mean of the factor over the response. μ are the
log-probs of the engine that sampled, `TokenBatch.rollout_log_probs`; the training loop gives those of the distribution
that it sampled from, in the precision and with the top-k and top-p of the rollouts. A rejected token keeps its part in
the divisor of the loss. verl's bypass_mode takes μ for the old policy: give μ as `old_log_probs`. TRL counts a token
without a log-prob of the engine as μ = π_old; here that is refused.

| here | TRL | verl |
|:--|:--|:--|
| `rollout_is = token-truncate`, `rollout_is_high` | vllm_importance_sampling_mode = token_truncate, …_clip_max | \
rollout_is = token, rollout_is_threshold = C |
| `rollout_is = token-mask`, `rollout_is_low`, `rollout_is_high` | token_mask, …_clip_min, …_clip_max | rollout_is = \
token, rollout_is_threshold = "low_high" (IcePop) |
| `rollout_is = sequence-truncate` | sequence_truncate | rollout_is = sequence, rollout_is_threshold = C |
| `rollout_is = sequence-mask` | sequence_mask, its default | rollout_is = sequence, rollout_is_threshold = "low_high" |
| `rollout_reject = token-k1`, …, `sequence-max-k3`, `rollout_reject_high` | — | rollout_rs = token_k1, …, seq_max_k3, \
rollout_rs_threshold |
| `off_policy_threshold` | off_policy_mask_threshold | — |
"""


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _section(title: str, entries: Sequence[Entry]) -> list[str]:
    """A family: a table of formulas and names, then what its members take and what else there is to know."""
    lines = [
        f"\n### {title}\n",
        "| name | w per token (or the vector r) | source | TRL | verl |",
        "|:--|:--|:--|:--|:--|",
    ]
    for entry in entries:
        aliases = f" ({', '.join(entry.aliases)})" if entry.aliases else ""
        cells = (entry.weight, entry.source, entry.trl or "—", entry.verl or "—")
        lines.append(_row(f"`{entry.name}`{aliases}", *cells))
    lines.append("")
    for entry in entries:
        text = ". ".join(part for part in (_sentence(_parameters(entry)), _sentence(notes(entry))) if part)
        lines.append(f"- `{entry.name}`: {text}.")
    return lines


def _parameters(entry: Entry) -> str:
    """The parameters with their defaults, those without one last."""
    named = {parameter.name.rstrip("_"): default_text(parameter) for parameter in entry.parameters}
    given = ", ".join(f"{name} ({default})" for name, default in named.items() if default != "unset")
    unset = ", ".join(name for name, default in named.items() if default == "unset")
    parts = (given and f"parameters: {given}", unset and f"{'unset' if given else 'parameters, unset'}: {unset}")
    return "; ".join(part for part in parts if part) or "no parameters"


def _sentence(text: str) -> str:
    """Text as a sentence without its full stop; a symbol of one letter keeps its case.

    >>> _sentence("never zero."), _sentence("k is the size of the group")
    ('Never zero', 'k is the size of the group')
    """
    first = text[:1] if text[1:2] == " " else text[:1].upper()
    return first + text[1:].removesuffix(".")


def objectives_page() -> str:
    """docs/objectives.md as text."""
    lines = [_HEAD]
    for title, entries in SECTIONS.items():
        lines += _section(title, entries)
    lines += [_CORRECTIONS.replace("\\\n", "")]
    lines += [f"- `{parameter.name}`: {parameter.range}. {_sentence(parameter.doc)}." for parameter in CORRECTIONS]
    lines += [
        "\n## What TRL and verl call it\n",
        "Recipes also accept their names of normalisers (token-mean, bnpo, seq-mean-token-mean, token-sum,\n"
        "seq-mean-token-sum, seq-mean-token-sum-norm) and of advantages (grpo, dr_grpo, rloo). B is the number of\n"
        "responses of a minibatch. Each cell is tested with TRL's and verl's own functions, of the versions that\n"
        "`constraints.txt` pins.\n",
        "| what | here | TRL | verl |",
        "|:--|:--|:--|:--|",
    ]
    lines += [_row(*row) for row in CORRESPONDENCE]
    lines += [
        "\n## Every loss and every estimator of advantages that TRL and verl register\n",
        "| library, option | its name | here | |",
        "|:--|:--|:--|:--|",
    ]
    for item in (*REGISTRIES, *ESTIMATORS):
        ours = f"`{item.ours}`" if item.ours else "—"
        lines.append(_row(f"{item.library}, {item.option}", f"`{item.value}`", ours, item.note))
    return "\n".join([*lines, "", _OWN, _DIFFERENCES])
