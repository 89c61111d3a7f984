"""The micro batch whose loss is being computed, for losses that read more of it than verl hands to a policy loss.

verl calls a policy loss with log-probs, advantages and a mask. Some objectives also read rewards, the accuracy of a
group, or the log-probs of a reference policy or of the engine that sampled. The observing engine has the whole micro
batch and says which one it is while the loss is computed:

    with in_progress(micro_batch) as seen:
        loss, metrics = loss_function(model_output, micro_batch)

A loss that clips ratios in a way of its own says which tokens it clipped (`report_clips`), so that they are recorded.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from tensordict import TensorDict
from torch import Tensor

__all__ = ["Seen", "current", "in_progress", "report_clips"]


@dataclass
class Seen:
    """A micro batch whose loss is being computed, and what the loss said of it.

    Attributes:
        data: The micro batch.
        clips: (B, T) −1, 0 or +1 of the tokens whose ratio the loss clipped; None where it did not say.
    """

    data: TensorDict
    clips: Tensor | None = None


_CURRENT: ContextVar[Seen | None] = ContextVar("micro_batch", default=None)


@contextmanager
def in_progress(data: TensorDict) -> Iterator[Seen]:
    """Make `data` the current micro batch within the block.

    Args:
        data: A micro batch as verl's engine gives it to the loss function; its fields are nested tensors.

    Yields:
        What the loss says of it.

    Example:
        >>> with in_progress(TensorDict({}, [2])):
        ...     current().batch_size
        torch.Size([2])
        >>> current() is None
        True
    """
    seen = Seen(data)
    token = _CURRENT.set(seen)
    try:
        yield seen
    finally:
        _CURRENT.reset(token)


def current() -> TensorDict | None:
    """The micro batch whose loss is being computed; None where no engine says so."""
    seen = _CURRENT.get()
    return None if seen is None else seen.data


def report_clips(clips: Tensor) -> None:
    """Say which tokens of the current micro batch the loss clipped; without one nobody listens.

    Args:
        clips: (B, T) −1 clipped below, 0 not, +1 above, in the places of the log-probs that the loss was given.

    Example:
        >>> import torch
        >>> with in_progress(TensorDict({}, [1])) as seen:
        ...     report_clips(torch.tensor([[0, 1]]))
        >>> seen.clips
        tensor([[0, 1]])
    """
    seen = _CURRENT.get()
    if seen is not None:
        seen.clips = clips
