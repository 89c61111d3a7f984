"""docs/token_statistics.md: how the statistics are computed, and the battery of hard rows as it was measured.

The measurements are those of docs/results/token_statistics.json, so that the page can be written where TRL and verl are
not installed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from .other_libraries import PEERS
from .results import read
from .token_accuracy import KINDS, VOCABULARIES, cpu_backends, measure_ours, measure_peer, round_up

__all__ = ["measure", "token_statistics_page"]

_OURS = "here"

_PAGE = """\
# Token statistics

<!-- Generated from analysis/token_stats/ by `python -m docs.generators`; do not edit. -->

`analysis.token_statistics` computes, for every sampled token y and the distribution π that it came from: log π_y, 1 −
π_y, the entropy H = −Σπ log π, the collision probability c = Σπ², S = Σπ² log π, ‖e_y − π‖, and the most probable token
with its probability. On request it adds the k most probable tokens, the rank of y and the probabilities of listed
tokens. It accepts logits, or hidden states and an output head. In the second case it never stores the logits.

## Large vocabularies

At a vocabulary of 152k the logits take gigabytes. From hidden states and the weight of the output layer, the same
statistics cost little more than the matrix product ([Performance](performance.md)):

```python
head = model.get_output_embeddings()
stats = analysis.token_statistics(hidden=hidden, head=head.weight, bias=head.bias, tokens=tokens, top_k=20, rank=True)
```

## Formulas

Let a be the most probable token, m its logit, r the logit of the runner-up and t = z − r. Four sums leave a out:
E₀ = Σ e^t, T₁ = Σ e^t·t, E₂ = Σ e^(2t), Q₁ = Σ e^(2t)·t. With g = m − r and R = e^(−g)·E₀ = (1 − π_a)/π_a,

- log π_y = (z_y − m) − log1p(R); 1 − π_y = R/(1 + R) for y = a, and (1 + R − e^(z_y − m))/(1 + R) otherwise;
- H = log1p(R) − S₁/(1 + R), where S₁ = e^(−g)·(T₁ − g·E₀) = Σ_(v≠a) e^(z_v − m)·(z_v − m) ≤ 0: nothing cancels;
- c = (1 + e^(−2g)·E₂)/(1 + R)²; S and ‖e_y − π‖² = (1 − π_y)² + Σ_(v≠y) π_v² in the same way from E₂ and Q₁.

So 1 − π_y is never computed as one minus a number, and squares stay accurate where e^(2(z − m)) leaves the range of
float32 (a gap of 44). A large vocabulary is processed in chunks. Each chunk gives these sums in float32, and the chunks
are combined in float64. The largest token of every chunk but one then joins the sums with its weight.

## Back ends

| back end | what it is |
|:--|:--|
| `reference` | whole rows in float64 |
| `eager` | blocks of 512 tokens × 4096 columns, torch operations; vocabularies up to 256 lie down the columns instead |
| `native` | the same blocks, each row visited once by a C function that is built at first use |
| `triton` | the same on CUDA, one Triton program a row |

`auto` chooses `triton` on CUDA and `eager` elsewhere, for every size, so that the same call gives the same bits.
`analysis.available_backends` says which back ends can run on a machine, and why the others cannot.

## Hard rows

Each kind of row is measured at vocabularies of {vocabularies}, for the most probable token, the runner-up and an
unlikely token. A cell is the greatest |x − x₆₄|/max(|x₆₄|, 2^-126) over rows, tokens and vocabularies. Here x₆₄ is the
result of `reference` on the same input, whose formulas the tests compare with 400-digit arithmetic. The error is
rounded up to 1, 2 or 5 times a power of ten, and 1e-6 stands for anything smaller. A 1 means that the result is 0
although the statistic is not. A dash means that the function cannot be given such rows. Every function receives bf16
logits in bf16.

- here: the worst of the back ends {backends}, from logits and from hidden states whose product with the
  head is exact
{functions}

Measured with {versions}; `python -m docs.generators.measure token_statistics`
measures again, other libraries where they are installed.

### log π_y

{log_prob}

On the peaked rows log π of the most probable token is −(1 − π_y), which sets the scale of everything that moves a
confident token.

