"""The processes of torch.distributed as ranks of one run folder."""

from __future__ import annotations

from typing import Any

import torch

from ..records.ranks import ALONE, Ranks

__all__ = ["process_ranks"]


def process_ranks() -> Ranks:
    """The ranks of the default process group; one rank where there is no group, or one process in it.

    Every rank is taken to have rollouts of its own, as under data parallelism.

    >>> process_ranks().count
    1
    """
    dist = torch.distributed

    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return ALONE
    return Ranks(dist.get_rank(), dist.get_world_size(), _gather)


def _gather(value: Any) -> list[Any]:
    values: list[Any] = [None] * torch.distributed.get_world_size()
    try:
        torch.distributed.all_gather_object(values, value)
    except RuntimeError as error:
        raise RuntimeError(
            f"another process of this group has ended or cannot be reached ({str(error).splitlines()[0]}); what was "
            "committed stays: read what that process said, fix the cause, then resume"
        ) from error
    return values
