"""Models whose numbers for a row depend on the other rows of its batch.

Three kinds are known by their configuration. LongRoPE takes one set of frequencies where the longest row of the batch
is within the length of pretraining, and another where it is beyond. Dynamic NTK scales its frequencies by the length of
the longest row beyond that. Mixtures of experts with a capacity drop tokens where too many of a batch choose one
expert. Any other kind shows where a row has other logits alone than beside a longer one (`differs`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["BatchDependence", "batch_dependence", "differs"]

_CAPACITY = re.compile(r"expert_capacity|capacity_factor|drop_?tokens|token_dropping")
# Relative difference of a token's vector, alone and in a batch: products in another order differ by about 1e-5 in
# float32, by 1e-3 with TF32, and by a few eps in half precision, where single tokens of a mixture of experts may also
# be routed otherwise, so that the median over tokens counts.
_SLACK = 5e-3
_SLACK_EPS = 16


@dataclass(frozen=True)
class BatchDependence:
    """What decides which rows may share a batch.

    Attributes:
        boundaries: Lengths such that rows up to one of them and rows beyond it may not share a batch (LongRoPE).
        exact_above: Rows longer than this share a batch only with rows of their own length (dynamic NTK).
        capacity: The field of the configuration that bounds how many tokens of a batch an expert takes.
    """

    boundaries: tuple[int, ...] = ()
    exact_above: int | None = None
    capacity: str | None = None

    @property
    def by_length(self) -> bool:
        """Whether the length of the longest row counts."""
        return bool(self.boundaries) or self.exact_above is not None

    def kind(self, length: int) -> tuple[int, ...]:
        """Rows of equal kinds may share a batch; `length` counts all tokens of prompt and response.

        >>> rule = BatchDependence(boundaries=(32,))
        >>> rule.kind(5) == rule.kind(32), rule.kind(32) == rule.kind(33), rule.kind(33) == rule.kind(90)
        (True, False, True)
        """
        beyond = self.exact_above is not None and length > self.exact_above
        return (*(int(length > boundary) for boundary in self.boundaries), length if beyond else 0)

    def crossed(self, shortest: int, longest: int) -> str | None:
        """Why rows of these lengths cannot be mixed freely, in words; None where they can."""
        if self.capacity is not None:
            return f"its experts have a capacity ({self.capacity}), so that tokens of a batch compete"
        crossed = [boundary for boundary in self.boundaries if shortest <= boundary < longest]
        if crossed:
            return f"LongRoPE changes the frequencies of all rows where the longest has more than {crossed[0]} tokens"
        if self.exact_above is not None and longest > self.exact_above:
            return f"dynamic NTK scales the frequencies of all rows by the longest beyond {self.exact_above} tokens"
        return None


def batch_dependence(config: Any) -> BatchDependence:
    """What the configuration of a model of transformers says."""
    text = config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config
    boundaries, exact = [], []
    for rope in _ropes(text):
        kind = str(rope.get("rope_type", rope.get("type", "")))
        pretrained = rope.get("original_max_position_embeddings") or getattr(
            text, "original_max_position_embeddings", None
        )
        positions = getattr(text, "max_position_embeddings", None)
        if kind in ("longrope", "su"):
            boundaries += [int(value) for value in (pretrained or positions,) if value is not None]
        elif "dynamic" in kind and positions is not None:
            exact.append(int(positions))
    fields = text.to_dict() if hasattr(text, "to_dict") else vars(text)
    capacity = next((name for name, value in fields.items() if _CAPACITY.search(name) and value), None)
    return BatchDependence(tuple(sorted(set(boundaries))), min(exact, default=None), capacity)


def differs(alone: Tensor, beside: Tensor) -> bool:
    """Whether vectors (n, D) of the same tokens differ by more than rounding."""
    a, b = alone.double(), beside.double()
    share = (a - b).norm(dim=-1) / a.norm(dim=-1).clamp(min=1e-30)
    eps = torch.finfo(alone.dtype).eps
    if eps > 1e-5:
        return bool(share.median() > _SLACK_EPS * eps)
    return bool(share.max() > _SLACK)


def _ropes(config: Any) -> Iterator[Mapping[str, Any]]:
    """The settings of rotary embeddings, of each kind of layer where these have their own."""
    for name in ("rope_parameters", "rope_scaling"):
        value = getattr(config, name, None)
        if isinstance(value, Mapping):
            yield value
            yield from (inner for inner in value.values() if isinstance(inner, Mapping))
