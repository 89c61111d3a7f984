"""`token_statistics`: one function from hidden states or logits to what a softmax says about its sampled tokens."""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..laws.softmax import TokenStatistics
from .backends import run_backend
from .sources import HeadSource, LogitSource, Source, compute_dtype
from .streaming import Request
from .validation import check_call, raise_bad_rows

__all__ = ["token_statistics"]


@torch.no_grad()
def token_statistics(
    logits: Float[Tensor, "*batch vocab"] | None = None,
    tokens: Int[Tensor, "*batch"] | None = None,
    *,
    hidden: Float[Tensor, "*batch width"] | None = None,
    head: Float[Tensor, "vocab width"] | None = None,
    bias: Float[Tensor, " vocab"] | None = None,
    temperature: float = 1.0,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    vocab_mask: Bool[Tensor, " vocab"] | None = None,
    token_mask: Bool[Tensor, "*batch"] | None = None,
    top_k: int = 0,
    rank: bool = False,
    probs_of: Int[Tensor, " listed"] | Int[Tensor, "*batch listed"] | None = None,
    backend: str = "auto",
) -> TokenStatistics:
    """Statistics of softmax(z / temperature) at `tokens`, where z are the logits of a model.

    The same as, where that is accurate and fits into memory,

        z = hidden @ head.T + bias                       # or z = logits
        z = softcap * tanh(logit_scale * z / softcap)    # or logit_scale * z without a softcap
        z = z.masked_fill(~vocab_mask, -inf)
        log_probs = log_softmax(z / temperature, -1); probs = log_probs.exp()
        log_prob = log_probs.gather(-1, tokens[..., None]).squeeze(-1)
        entropy, collision = -(probs * log_probs).sum(-1), (probs**2).sum(-1)

    Give either `logits`, as they leave the model, or `hidden` and `head`. float32 and half-precision input (which may
    be mixed) is computed in float32 with sums across chunks in float64 and gives float32; float64 gives float64.

    Ragged batches: jagged nested tensors for hidden or logits and tokens give statistics of the same raggedness.

    Accuracy of float32 against float64 on the same inputs: every statistic is relatively accurate to 2e-5 from logits,
    also where 1 − π_y is 1e-12 and H is 1e-10. From hidden states the float32 product limits it to 2e-5 + 4·eps·max |z|
    (7e-5 at max |z| = 100, 2e-4 at 400; up to 3e-5 and 1.4e-4 were measured). `covariance` crosses zero; its error is
    that small relative to π_y|log π_y + H| + |S + cH| from logits, and relative to π_y(|log π_y| + H) + |S| + cH from
    hidden states, where it can be off by a percent of itself. Ranks and ids are those of the back end's own logits.

    Cost: the logits are never stored. From hidden states, the product and about a tenth more; extra memory about 20 MB
    on a CPU whatever the number of rows and tokens. No gradient flows through the statistics.

    Args:
        logits: z as it leaves the model; −inf masks a token.
        tokens: sampled ids y.
        hidden: the states that the output layer reads, in place of `logits`.
        head: weight of the output layer, tied or not.
        bias: bias of the output layer; −inf masks a token.
        temperature: T, a positive number.
        softcap: a positive number (Gemma 2: 30), or None.
        logit_scale: a multiplier of the logits (Cohere).
        vocab_mask: True where a token can be sampled.
        token_mask: True where a position counts. Elsewhere nothing is computed, statistics are NaN and ids −1.
        top_k: how many of the most probable tokens to list, at most `vocab`; ties by the lower id.
        rank: whether to give the rank of y, from 0; ties by the lower id.
        probs_of: ids whose probabilities to give, the same for all positions or a list for each.
        backend: "auto", or a name of `BACKENDS`: "reference", "eager", "native", "triton".

    Returns:
        `TokenStatistics`, each of the shape of `tokens`; log-probabilities and entropies in nats.

    Raises:
        UsageError: shapes that do not fit, tokens outside the vocabulary or masked, input that is not finite, an
            unknown back end or one that cannot run.

    Source: forms derived here (†), see `analysis.laws.softmax`.

    >>> stats = token_statistics(torch.zeros(1, 4), torch.tensor([2]), top_k=1)
    >>> stats.prob, stats.entropy, stats.top_ids
    (tensor([0.2500]), tensor([1.3863]), tensor([[0]]))
    >>> hidden, head = torch.tensor([[1.0, 0.0]]), torch.tensor([[60.0, 0.0], [0.0, 0.0]])
    >>> token_statistics(hidden=hidden, head=head, tokens=torch.tensor([0])).one_minus_prob  # 1/(1 + e^60)
    tensor([8.7565e-27])
    """
    call = check_call(
        logits, tokens, hidden, head, bias, temperature, softcap, logit_scale, vocab_mask, token_mask, top_k, probs_of
    )
    keep = None if call.token_mask is None else torch.nonzero(rearrange(call.token_mask, "... -> (...)")).squeeze(1)
    blocked = None if vocab_mask is None else ~vocab_mask
    dtype = torch.float64 if backend == "reference" else None
    source: Source
    if call.logits is not None:
        source = LogitSource(call.logits, keep, blocked, dtype or compute_dtype(call.logits.dtype))
    else:
        assert call.hidden is not None
        assert head is not None
        dtype = dtype or compute_dtype(torch.promote_types(call.hidden.dtype, head.dtype))
        source = HeadSource(call.hidden, head, bias, keep, blocked, dtype, scale=logit_scale, softcap=softcap)

    y = rearrange(call.tokens, "... -> (...)").long()
    listed = call.probs_of
    if listed is not None and listed.ndim > 1:
        listed = rearrange(listed, "... listed -> (...) listed").long()
    if keep is not None:
        y = y[keep]
        listed = listed[keep] if listed is not None and listed.ndim > 1 else listed
    request = Request(y, temperature, min(top_k, source.vocab), rank, listed)

    stats = run_backend(backend, source, request)
    if not torch.isfinite(stats.log_prob).all():
        raise_bad_rows(call, source, y, keep, stats)
    if keep is not None:
        stats = _scatter(stats, keep, call.tokens.numel())
    stats = stats.reshape(call.tokens.shape)
    return stats if call.offsets is None else stats.map(call.as_nested)


def _scatter(stats: TokenStatistics, keep: Tensor, n: int) -> TokenStatistics:
    """Statistics of the kept rows at their places among n."""

    def place(x: Tensor) -> Tensor:
        nothing = float("nan") if x.is_floating_point() else -1
        return torch.full((n, *x.shape[1:]), nothing, dtype=x.dtype, device=x.device).index_copy_(0, keep, x)

    return stats.map(place)
