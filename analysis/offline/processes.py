"""The processes that torchrun started, as those of one trace.

torchrun tells each process its number and how many there are by environment variables; they meet through gloo, on the
CPU, since they say little to each other. Without torchrun there is one process, and torch is not loaded for it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from datetime import timedelta

from ..errors import UsageError
from ..records.ranks import ALONE, Ranks

__all__ = ["started_together"]

_PATIENCE = timedelta(days=1)  # how long a process waits for the others: for a round, or for the first to read a file


@contextlib.contextmanager
def started_together() -> Iterator[Ranks]:
    """The processes of this torchrun, in a process group while the context lasts; one without it.

    Each takes the GPU of its local number, where there are GPUs.

    Raises:
        UsageError: The variables of torchrun are incomplete, or there are fewer GPUs than processes on a machine.
        RuntimeError: Another process has ended before its time.
    """
    count = _number("WORLD_SIZE", 1)
    if count <= 1:
        yield ALONE
        return
    import torch

    from ..probes.process_ranks import process_ranks

    dist, rank, local = torch.distributed, _number("RANK", None), _number("LOCAL_RANK", 0)
    if torch.cuda.is_available():
        if local >= torch.cuda.device_count():
            raise UsageError(
                f"LOCAL_RANK: expected a GPU for each process, got {torch.cuda.device_count()} GPUs for process "
                f"{local} of this machine; start fewer with --nproc_per_node"
            )
        torch.cuda.set_device(local)
    ours = not dist.is_initialized()
    if ours:
        dist.init_process_group("gloo", rank=rank, world_size=count, timeout=_PATIENCE)
    try:
        yield process_ranks()
    finally:
        if ours:
            dist.destroy_process_group()


def _number(name: str, default: int | None) -> int:
    text = os.environ.get(name)
    if text is None and default is not None:
        return default
    try:
        return int(text or "")
    except ValueError:
        raise UsageError(
            f"{name}: expected a number, as torchrun sets it, got {text!r}; start it by torchrun"
        ) from None
