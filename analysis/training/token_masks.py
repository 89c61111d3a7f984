"""Which tokens of a minibatch keep the gradient of the objective (`update.token_mask`), and at which norm.

Every token of the minibatch has a rank by one of

    probability     π_y
    entropy         H of the policy at its position, in nats
    signed_change   sign(A)·(1 − π_y): the change of the token's own logit, z_y, by a step of unit |w|

at the parameters before the update. Kept are the ranks from ⌊mask_low·N⌋ to below ⌊mask_high·N⌋ of N, counted upwards
from 0, and ties with either end; entropy from 0.8 to 1 keeps the tokens of the objective high-entropy (arXiv
2506.01939), probability tells the low-probability tokens of arXiv 2505.12929 apart. The other tokens' log-probs are
constants of the loss, whatever the objective, so that its value stays that of all tokens; regularisers act everywhere.

With `mask_norm = full` the gradient of the kept tokens is scaled to the norm of the gradient of all of them, which has
a backward pass of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from ..common.whole_numbers import floor
from ..objectives import TokenBatch
from ..objectives.selection import between_ranks
from ..recipes.fields import UpdateFields

__all__ = ["TokenChoice", "kept_tokens", "norm_ratio"]


@dataclass(frozen=True)
class TokenChoice:
    """Bool (B, R) for the rows of a minibatch: what the objective selects, and what the mask keeps; None without."""

    selection: Tensor | None = None
    kept: Tensor | None = None

    def of(self, rows: Tensor) -> TokenChoice:
        """The choice for some of the rows."""
        return TokenChoice(*(None if part is None else part[rows] for part in (self.selection, self.kept)))


def kept_tokens(tokens: TokenBatch, fields: UpdateFields) -> Tensor:
    """Bool (B, R): the tokens of a whole minibatch that keep their gradient; never true at padding.

    >>> batch = TokenBatch(torch.tensor([[0.9, 0.2, 0.5]]).log(), advantages=torch.tensor([1.0]))
    >>> kept_tokens(batch, UpdateFields(token_mask="probability", mask_high=0.5))
    tensor([[False,  True, False]])
    """
    log_probs = tokens.log_probs.detach()
    if fields.token_mask == "entropy":
        assert tokens.entropy is not None
        values = tokens.entropy.detach()
    elif fields.token_mask == "probability":
        values = log_probs
    else:
        values = tokens.per_token("advantages").sign() * -torch.expm1(log_probs)
    real = tokens.real()
    count = int(real.sum())
    return between_ranks(values, real, floor(fields.mask_low * count), floor(fields.mask_high * count))


def norm_ratio(whole: list[Tensor], kept: list[Tensor]) -> float:
    """‖gradient of all tokens‖ over ‖that of the kept ones‖; 1 where the latter is 0."""
    size = get_total_norm(kept).item()
    return get_total_norm(whole).item() / size if size > 0 else 1.0
