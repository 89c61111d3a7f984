"""Where the logits of a call come from, block by block: hidden states and an output head, or logits that exist.

Neither is ever copied as a whole: rows are views where the layout allows it and gathered by block where it does not
(a slice such as logits[:, :-1], a token mask).
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

__all__ = ["HeadSource", "LogitSource", "Rows", "Source", "compute_dtype"]

# Own logits that are worked out at once in float64: bounds their memory at 64·D·16 bytes, and keeps them in cache.
_OWN_PRODUCTS = 64


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 stays, every other type is computed in float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


class Rows:
    """The last axis of a tensor (…, width) as n rows, of which `keep` (m,), flat indices, are left."""

    def __init__(self, tensor: Tensor, keep: Tensor | None) -> None:
        self.width = tensor.shape[-1]
        self._tensor = tensor
        self._keep = keep
        n = tensor.shape[:-1].numel()
        self._flat = _flat_view(tensor)
        if self._flat is None and keep is None:
            self._keep = torch.arange(n, device=tensor.device)
        self.n = n if self._keep is None else len(self._keep)

    def choose(self, rows: Tensor) -> Rows:
        """Those rows (k,) of these."""
        return Rows(self._tensor, rows if self._keep is None else self._keep[rows])

    def block(self, start: int, stop: int, columns: slice = slice(None)) -> Tensor:
        """Rows [start, stop), a view where possible."""
        if self._keep is None:
            assert self._flat is not None
            return self._flat[start:stop, columns]
        index = self._keep[start:stop]
        if self._flat is not None:
            return torch.index_select(self._flat[:, columns], 0, index)  # a third of the time of flat[index, columns]
        at: tuple[Any, ...] = (*torch.unravel_index(index, self._tensor.shape[:-1]), columns)
        return self._tensor[at]

    def values(self, start: int, stop: int, ids: Tensor) -> Tensor:
        """Entry ids[i] (rows, k) of each row, (rows, k)."""
        if self._keep is None:
            return self.block(start, stop).gather(1, ids)
        index = self._keep[start:stop, None]
        if self._flat is not None:
            return self._flat[index, ids]
        return self._tensor[(*torch.unravel_index(index, self._tensor.shape[:-1]), ids)]


class Source(Protocol):
    """n rows of logits over `vocab` tokens; `chunk` gives [start, stop) × [first, last) in the computing dtype."""

    n: int
    vocab: int
    dtype: torch.dtype
    device: torch.device
    own_buffer: bool  # whether a chunk is a buffer of ours, free to be written on

    def open(self, start: int, stop: int) -> None:
        """Go to a block of rows."""

    def chunk(self, first: int, last: int) -> Tensor:
        """Logits of the block's rows for tokens [first, last); valid until the next call."""

    def token_logits(self, ids: Tensor) -> Tensor:
        """The block's own logits of one token a row, ids (rows,), or of k, (rows, k)."""


class LogitSource:
    """Logits (…, vocab) as they left the model, masked columns apart."""

    def __init__(self, logits: Tensor, keep: Tensor | None, blocked: Tensor | None, dtype: torch.dtype) -> None:
        self._rows = Rows(logits, keep)
        self.n, self.vocab = self._rows.n, self._rows.width
        self.dtype, self.device = dtype, logits.device
        self._blocked = blocked  # (vocab,) True where a token is masked
        self.own_buffer = False

    def open(self, start: int, stop: int) -> None:
        self._start, self._stop = start, stop

    def chunk(self, first: int, last: int) -> Tensor:
        z = self._rows.block(self._start, self._stop, slice(first, last)).to(self.dtype)
        return z if self._blocked is None else z.masked_fill(self._blocked[first:last], float("-inf"))

    def token_logits(self, ids: Tensor) -> Tensor:
        columns = ids[:, None] if ids.ndim == 1 else ids
        z = self._rows.values(self._start, self._stop, columns).reshape(ids.shape).to(self.dtype)
        return z if self._blocked is None else z.masked_fill(self._blocked[ids], float("-inf"))


