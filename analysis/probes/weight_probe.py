"""The weight of a token, measured: w = −∂L/∂log π_y, caught by a hook on the tensor of log-probs.

For every objective that sees the policy through log π(y) alone, −∂L/∂logits = w·(onehot(y) − π), so this one number
per token says what the update does to the logits. It is read from the backward pass that makes the update, whatever
the loss, its clipping and its normaliser are.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["WeightProbe"]


class WeightProbe:
    """Catches ∂L/∂log π_y of one tensor of log-probs, once per backward pass.

    >>> logits = torch.zeros(1, 2, requires_grad=True)
    >>> log_probs = logits.log_softmax(-1)[:, 0]
    >>> probe = WeightProbe(log_probs)
    >>> (-3.0 * log_probs).sum().backward()
    >>> probe.take()
    tensor([3.])
    """

    def __init__(self, log_probs: Tensor) -> None:
        self._gradient: Tensor | None = None
        self._reached = False
        self._like = log_probs.detach()
        self._handle = log_probs.register_hook(self._store)

    def _store(self, gradient: Tensor | None) -> None:
        self._reached = True
        if gradient is None:  # a function that gives none to an input that the loss does not depend on
            return
        # a copy: the function that the gradient goes to next may write over it
        self._gradient = gradient.detach().clone() if self._gradient is None else self._gradient + gradient.detach()

    @property
    def caught(self) -> bool:
        """Whether a backward pass has come through with a gradient since the last `take`."""
        return self._gradient is not None

    @property
    def reached(self) -> bool:
        """Whether a backward pass has come through, with a gradient or with None, which is autograd's zero."""
        return self._reached

    def take(self) -> Tensor:
        """The weights of the backward passes since the last call; raises RuntimeError if none reached the log-probs."""
        if not self._reached:
            raise RuntimeError("log_probs: expected a gradient, got none; the loss does not depend on them")
        weight = torch.zeros_like(self._like) if self._gradient is None else -self._gradient
        self._gradient, self._reached = None, False
        return weight

    def remove(self) -> None:
        """Take the hook away."""
        self._handle.remove()
