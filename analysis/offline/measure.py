"""Statistics of response tokens from hidden states and head, a few rows of logits at a time.

Of each token what the training loop records: log π_y, 1 − π_y, H, Σπ², Σπ² log π, ‖e_y − π‖₂, argmax, rank of y, the
most probable tokens, and Σπ and Σπ² by rank bucket. Logits (rows, V) exist for `_LOGITS` numbers at a time only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..laws import TokenStatistics, token_statistics
from ..recording.schema import BUCKETS

__all__ = ["bucket_masses", "measure", "response_hidden"]

_LOGITS = 1 << 24  # of float32: 64 MB


def response_hidden(
    backbone: Any, prompts: Sequence[np.ndarray], responses: Sequence[np.ndarray], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Hidden states (n, D) that predict each response token, and the tokens (n,), one response after another.

    Rows are padded on the right and no mask is given: a causal model never looks to the right, so that what stands
    under the padding reaches no token that is asked for. One forward pass of the backbone.
    """
    lengths = [len(p) + len(r) - 1 for p, r in zip(prompts, responses, strict=True)]
    ids = torch.zeros((len(lengths), max(lengths)), dtype=torch.int64)
    asked = torch.zeros(ids.shape, dtype=torch.bool)
    for i, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        ids[i, : lengths[i]] = torch.from_numpy(np.concatenate([prompt, response[:-1]]))
        asked[i, len(prompt) - 1 : lengths[i]] = True
    output = backbone(input_ids=ids.to(device), use_cache=False)
    hidden = output[0] if isinstance(output, tuple) else output.last_hidden_state
    return hidden[asked.to(device)], torch.from_numpy(np.concatenate(responses)).to(device)


def measure(hidden: Tensor, tokens: Tensor, head: Any, *, temperature: float, top_k: int) -> dict[str, np.ndarray]:
    """Columns of the table `tokens` for hidden states (n, D) and tokens (n,) of softmax(logits / temperature)."""
    parts = [_rows(logits, tokens[low:high], temperature, top_k) for low, high, logits in _logits(hidden, head)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _logits(hidden: Tensor, head: Any) -> Iterator[tuple[int, int, Tensor]]:
    weight = head.weight()
    rows = max(1, _LOGITS // weight.shape[0])
    for low in range(0, len(hidden), rows):
        high = min(low + rows, len(hidden))
        logits = torch.nn.functional.linear(hidden[low:high], weight, head.bias).float()
        if head.logit_scale != 1.0:
            logits *= head.logit_scale
        if head.softcap is not None:
            logits = head.softcap * torch.tanh(logits / head.softcap)
        yield low, high, logits


def _rows(logits: Tensor, tokens: Tensor, temperature: float, top_k: int) -> dict[str, np.ndarray]:
    stats = token_statistics(logits, tokens, temperature=temperature, top_k=top_k, rank=True)
    mass, mass_sq = bucket_masses(logits, temperature)
    return _columns(stats) | {"bucket_mass": mass.cpu().numpy(), "bucket_mass_sq": mass_sq.cpu().numpy()}


def bucket_masses(logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Σπ and Σπ² by the rank buckets of the records, (n, buckets) each; `logits` (n, V) are overwritten.

    The same as `laws.bucket_sums` without sorting the vocabulary: the ranks up to the last edge by top-k, what is left
    by a sum over all others, so that the last bucket is no difference of nearly equal numbers. Within a bucket sums do
    not depend on how ties are ranked, nor do they across an edge, since tied tokens weigh the same.

    >>> mass, _ = bucket_masses(torch.tensor([[0.5, 0.25, 0.25]]).log(), 1.0)
    >>> mass.tolist()
    [[0.5, 0.5, 0.0, 0.0, 0.0, 0.0]]
    """
    top, ids = logits.topk(min(BUCKETS[-1], logits.shape[-1]), dim=-1)
    highest = top[:, :1]
    head = ((top - highest).double() / temperature).exp()
    rest = logits.scatter_(-1, ids, float("-inf")).sub_(highest).div_(temperature).exp_()
    edges = (0, *BUCKETS)
    mass = [head[:, low:high].sum(-1) for low, high in zip(edges, BUCKETS, strict=False)]
    square = [head[:, low:high].square().sum(-1) for low, high in zip(edges, BUCKETS, strict=False)]
    mass.append(rest.sum(-1, dtype=torch.float64))
    square.append(rest.square_().sum(-1, dtype=torch.float64))
    masses, squares = torch.stack(mass, -1), torch.stack(square, -1)
    total = masses.sum(-1, keepdim=True)
    return (masses / total).float(), (squares / total.square()).float()


def _columns(stats: TokenStatistics) -> dict[str, np.ndarray]:
    names = ("log_prob", "one_minus_prob", "entropy", "collision", "collision_log_prob", "direction_norm",
             "argmax_token", "argmax_prob", "token_rank", "top_ids", "top_probs")  # fmt: skip
    return {name: value.cpu().numpy() for name in names if (value := getattr(stats, name)) is not None}
