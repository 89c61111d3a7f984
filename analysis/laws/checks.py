"""Checks of arguments that the laws share: one message per fault, naming the first bad index.

They look at row reductions only, never at every logit apart, so that they cost next to nothing.
"""

from __future__ import annotations

from numbers import Real
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from jaxtyping import Real as RealTensor
from torch import Tensor

from ..common.arguments import check_float, check_real, check_tensor
from ..errors import UsageError, at_index, first_index

__all__ = [
    "INTEGERS",
    "PerToken",
    "check_bool",
    "check_ids",
    "check_logits",
    "check_temperature",
    "check_tokens",
    "check_tokens_shape",
    "per_token",
    "raise_bad_row",
    "raise_bad_token",
]

INTEGERS = (torch.int64, torch.int32, torch.int16, torch.uint8, torch.int8)

PerToken: TypeAlias = float | RealTensor[Tensor, ""] | RealTensor[Tensor, "*batch"]
"""One number for all tokens, or one for each of them."""


def check_logits(logits: Float[Tensor, "*batch vocab"], name: str = "logits") -> Float[Tensor, "*batch vocab"]:
    """The logits, half precision promoted to float32; −inf is a masked token, NaN and +inf are errors."""
    _check_shape_and_dtype(logits, name)
    top = logits.amax(-1)
    if not torch.isfinite(top).all():
        raise_bad_row(logits, top, name)
    return logits.float() if logits.dtype.itemsize < 4 else logits


def check_tokens(logits: Float[Tensor, "*batch vocab"], tokens: Int[Tensor, "*batch"]) -> None:
    """Raise UsageError unless `tokens` are integers of the leading shape of `logits` and lie in the vocabulary."""
    check_tokens_shape(logits, tokens)
    bad = (tokens < 0) | (tokens >= logits.shape[-1])
    if bad.any():
        raise_bad_token(tokens, bad, logits.shape[-1])


def check_tokens_shape(logits: Float[Tensor, "*batch vocab"], tokens: Int[Tensor, "*batch"]) -> None:
    """Raise UsageError unless `tokens` are integers of the leading shape of `logits`."""
    _check_shape_and_dtype(logits, "logits")
    check_tensor("tokens", tokens)
    if tokens.dtype not in INTEGERS:
        raise UsageError(f"tokens: expected integer ids, got {tokens.dtype}")
    if tokens.shape != logits.shape[:-1]:
        raise UsageError(
            f"tokens: expected one id for each row of logits, shape {tuple(logits.shape[:-1])}, got "
            f"{tuple(tokens.shape)}; logits have the vocabulary as their last axis"
        )


def check_ids(name: str, ids: Tensor, shape: tuple[int, ...], count: int, of: str) -> None:
    """Raise UsageError unless `ids` are integers in [0, count) of `shape`; `of` says what they count."""
    check_tensor(name, ids)
    if ids.dtype not in INTEGERS or tuple(ids.shape) != shape:
        raise UsageError(
            f"{name}: expected integer indices of {of}, shape {shape}, got {ids.dtype} of shape {tuple(ids.shape)}"
        )
    outside = (ids < 0) | (ids >= count)
    if outside.any():
        index = first_index(outside)
        raise UsageError(f"{name}: expected indices of {of} in [0, {count}), got {int(ids[index])}{at_index(index)}")


def check_bool(name: str, mask: Tensor, shape: tuple[int, ...], like: str) -> None:
    """Raise UsageError unless `mask` is a bool tensor of `shape`, which the message calls the shape of `like`."""
    check_tensor(name, mask)
    if mask.dtype != torch.bool or tuple(mask.shape) != shape:
        raise UsageError(
            f"{name}: expected a bool mask of the shape of {like}, {shape}, got {mask.dtype} of shape "
            f"{tuple(mask.shape)}"
        )


def raise_bad_token(tokens: Tensor, bad: Tensor, vocab: int) -> None:
    """Raise UsageError for the first id outside the vocabulary."""
    index = first_index(bad)
    raise UsageError(
        f"tokens: expected ids in [0, {vocab}), got {int(tokens[index])}{at_index(index)}; "
        "does the padding use an id outside the vocabulary?"
    )


def raise_bad_row(logits: Tensor, top: Tensor, name: str) -> None:
    """Raise UsageError for the first row whose largest logit, `top`, is not finite."""
    index = first_index(~torch.isfinite(top))
    value = float(top[index])
    if value == float("-inf"):
        raise UsageError(f"{name}: every token of the row{at_index(index)} is masked (−inf); leave at least one")
    row = logits[index]
    where = first_index(torch.isnan(row) | (row == float("inf")))
    raise UsageError(
        f"{name}: expected finite numbers (or −inf for masked tokens), got {float(row[where])}"
        f"{at_index(index + where)}; did the forward pass diverge?"
    )


def check_temperature(temperature: float) -> None:
    """Raise UsageError unless 0 < temperature < ∞."""
    if not isinstance(temperature, Real) or not 0 < temperature < float("inf"):
        raise UsageError(f"temperature: expected a positive number, got {temperature}; greedy has no gradient")


def per_token(name: str, value: float | Tensor, like: Float[Tensor, "*batch"]) -> Tensor:
    """`value` as a tensor of `like`'s dtype: one number for all tokens, or exactly one for each entry of `like`.

    A weight of shape (n, 1) beside tokens of shape (n,) would broadcast to (n, n) without a word, so it is refused.

    >>> per_token("weight", 2.0, torch.zeros(3))
    tensor(2.)
    """
    if not isinstance(value, Real):
        check_real(name, value)
    tensor = torch.as_tensor(value, dtype=like.dtype, device=like.device).detach()
    if tensor.ndim and tensor.shape != like.shape:
        raise UsageError(
            f"{name}: expected one number or one for each token, shape {tuple(like.shape)}, got {tuple(tensor.shape)}"
        )
    bad = ~torch.isfinite(tensor)
    if bad.any():
        index = first_index(bad)
        raise UsageError(f"{name}: expected finite numbers, got {float(tensor[index])}{at_index(index)}")
    return tensor


def _check_shape_and_dtype(logits: Tensor, name: str) -> None:
    check_float(name, logits)
    if logits.ndim < 1 or logits.shape[-1] < 1:
        raise UsageError(f"{name}: expected shape (…, vocab) with at least one token, got {tuple(logits.shape)}")
