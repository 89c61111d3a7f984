"""The recorded tokens of a micro batch, as its update saw them."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from ....records.rows import TokenColumns, statistics_columns
from ...update_parts import Weights
from .parts import ObservedPart

__all__ = ["tokens_of"]


def tokens_of(part: ObservedPart, weights: Weights, step: int) -> TokenColumns:
    """Columns of the table `tokens`, whose `rollout` is still the row of the micro batch.

    Args:
        part: the micro batch.
        weights: its weights.
        step: number of the batch of rollouts.
    """
    assert part.stats is not None
    keep, width = part.keep.cpu(), part.mask.shape[1]

    def of(values: Tensor | None) -> np.ndarray | None:
        return None if values is None else values.detach().flatten()[part.keep].cpu().numpy()

    def of_float(values: Tensor | None) -> np.ndarray | None:
        return None if values is None else of(values.float())

    token = of(part.tokens)
    assert token is not None
    return TokenColumns(
        update=part.update,
        step=step,
        rollout=(keep // width).numpy(),
        position=(keep % width).numpy(),
        token=token,
        statistics=statistics_columns(part.stats),
        epoch=part.epoch,
        minibatch=part.minibatch,
        sampling_log_prob=of_float(part.sampling_log_probs),
        old_log_prob=of_float(part.old_log_probs),
        ref_log_prob=of_float(part.ref_log_probs),
        advantage=of_float(part.advantages),
        ratio=of_float(part.ratio),
        clip=of(part.clip),
        weight=of_float(weights.policy),
        entropy_weight=of_float(weights.entropy),
        kl_weight=of_float(weights.kl),
    )
