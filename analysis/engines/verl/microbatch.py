"""The micro batch whose loss is being computed, for losses that read more of it than verl hands to a policy loss.

verl calls a policy loss with log-probs, advantages and a mask. Some objectives also read rewards, the accuracy of a
group, or the log-probs of a reference policy or of the engine that sampled. The observing engine has the whole micro
batch and says which one it is while the loss is computed:

    with in_progress(micro_batch):
        loss, metrics = loss_function(model_output, micro_batch)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from tensordict import TensorDict

__all__ = ["current", "in_progress"]

_CURRENT: ContextVar[TensorDict | None] = ContextVar("micro_batch", default=None)


@contextmanager
def in_progress(data: TensorDict) -> Iterator[None]:
    """Make `data` the current micro batch within the block.

    Args:
        data: A micro batch as verl's engine gives it to the loss function; its fields are nested tensors.

    Example:
        >>> with in_progress(TensorDict({}, [2])):
        ...     current().batch_size
        torch.Size([2])
        >>> current() is None
        True
    """
    token = _CURRENT.set(data)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def current() -> TensorDict | None:
    """The micro batch whose loss is being computed; None where no engine says so."""
    return _CURRENT.get()
