"""What `token_statistics` accepts: one message per fault, which names the argument and the first bad index."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor

from ..common.arguments import check_count, check_float, check_number, check_tensor
from ..errors import UsageError, at_index, first_index
from ..laws.checks import INTEGERS, check_temperature
from ..laws.softmax import TokenStatistics
from .sources import Source

__all__ = ["Call", "check_call", "raise_bad_rows"]


@dataclass(frozen=True)
class Call:
    """The tensors of a call with raggedness taken out: leading axes are those of `tokens`."""

    logits: Tensor | None
    hidden: Tensor | None
    head: Tensor | None
    bias: Tensor | None
    tokens: Tensor
    token_mask: Tensor | None
    vocab_mask: Tensor | None
    probs_of: Tensor | None
    offsets: Tensor | None  # of jagged input

    def as_nested(self, x: Tensor) -> Tensor:
        """Values (total, …) as a jagged tensor of the input's raggedness."""
        return torch.nested.nested_tensor_from_jagged(x, self.offsets)


def check_call(
    logits: Tensor | None,
    tokens: Tensor | None,
    hidden: Tensor | None,
    head: Tensor | None,
    bias: Tensor | None,
    temperature: float,
    softcap: float | None,
    logit_scale: float,
    vocab_mask: Tensor | None,
    token_mask: Tensor | None,
    top_k: int,
    probs_of: Tensor | None,
) -> Call:
    """The arguments of `token_statistics`, checked. Raises UsageError."""
    if tokens is None:
        raise UsageError("tokens: expected the ids of the sampled tokens, got none")
    if (logits is None) == (hidden is None):
        got = "both" if logits is not None else "neither"
        raise UsageError(f"logits, hidden: expected one of logits=… or hidden=… with head=…, got {got}")
    if logits is not None and (head is not None or bias is not None or softcap is not None or logit_scale != 1):
        raise UsageError(
            "logits: expected no head, bias, softcap or logit_scale with logits, which are used as they leave the "
            "model; give those with hidden="
        )
    for argument, tensor in {
        "logits": logits,
        "tokens": tokens,
        "hidden": hidden,
        "head": head,
        "bias": bias,
        "vocab_mask": vocab_mask,
        "token_mask": token_mask,
        "probs_of": probs_of,
    }.items():
        if tensor is not None:
            check_tensor(argument, tensor)
    check_temperature(temperature)
    check_count("top_k", top_k, least=0)
    for option, number in {"softcap": softcap, "logit_scale": logit_scale}.items():
        if number is not None or option == "logit_scale":
            check_number(option, number)
    if softcap is not None and not 0 < softcap < float("inf"):
        raise UsageError(f"softcap: expected a positive number or None, got {softcap}")
    if not 0 < abs(logit_scale) < float("inf"):
        raise UsageError(f"logit_scale: expected a finite number other than 0, got {logit_scale}")

    name, states = ("logits", logits) if logits is not None else ("hidden", hidden)
    assert states is not None
    if states.is_nested != tokens.is_nested:
        ragged, plain = (name, "tokens") if states.is_nested else ("tokens", name)
        raise UsageError(f"{plain}: expected a nested tensor beside a nested {ragged}, got a plain one")
    offsets = None
    if states.is_nested:
        pair: list[Any] = [states, tokens]  # `offsets` is not among the attributes that torch declares
        offsets, others = (x.offsets() if x.layout == torch.jagged else None for x in pair)
        if offsets is None or others is None or not torch.equal(offsets, others):
            raise UsageError(
                f"{name}, tokens: expected jagged nested tensors of the same lengths "
                "(torch.nested.nested_tensor(…, layout=torch.jagged))"
            )
        states, tokens = states.values(), tokens.values()
        token_mask = token_mask.values() if token_mask is not None and token_mask.is_nested else token_mask
        probs_of = probs_of.values() if probs_of is not None and probs_of.is_nested else probs_of

    check_float(name, states)
    if states.ndim < 1 or states.shape[-1] < 1:
        last = "vocab" if logits is not None else "width"
        raise UsageError(f"{name}: expected shape (…, {last}), got {tuple(states.shape)}")
    vocab = _check_head(states, head, bias) if logits is None else states.shape[-1]
    _check_ids("tokens", tokens)
    if tokens.shape != states.shape[:-1]:
        raise UsageError(
            f"tokens: expected one id for each row of {name}, shape {tuple(states.shape[:-1])}, got "
            f"{tuple(tokens.shape)}"
        )
    _check_mask("vocab_mask", vocab_mask, (vocab,))
    _check_mask("token_mask", token_mask, tuple(tokens.shape))
    if vocab_mask is not None and not vocab_mask.any():
        raise UsageError("vocab_mask: every token is masked; leave at least one True")
    if not 0 <= top_k <= vocab:
        raise UsageError(f"top_k: expected a number from 0 (none) to the vocabulary of {vocab}, got {top_k}")
    if probs_of is not None:
        _check_ids("probs_of", probs_of)
        if probs_of.ndim != 1 and probs_of.shape[:-1] != tokens.shape:
            raise UsageError(
                f"probs_of: expected ids of shape (listed,) or {(*tokens.shape, 'listed')}, got {tuple(probs_of.shape)}"
            )
        _check_range("probs_of", probs_of, (probs_of < 0) | (probs_of >= vocab), vocab)
    outside = (tokens < 0) | (tokens >= vocab)
    _check_range("tokens", tokens, outside if token_mask is None else outside & token_mask, vocab)
    for other, tensor in (
        ("tokens", tokens),
        ("head", head),
        ("bias", bias),
        ("vocab_mask", vocab_mask),
        ("token_mask", token_mask),
        ("probs_of", probs_of),
    ):
        if tensor is not None and tensor.device != states.device:
            raise UsageError(f"{other}: expected the device of {name}, {states.device}, got {tensor.device}")
    return Call(
        states if logits is not None else None,
        None if logits is not None else states,
        head,
        bias,
        tokens,
        token_mask,
        vocab_mask,
        probs_of,
        offsets,
    )


