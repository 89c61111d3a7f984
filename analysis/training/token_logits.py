"""The logits of the response tokens of one pass: all at once, or from what the output head reads, a part at a time.

    dense      logits (B, R, V) exist: fastest, and right for every model
    streamed   hidden states (n, D) of the n real tokens exist; their logits only for as many tokens at a time as make
               `AT_ONCE` numbers, and again in the backward pass, which computes them a second time

Both differentiate the same functions of the same logits, so that they agree up to the rounding of products in another
order. Streamed logits are those of the model's own head, adapters and autocast included, with the factor and the cap
that `probes.output_heads` finds in its configuration; each pass compares them with the model's own at one token.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..probes.output_heads import OutputHead

__all__ = ["AT_ONCE", "DenseLogits", "StreamedLogits", "TokenLogits", "own_log_prob"]

# Logits that exist at a time where they are streamed, and above which they are where a recipe leaves that open: 128 MiB
# in float32, of which a backward pass needs three copies more.
AT_ONCE = 1 << 25


def own_log_prob(logits: Tensor, tokens: Tensor) -> Tensor:
    """log π_y (…) of tokens (…) under softmax of logits (…, V).

    >>> own_log_prob(torch.zeros(1, 4), torch.tensor([2])).exp()
    tensor([0.2500])
    """
    return logits.gather(-1, tokens[..., None])[..., 0] - logits.logsumexp(-1)


@dataclass(frozen=True)
class DenseLogits:
    """Logits (B, R, V), divided by the temperature."""

    logits: Tensor

    def per_token(self, function: Callable[..., Tensor], *others: Tensor | TokenLogits) -> Tensor:
        """`function` of the logits and of others at the same tokens, (B, R) with gradients; see `StreamedLogits`."""
        return function(self.logits, *(o.logits if isinstance(o, DenseLogits) else o for o in others))

    def parts(self, chosen: Tensor) -> Iterator[Tensor]:
        """The logits (n, V) of the tokens where `chosen` (B, R) is true, in one part."""
        yield self.logits[chosen]

    def of_rows(self, rows: Tensor) -> DenseLogits:
        """Those of some rows, bool (B,)."""
        return DenseLogits(self.logits[rows])

    def detach(self) -> DenseLogits:
        """The same without a graph."""
        return DenseLogits(self.logits.detach())


@dataclass(frozen=True)
class StreamedLogits:
    """What stands for the logits of n real tokens: `hidden` (n, D), and where in (B, R) they are, `mask`.

    The head's parameters are read at each call: statistics must be made before the update moves them.
    """

    hidden: Tensor
    mask: Tensor
    head: OutputHead
    temperature: float
    dtype: torch.dtype
    autocast: torch.dtype | None = None

    def per_token(self, function: Callable[..., Tensor], *others: Tensor | TokenLogits) -> Tensor:
        """`function` of the logits and of others at the same tokens, with gradients.

        Args:
            function: takes logits (k, V), divided by the temperature, and k entries of each of `others`; gives (k,).
            others: tensors (B, R), or streamed logits of the same tokens, of which the function gets the logits.

        Returns:
            (B, R), 0 at padding.
        """
        flat = [o.hidden if isinstance(o, StreamedLogits) else _tensor(o)[self.mask] for o in others]

        def of_part(hidden: Tensor, *rest: Tensor) -> Tensor:
            given = [
                o._scaled(values) if isinstance(o, StreamedLogits) else values
                for o, values in zip(others, rest, strict=True)
            ]
            return function(self._scaled(hidden), *given)

        again = torch.is_grad_enabled() and self.hidden.requires_grad
        values = [
            checkpoint(of_part, *part, use_reentrant=False, preserve_rng_state=False) if again else of_part(*part)
            for part in zip(*(tensor.split(self._size) for tensor in (self.hidden, *flat)), strict=True)
        ]
        joined = torch.cat(values)
        return joined.new_zeros(self.mask.shape).masked_scatter(self.mask, joined)

    def parts(self, chosen: Tensor) -> Iterator[Tensor]:
        """The logits (k, V) of the tokens where `chosen` (B, R) is true, part by part, without a graph."""
        with torch.no_grad():
            for hidden in self.hidden.detach()[chosen[self.mask]].split(self._size):
                yield self._scaled(hidden)

    def of_rows(self, rows: Tensor) -> StreamedLogits:
        """Those of some rows, bool (B,)."""
        kept = (rows[:, None] & self.mask)[self.mask]
        return replace(self, hidden=self.hidden[kept], mask=self.mask[rows])

    def detach(self) -> StreamedLogits:
        """The same without a graph."""
        return replace(self, hidden=self.hidden.detach())

    @property
    def _size(self) -> int:
        return max(1, AT_ONCE // self.head.vocabulary)

    def _scaled(self, hidden: Tensor) -> Tensor:
        """Logits (k, V) divided by the temperature."""
        with contextlib.ExitStack() as stack:
            if self.autocast is not None:
                stack.enter_context(torch.autocast(hidden.device.type, dtype=self.autocast))
            logits = self.head.differentiable(hidden).to(self.dtype)
        return logits if self.temperature == 1 else logits / self.temperature


TokenLogits = DenseLogits | StreamedLogits


def _tensor(value: Tensor | DenseLogits) -> Tensor:
    assert isinstance(value, Tensor)
    return value
