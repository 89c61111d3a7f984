"""How a rollout batch is cut into optimiser updates.

The plan is made once per pass, from one permutation of all rows, so that methods that share a seed shuffle alike.
Dropping rows before the cut keeps a fixed number of rows per update (or a fixed number of updates); dropping them from
each minibatch after it leaves minibatches of unequal size, possibly empty.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..recipes.fields import UpdateFields

__all__ = ["plan_minibatches"]


def plan_minibatches(selected: Tensor, fields: UpdateFields, generator: torch.Generator) -> list[Tensor]:
    """Row indices of each minibatch of one pass, in order.

    Args:
        selected: bool (N,), rows to which the objective gives a weight.
        fields: `minibatches` cuts what is left into that many near-equal parts; `minibatch_size` into parts of that
            many rows, the last one smaller; neither means one part.
        generator: draws the permutation of all N rows, dropped ones included.

    Returns:
        One index tensor per minibatch; an empty tensor is a minibatch that lost all its rows.
    """
    order = torch.randperm(len(selected), generator=generator)
    drop = fields.rows == "drop"
    if drop and fields.drop == "before":
        order = order[selected[order]]
    if fields.minibatch_size is not None:
        parts = list(order.split(fields.minibatch_size)) if len(order) else []
    else:
        parts = list(order.tensor_split(fields.minibatches or 1))
    if drop and fields.drop == "after":
        parts = [part[selected[part]] for part in parts]
    return parts
