"""Large logits again, from products in float64.

A float32 product of some hundred terms is off by several ulp: 5e-5 where a logit is 100, and so is, relatively, every
probability in which that token has a share. Where a row's largest logit exceeds `SHARP`, the tokens that matter (the
top k where they are known, else the largest of the chunks) and those whose probability was asked for are worked out
once more; the sums take in the difference. Ranks, ids and the argmax stay those of the float32 product.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .from_sums import OwnLogits
from .partial_sums import Partial
from .sources import Source

__all__ = ["SHARP", "sharpen"]

SHARP = 24.0  # below, a product in float32 is right to about 1e-5
_LARGEST = 4  # how many tokens of a row enter the sums again


def sharpen(
    source: Source,
    sums: Partial,
    logits: OwnLogits,
    listed: Tensor | None,
    peaks: list[tuple[Tensor, Tensor]],
    inv_temperature: float,
) -> tuple[Partial, OwnLogits]:
    """The sums and own logits of the block that `source` is at, with large logits from products in float64.

    `listed` (n, L) are the tokens of `logits.listed`; `peaks` the largest logit of each chunk and its token.
    """
    top = None if logits.top_ids is None else source.token_logits(logits.top_ids)
    if top is not None and logits.top is not None and logits.top_ids is not None and top.shape[1] >= _LARGEST:
        values, ids, exact = (x[:, :_LARGEST] for x in (logits.top, logits.top_ids, top))
    else:
        values, at = torch.stack([peak for peak, _ in peaks], 1).topk(min(_LARGEST, len(peaks)))
        ids = torch.stack([token for _, token in peaks], 1).gather(1, at)
        exact = source.token_logits(ids)
    is_top = ids == sums.top_id[:, None]
    # One of them is the largest, which is apart from the sums; what is masked (−inf) has no part in them.
    counts = ~is_top & torch.isfinite(values)
    old, new = (
        ((x.double() - sums.reference[:, None]) * inv_temperature).masked_fill(~counts, 0) for x in (values, exact)
    )
    e, f = old.exp(), new.exp()
    sharper = sums._replace(
        # Where more are equal to the largest than enter again, it may not be among them.
        top=torch.where(is_top.any(1), torch.where(is_top, exact, 0).sum(1).double(), sums.top),
        e0=sums.e0 + (f - e).sum(1),
        t1=sums.t1 + (f * new - e * old).sum(1),
        e2=sums.e2 + (f * f - e * e).sum(1),
        q1=sums.q1 + (f * f * new - e * e * old).sum(1),
    )
    return sharper, logits._replace(top=top, listed=None if listed is None else source.token_logits(listed))