class HeadSource:
    """softcap·tanh(scale·(hidden·headᵀ + bias)/softcap), one chunk of the vocabulary at a time.

    Half-precision weights are brought to float32 by the chunk: products in bf16 round their result. On CUDA the product
    of half-precision operands is taken as it is and comes in float32, which accumulates the same terms.
    """

    def __init__(
        self,
        hidden: Tensor,
        head: Tensor,
        bias: Tensor | None,
        keep: Tensor | None,
        blocked: Tensor | None,
        dtype: torch.dtype,
        *,
        scale: float,
        softcap: float | None,
    ) -> None:
        self._rows = Rows(hidden, keep)
        self.n, self.vocab = self._rows.n, head.shape[0]
        self.dtype, self.device = dtype, hidden.device
        self._head, self._bias, self._blocked = head, bias, blocked
        self._scale, self._softcap = scale, softcap
        self._half = self.device.type == "cuda" and head.dtype.itemsize == 2 and hidden.dtype == head.dtype
        self._buffer = torch.empty(0, dtype=self.dtype, device=self.device)
        self._weights = torch.empty(0, dtype=self.dtype, device=self.device)
        self.own_buffer = True

    def open(self, start: int, stop: int) -> None:
        hidden = self._rows.block(start, stop)
        self._hidden = hidden if self._half else hidden.to(self.dtype)

    def chunk(self, first: int, last: int) -> Tensor:
        n, width = len(self._hidden), last - first
        if self._buffer.numel() < n * width:
            self._buffer = torch.empty(n * width, dtype=self.dtype, device=self.device)
        z = self._buffer[: n * width].view(n, width)
        if self._half:
            torch.mm(self._hidden, self._head[first:last].t(), out_dtype=self.dtype, out=z)
        else:
            torch.mm(self._hidden, self._chunk_of_head(first, last).t(), out=z)
        if self._bias is not None:
            z.add_(self._bias[first:last])
        self._finish(z)
        return z if self._blocked is None else z.masked_fill_(self._blocked[first:last], float("-inf"))

    def exact_chunk(self, first: int, last: int) -> Tensor:
        """`chunk` from a product in float64, rounded once."""
        z = self._hidden.double() @ self._head[first:last].double().t()
        z = self._finish(z if self._bias is None else z + self._bias[first:last].double()).to(self.dtype)
        return z if self._blocked is None else z.masked_fill_(self._blocked[first:last], float("-inf"))

    def token_logits(self, ids: Tensor) -> Tensor:
        """From a product in float64, rounded once. It stands in for the entry of the block's product."""
        parts = []
        hiddens = self._hidden if ids.ndim == 1 else self._hidden[:, None]
        rows = max(1, _OWN_PRODUCTS * len(ids) // max(ids.numel(), 1))
        for hidden, tokens in zip(hiddens.split(rows), ids.split(rows), strict=True):
            z = self._head[tokens].double().mul_(hidden.double()).sum(-1)
            z = z if self._bias is None else z + self._bias[tokens].double()
            parts.append(self._finish(z).to(self.dtype))
        z_y = torch.cat(parts)
        return z_y if self._blocked is None else z_y.masked_fill(self._blocked[ids], float("-inf"))

    def _chunk_of_head(self, first: int, last: int) -> Tensor:
        head = self._head[first:last]
        if head.dtype == self.dtype:
            return head
        if self._weights.shape[:1] != head.shape[:1]:
            self._weights = torch.empty(head.shape, dtype=self.dtype, device=self.device)
        return self._weights.copy_(head)

    def _finish(self, z: Tensor) -> Tensor:
        if self._scale != 1:
            z.mul_(self._scale)
        if self._softcap is not None:
            z.div_(self._softcap).tanh_().mul_(self._softcap)
        return z


def _flat_view(tensor: Tensor) -> Tensor | None:
    try:
        return tensor.view(tensor.shape[:-1].numel(), tensor.shape[-1])
    except RuntimeError:  # the leading axes do not lie evenly in memory
        return None
