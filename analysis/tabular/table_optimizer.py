"""Optimisers of the toys' training, batched over seeds: each seed has its own moments and its own count of updates."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import UsageError

__all__ = ["TABLE_OPTIMIZERS", "TableOptimizer", "per_seed"]

TABLE_OPTIMIZERS = ("sgd", "momentum", "adam", "lion")  # the optimisers that training on tables knows, by name


def per_seed(values: Tensor, like: Tensor) -> Tensor:
    """`values` (S,) in the dtype of `like` (S, …), with axes to spread over it."""
    return values.to(like.dtype).view(-1, *[1] * (like.ndim - 1))


class TableOptimizer:
    """SGD, SGD with momentum 0.9, Adam (0.9, 0.999) and Lion (0.9, 0.99), elementwise over (S, …); ascends.

        sgd        θ += lr·g
        momentum   b = 0.9·b + g;  θ += lr·b
        adam       m, v averaged, bias-corrected;  θ += lr·m̂ / (√v̂ + ε)              Kingma & Ba, arXiv 1412.6980
        lion       θ += lr·sign(0.9·m + 0.1·g);  m = 0.99·m + 0.01·g                  Chen et al., arXiv 2302.06675

    `step` leaves the seeds alone that `moves` does not name: their state stays as it was.
    """

    def __init__(self, name: str, lr: float, *, eps: float = 1e-8) -> None:
        if name not in TABLE_OPTIMIZERS:
            raise UsageError(f"optimizer: expected one of {', '.join(TABLE_OPTIMIZERS)}, got {name!r}")
        self.name, self.lr, self._eps = name, lr, eps
        self._m: Tensor | None = None
        self._v: Tensor | None = None
        self._count: Tensor | None = None

    def step(self, gradient: Tensor, moves: Tensor) -> Tensor:
        """The displacement of the parameters for an ascent direction (S, …); `moves` bool (S,)."""
        on = None if bool(moves.all()) else per_seed(moves, gradient)
        if self.name == "sgd":
            return gradient * (self.lr if on is None else self.lr * on)
        if self._m is None:
            self._m, self._count = torch.zeros_like(gradient), torch.zeros(len(moves), device=gradient.device)
            self._v = torch.zeros_like(gradient) if self.name == "adam" else None
        assert self._count is not None
        self._count = self._count + moves
        if self.name == "momentum":
            self._m += (gradient - 0.1 * self._m) * (1.0 if on is None else on)
            step = self._m * self.lr
        elif self.name == "lion":
            step = torch.lerp(self._m, gradient, 0.1).sign_().mul_(self.lr)
            _average(self._m, gradient, 0.01, on)
        else:
            step = self._adam(gradient, on)
        return step if on is None else step * on

    def _adam(self, gradient: Tensor, on: Tensor | None) -> Tensor:
        """lr·m̂/(√v̂ + ε) = lr·(√b₂/b₁)·m/(√v + ε·√b₂) with the bias corrections b = 1 − βᵗ: two passes fewer."""
        assert self._m is not None and self._v is not None and self._count is not None  # noqa: PT018
        _average(self._m, gradient, 0.1, on)
        _average(self._v, gradient * gradient, 0.001, on)
        count = self._count.clamp(min=1).double()
        first, root = 1 - 0.9**count, (1 - 0.999**count).sqrt()
        denominator = self._v.sqrt().add_(per_seed(self._eps * root, gradient))
        return torch.div(self._m, denominator, out=denominator).mul_(per_seed(self.lr * root / first, gradient))


def _average(mean: Tensor, new: Tensor, share: float, on: Tensor | None) -> None:
    """mean += share·(new − mean) in place, for the seeds that are on."""
    mean.lerp_(new, share if on is None else share * on)