def raise_bad_rows(call: Call, source: Source, y: Tensor, keep: Tensor | None, stats: TokenStatistics) -> NoReturn:
    """Say what is wrong with the first row whose log-probability is not finite."""
    (row,) = first_index(~torch.isfinite(stats.log_prob))
    place = row if keep is None else int(keep[row])
    index = tuple(int(i) for i in torch.unravel_index(torch.tensor(place), call.tokens.shape))
    if call.hidden is not None:
        assert call.head is not None
        _raise_not_finite("hidden", call.hidden[index], index)
        _raise_not_finite("head", call.head, ())
        if call.bias is not None:
            _raise_not_finite("bias", call.bias, (), masks=True)
    source.open(row, row + 1)
    z = source.chunk(0, source.vocab)[0]
    _raise_not_finite("logits", z, index, masks=True)
    if bool((z == float("-inf")).all()):
        raise UsageError(f"logits: every token of the row{at_index(index)} is masked (−inf); leave at least one")
    raise UsageError(
        f"tokens: the sampled token {int(y[row])}{at_index(index)} is masked (its logit is −inf); was it sampled from "
        "these logits?"
    )


def _raise_not_finite(name: str, x: Tensor, index: tuple[int, ...], *, masks: bool = False) -> None:
    bad = torch.isnan(x) | (x == float("inf")) if masks else ~torch.isfinite(x)
    if bad.any():
        where = first_index(bad)
        allowed = " (or −inf for masked tokens)" if masks else ""
        raise UsageError(
            f"{name}: expected finite numbers{allowed}, got {float(x[where])}{at_index(index + where)}; did the "
            "forward pass diverge?"
        )


def _check_head(hidden: Tensor, head: Tensor | None, bias: Tensor | None) -> int:
    if head is None:
        raise UsageError("head: expected the weight of the output layer (vocab, width) beside hidden, got none")
    check_float("head", head)
    if bias is not None:
        check_float("bias", bias)
    if head.ndim != 2 or head.shape[1] != hidden.shape[-1] or not len(head):
        raise UsageError(
            f"head: expected shape (vocab, {hidden.shape[-1]}), the width of hidden {tuple(hidden.shape)}, got "
            f"{tuple(head.shape)}"
        )
    if bias is not None and bias.shape != head.shape[:1]:
        raise UsageError(f"bias: expected one number for each token, shape ({len(head)},), got {tuple(bias.shape)}")
    return len(head)


def _check_ids(name: str, ids: Tensor) -> None:
    if ids.dtype not in INTEGERS:
        raise UsageError(f"{name}: expected integer ids, got {ids.dtype}")


def _check_range(name: str, ids: Tensor, bad: Tensor, vocab: int) -> None:
    if bad.any():
        index = first_index(bad)
        raise UsageError(
            f"{name}: expected ids in [0, {vocab}), got {int(ids[index])}{at_index(index)}; does the padding use an id "
            "outside the vocabulary (token_mask leaves it out)?"
        )


def _check_mask(name: str, mask: Tensor | None, shape: tuple[int, ...]) -> None:
    if mask is None:
        return
    if mask.dtype != torch.bool:
        raise UsageError(f"{name}: expected a boolean tensor, True where a token counts, got {mask.dtype}")
    if tuple(mask.shape) != shape:
        raise UsageError(f"{name}: expected shape {shape}, got {tuple(mask.shape)}")