### Entropy

{entropy}

logsumexp(z) − Σπz is a difference of two numbers of the size of the logits, so on a confident token the result is their
rounding error. −Σπ log π in float32 keeps the terms of all tokens but the most probable one, whose term it loses.

### The other statistics

verl computes none of these. TRL computes log Σπ² on its chunked path, which is shown as Σπ².

{others}
"""


def measure(previous: dict[str, Any] | None = None) -> dict[str, Any]:
    """The battery on this machine: errors by kind, method, statistic and vocabulary, rounded up, and versions.

    Peers that cannot run here keep what `previous` says of them. Raises KeyError where it says nothing.
    """
    methods: dict[str, Callable[[str, int], dict[str, float]]] = {}
    backends = cpu_backends()
    methods[_OURS] = lambda kind, vocab: measure_ours(kind, vocab, backends)
    versions, kept = {"torch": torch.__version__.split("+")[0]}, []
    for name, peer in PEERS.items():
        if peer.obstacle() is None:
            methods[name] = lambda kind, vocab, peer=peer: measure_peer(peer, kind, vocab)  # type: ignore[misc]
        else:
            kept.append(name)
        if peer.library:
            old = previous["versions"] if previous is not None else {}
            versions[peer.library] = old[peer.library] if name in kept else peer.version()
    errors: dict[str, Any] = {}
    for kind in KINDS:
        found = {name: _by_statistic(method, kind) for name, method in methods.items()}
        if previous is not None:
            found |= {name: previous["errors"][kind][name] for name in kept}
        errors[kind] = {name: found[name] for name in (_OURS, *PEERS)}
    return {"versions": versions, "backends": backends, "errors": errors}


def _by_statistic(method: Callable[[str, int], dict[str, float]], kind: str) -> dict[str, dict[str, float | None]]:
    by: dict[str, dict[str, float | None]] = {}
    for vocab in VOCABULARIES:
        for name, error in method(kind, vocab).items():
            rounded = round_up(error)
            by.setdefault(name, {})[str(vocab)] = None if math.isnan(rounded) else rounded
    return by


def token_statistics_page(data: dict[str, Any] | None = None) -> str:
    """docs/token_statistics.md as text, from measurements (default: those that are kept)."""
    data = read("token_statistics") if data is None else data
    errors = data["errors"]
    versions = _listed([f"{library} {version}" for library, version in data["versions"].items()])
    others = [
        (title, name, method)
        for title, name in (
            ("1 − π_y", "one_minus_prob"),
            ("Σπ²", "collision"),
            ("Σπ² log π", "collision_log_prob"),
            ("‖e_y − π‖", "direction_norm"),
        )
        for method in (_OURS, *PEERS)
        if any(name in errors[kind][method] for kind in KINDS)
    ]
    return _PAGE.format(
        vocabularies=_listed([f"{vocab:,}" for vocab in VOCABULARIES]),
        backends=_listed([f"`{name}`" for name in data["backends"]]),
        functions="\n".join(f"- {name}: {peer.functions}" for name, peer in PEERS.items()),
        versions=versions,
        log_prob=_table(errors, [(method, "log_prob", method) for method in (_OURS, *PEERS)]),
        entropy=_table(errors, [(method, "entropy", method) for method in (_OURS, *PEERS)]),
        others=_table(errors, [(f"{title}, {method}", name, method) for title, name, method in others]),
    )


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _table(errors: dict[str, Any], columns: list[tuple[str, str, str]]) -> str:
    """Kinds of rows against (title, statistic, method)."""
    lines = [f"| rows | {' | '.join(title for title, _, _ in columns)} |", "|:--|" + "--:|" * len(columns)]
    for kind in KINDS:
        cells = [_cell(errors[kind][method].get(name)) for _, name, method in columns]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(by_vocab: dict[str, float | None] | None) -> str:
    if by_vocab is None:
        return "–"
    values = list(by_vocab.values())
    if None in values:
        return "NaN"
    worst = max(value for value in values if value is not None)
    mantissa, exponent = f"{worst:.0e}".split("e")
    return f"{worst:g}" if worst >= 0.1 else f"{mantissa}e{int(exponent)}"
