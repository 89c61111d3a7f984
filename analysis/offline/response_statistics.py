"""Statistics of response tokens from hidden states and head, a few rows of logits at a time.

Of each token what the training loop records: log π_y, 1 − π_y, H, Σπ², Σπ² log π, ‖e_y − π‖₂, argmax, rank of y, the
most probable tokens, and Σπ and Σπ² by rank bucket. The buckets need the ranks of a thousand tokens, so that logits
(rows, V) are made once, for `_LOGITS` numbers at a time, and read twice. On one core, in units of the product with the
head (151,936 tokens, D 896): statistics from hidden states alone 1.0, statistics and buckets so 1.65; the 1024
most probable tokens from `token_statistics`, from which the last bucket would be a difference besides, 2.9.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..probes.output_heads import last_hidden_state
from ..records.rows import statistics_columns
from ..records.schema import BUCKETS
from ..token_stats import token_statistics
from ..token_stats.sources import HeadSource, compute_dtype

if TYPE_CHECKING:
    from ..probes.output_heads import OutputHead

__all__ = ["bucket_masses", "measure", "response_hidden"]

_LOGITS = 1 << 24  # numbers: 64 MB in float32
_COLUMNS = 1 << 13  # of a head in half precision that are brought to float32 at a time


def response_hidden(
    backbone: Any,
    prompts: Sequence[np.ndarray],
    responses: Sequence[np.ndarray],
    device: torch.device,
    *,
    whole: bool = False,
) -> tuple[Tensor, Tensor]:
    """Hidden states (n, D) that predict each response token, and the tokens (n,), one response after another.

    Rows are padded on the right and no mask is given: a causal model never looks to the right, so that what stands
    under the padding reaches no token that is asked for. One forward pass of the backbone. `whole` lets it see the last
    token of each response, too, as trainers do: it predicts nothing, but its position counts where the length does.
    """
    lengths = [len(p) + len(r) - (0 if whole else 1) for p, r in zip(prompts, responses, strict=True)]
    ids = torch.zeros((len(lengths), max(lengths)), dtype=torch.int64)
    asked = torch.zeros(ids.shape, dtype=torch.bool)
    for i, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        ids[i, : lengths[i]] = torch.from_numpy(np.concatenate([prompt, response])[: lengths[i]])
        asked[i, len(prompt) - 1 : len(prompt) + len(response) - 1] = True
    hidden = last_hidden_state(backbone(input_ids=ids.to(device), use_cache=False))
    return hidden[asked.to(device)], torch.from_numpy(np.concatenate(responses)).to(device)


def measure(
    hidden: Tensor, tokens: Tensor, head: OutputHead, *, temperature: float, top_k: int, columns: str = "full"
) -> dict[str, np.ndarray]:
    """Columns of the table `tokens` for hidden states (n, D) and tokens (n,) of softmax(logits / temperature).

    The columns "core" are those without ranks, buckets and top tokens; they need no logits that stay.
    """
    if columns == "core":
        return statistics_columns(
            token_statistics(
                hidden=hidden,
                head=head.weight(),
                bias=head.bias(),
                tokens=tokens,
                temperature=temperature,
                softcap=head.softcap,
                logit_scale=head.logit_scale,
            )
        )
    parts = [
        _rows(logits, tokens[low : low + len(logits)], temperature, top_k) for low, logits in _logits(hidden, head)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _logits(hidden: Tensor, head: OutputHead) -> Iterator[tuple[int, Tensor]]:
    """(first row, logits) of some rows after the other, in float32 or float64; each is overwritten by the next."""
    weight = head.weight()
    vocab, dtype = len(weight), compute_dtype(torch.promote_types(hidden.dtype, weight.dtype))
    source = HeadSource(hidden, weight, head.bias(), None, None, dtype, scale=head.logit_scale, softcap=head.softcap)
    rows = max(1, _LOGITS // vocab)
    whole = None if weight.dtype == dtype else torch.empty(rows, vocab, dtype=dtype, device=hidden.device)
    for low in range(0, len(hidden), rows):
        high = min(low + rows, len(hidden))
        source.open(low, high)
        if whole is None:
            yield low, source.chunk(0, vocab)
            continue
        for first in range(0, vocab, _COLUMNS):
            last = min(first + _COLUMNS, vocab)
            whole[: high - low, first:last] = source.chunk(first, last)
        yield low, whole[: high - low]


def _rows(logits: Tensor, tokens: Tensor, temperature: float, top_k: int) -> dict[str, np.ndarray]:
    stats = token_statistics(logits, tokens, temperature=temperature, top_k=top_k, rank=True)
    mass, mass_sq = bucket_masses(logits, temperature)
    return statistics_columns(stats) | {"bucket_mass": mass.cpu().numpy(), "bucket_mass_sq": mass_sq.cpu().numpy()}


def bucket_masses(logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Σπ and Σπ² by the rank buckets of the records, (n, buckets) each; `logits` (n, V) are overwritten.

    The same as `laws.bucket_sums` without sorting the vocabulary: the ranks up to the last edge by top-k, what is left
    by a sum over all others, so that the last bucket is not a difference of nearly equal numbers. Within a bucket sums
    do not depend on how ties are ranked, nor do they across an edge, since tied tokens weigh the same.

    >>> mass, _ = bucket_masses(torch.tensor([[0.5, 0.25, 0.25]]).log(), 1.0)
    >>> mass.tolist()
    [[0.5, 0.5, 0.0, 0.0, 0.0, 0.0]]
    """
    top, ids = logits.topk(min(BUCKETS[-1], logits.shape[-1]), dim=-1)
    highest = top[:, :1]
    head = ((top - highest).double() / temperature).exp()
    rest = logits.scatter_(-1, ids, float("-inf")).sub_(highest)
    rest = (rest if temperature == 1 else rest.div_(temperature)).exp_()
    edges = (0, *BUCKETS)
    mass = [head[:, low:high].sum(-1) for low, high in zip(edges, BUCKETS, strict=False)]
    square = [head[:, low:high].square().sum(-1) for low, high in zip(edges, BUCKETS, strict=False)]
    # sums of positive terms, which torch takes pairwise: right to 1e-6, where float64 would cost half as much again
    mass.append(rest.sum(-1).double())
    square.append(rest.square_().sum(-1).double())
    masses, squares = torch.stack(mass, -1), torch.stack(square, -1)
    total = masses.sum(-1, keepdim=True)
    return (masses / total).to(logits.dtype), (squares / total.square()).to(logits.dtype)
