"""The tokens that end a response. A model may have several, and any of them ends it.

They are the end token of the tokenizer and those of the model's generation settings (`generation_config.eos_token_id`,
a number or a list). Where the generation settings name none, those of the model's configuration count. This is what
`generate` stops at, together with the tokenizer's own end token, at which training libraries stop.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

__all__ = ["add_end_tokens", "end_tokens", "policy_end_tokens", "without_end"]


def end_tokens(tokenizer: Any, model: Any = None) -> tuple[int, ...]:
    """Ids of the end tokens, the tokenizer's first; empty where there are none.

    Args:
        tokenizer: A tokenizer, or None; one without `eos_token_id` adds nothing.
        model: A model of transformers; None where there is only a tokenizer.

    >>> from types import SimpleNamespace as Thing
    >>> model = Thing(generation_config=Thing(eos_token_id=[1, 9]))
    >>> end_tokens(Thing(eos_token_id=7), model)
    (7, 1, 9)
    """
    found = [getattr(tokenizer, "eos_token_id", None)]
    generation = _ids(getattr(getattr(model, "generation_config", None), "eos_token_id", None))
    config: Any = getattr(model, "config", None)
    text = config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config
    ids = [*_ids(found), *(generation or _ids(getattr(text, "eos_token_id", None)))]
    return tuple(dict.fromkeys(i for i in ids if i >= 0))


def policy_end_tokens(policy: Any) -> tuple[int, ...]:
    """The end tokens of a policy: its `end_ids` where it says so itself, else its `eos_id` and those of its model."""
    own: Sequence[int] | None = getattr(policy, "end_ids", None)
    if own is not None:
        return tuple(int(i) for i in own)
    return tuple(dict.fromkeys([int(policy.eos_id), *end_tokens(None, getattr(policy, "model", None))]))


def add_end_tokens(policy: Any, texts: Sequence[str]) -> None:
    """Let further tokens end the responses of a policy: its model's generation settings name them from now on.

    Args:
        policy: A policy of this library; it is changed, and what it saves, too.
        texts: Each a single token of its tokenizer.

    Raises:
        ValueError: A text is not a single token.
    """
    ids = []
    for text in texts:
        encoded = policy.tokenizer.encode(text, add_special_tokens=False)
        if len(encoded) != 1:
            raise ValueError(
                f"policy.end_tokens: expected texts that are one token each, got {text!r}, which the tokenizer encodes "
                f"as {list(encoded)}; choose a text of one token"
            )
        ids.append(int(encoded[0]))
    ends = policy_end_tokens(policy)
    policy.model.generation_config.eos_token_id = list(dict.fromkeys([*ends, *ids]))


def without_end(ids: Sequence[int], ends: Iterable[int]) -> Sequence[int]:
    """The ids without the end token that they end with, if any; one inside stays.

    >>> without_end([5, 7, 6, 7], (7, 8))
    [5, 7, 6]
    """
    return ids[:-1] if len(ids) and int(ids[-1]) in set(ends) else ids


def _ids(value: Any) -> list[int]:
    """A number, several of them in a list or tensor, or None, as a list."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    values = value if isinstance(value, list | tuple) else [value]
    return [int(i) for i in values if i is not None]
