"""Rows that a sampler left out of a batch, so that the observing engine can record them all the same.

`DroppedRows` takes rows without a weight from the batch before any worker sees it. Where a run is recorded it leaves
them in verl's TransferQueue until the next batch, and puts their keys on the rows that it keeps; the engine that trains
on a kept row fetches the rows that it names. So every rank fetches a part of them, each of them once.
"""

from __future__ import annotations

from collections.abc import Sequence

import transfer_queue as tq
from tensordict import TensorDict
from verl.utils import tensordict_utils as tu

__all__ = ["KEYS", "fetch", "name_on_kept"]

KEYS = "dropped_keys"  # field of a kept row: keys of rows that were left out
_FIELDS = ("uid", "session_id", "index", "prompts", "responses", "input_ids", "response_mask", "rm_scores")


def name_on_kept(kept: Sequence[str], dropped: Sequence[str], partition: str) -> None:
    """Put the keys of dropped rows on the kept ones, equally many on each.

    Args:
        kept: keys of the batch, at least one.
        dropped: keys of the rows that are left out.
        partition: of verl's TransferQueue.
    """
    shares = [list(dropped[place :: len(kept)]) for place in range(len(kept))]
    fields = TensorDict({}, batch_size=[len(kept)])
    tu.assign_non_tensor_stack(fields, KEYS, shares)
    tq.kv_batch_put(keys=list(kept), partition_id=partition, fields=fields)


def fetch(keys: Sequence[str], partition: str = "train") -> TensorDict:
    """The rows of these keys, as a minibatch has them, without advantages."""
    return tq.kv_batch_get(keys=list(keys), partition_id=partition, select_fields=list(_FIELDS))
