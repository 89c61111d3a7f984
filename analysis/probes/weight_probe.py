"""The weight of a token, measured: w = −∂L/∂log π_y, caught by a hook on the tensor of log-probs.

For every objective that sees the policy through log π(y) alone, −∂L/∂logits = w·(onehot(y) − π), so this one number
per token says what the update does to the logits. It is read from the backward pass that makes the update, whatever
the loss, its clipping and its normaliser are.
"""

from __future__ import annotations

from torch import Tensor

__all__ = ["WeightProbe"]


class WeightProbe:
    """Catches ∂L/∂log π_y of one tensor of log-probs, once per backward pass.

    >>> import torch
    >>> logits = torch.zeros(1, 2, requires_grad=True)
    >>> log_probs = logits.log_softmax(-1)[:, 0]
    >>> probe = WeightProbe(log_probs)
    >>> (-3.0 * log_probs).sum().backward()
    >>> probe.take()
    tensor([3.])
    """

    def __init__(self, log_probs: Tensor) -> None:
        self._gradient: Tensor | None = None
        self._handle = log_probs.register_hook(self._store)

    def _store(self, gradient: Tensor | None) -> None:
        if gradient is None:  # a function that gives none to an input that the loss does not depend on
            return
        self._gradient = gradient.detach() if self._gradient is None else self._gradient + gradient.detach()

    @property
    def caught(self) -> bool:
        """Whether a backward pass has come through since the last `take`."""
        return self._gradient is not None

    def take(self) -> Tensor:
        """The weights of the backward passes since the last call; raises RuntimeError if none reached the log-probs."""
        if self._gradient is None:
            raise RuntimeError("log_probs: expected a gradient, got none; the loss does not depend on them")
        weight, self._gradient = -self._gradient, None
        return weight

    def remove(self) -> None:
        self._handle.remove()
