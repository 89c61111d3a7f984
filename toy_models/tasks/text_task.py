"""A task written in texts: items with a prompt and a reference, and a score for each response.

A `TextTask` knows no tokens, so the same one serves every policy. `EncodedTask` puts it into the tokens of a policy;
`analysis.run(recipe, task=…)` does so by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..verifiers.verifier import Verdict

__all__ = ["ResponseText", "TextItem", "TextTask", "is_text_task"]


@dataclass(frozen=True)
class TextItem:
    """One prompt of a `TextTask`.

    Attributes:
        id: Its name in messages, such as "train.jsonl line 7" or "gsm8k/17".
        prompt: A text, or chat messages: [{"role": "user", "content": "2 + 3 ="}].
        reference: What a response is compared with; None where the prompt says everything.
        columns: Whatever else belongs to the item, by name, for scores that need it.

    >>> TextItem("sums/1", "2 + 3 =", "5").reference
    '5'
    """

    id: str
    prompt: str | Sequence[Mapping[str, Any]]
    reference: Any = None
    columns: Mapping[str, Any] = field(default_factory=dict)


class ResponseText(str):
    """The text of a response, without its end token; a string with two attributes.

    Attributes:
        finished: Whether the response ended by itself, rather than being cut off at the greatest length.
        token_ids: Its tokens, end token included where it has one.

    >>> response = ResponseText("5", finished=False, token_ids=(20,))
    >>> response == "5", response.finished
    (True, False)
    """

    __slots__ = ("finished", "token_ids")
    finished: bool
    token_ids: tuple[int, ...]

    def __new__(cls, text: str, *, finished: bool = True, token_ids: Sequence[int] = ()) -> ResponseText:
        response = super().__new__(cls, text)
        response.finished, response.token_ids = finished, tuple(token_ids)
        return response

    def __reduce__(self) -> tuple[Any, ...]:
        return _response, (str(self), self.finished, self.token_ids)


class TextTask(Protocol):
    """Items in disjoint splits and a score of each response, all as text.

    Any object with these members is one; it need not inherit from this class:

    >>> from toy_models import TextItem
    >>> class Sums:
    ...     name = "sums"
    ...
    ...     def items(self, split):
    ...         if split != "train":
    ...             return None  # held out of the training items
    ...         return [TextItem(f"{a}+{b}", f"{a} + {b} =", str(a + b)) for a in range(10) for b in range(10)]
    ...
    ...     def score(self, item, text):
    ...         return text.strip() == item.reference
    >>> sums = Sums()
    >>> sums.score(sums.items("train")[23], " 5")
    True

    A score must depend on the item and the text alone. A response that was cut off at the greatest length is scored
    like any other; `text.finished` tells (`ResponseText`).

    These members are optional:

    - `score_many(items, texts) -> list` scores many responses at once, one for each item, as `score` does.
    - `solutions(item)` lists every correct text (or token sequence), so that evaluation is exact, or gives None; see
      `EncodedTask.solutions`.
    - `verifier`, an object with an `identity`: plain data that the scores depend on, for run.json.
    """

    @property
    def name(self) -> str:
        """Name of the task in records."""

    def items(self, split: str) -> Iterable[TextItem] | None:
        """The items of "train", "validation" or "test" in a fixed order.

        None for a split without items of its own: it gets a tenth of the training items, chosen by a hash of their
        tokens.
        """

    def score(self, item: TextItem, text: str) -> float | bool | Verdict:
        """How good a response is: True or False, a number of which `threshold` or more is correct, or a `Verdict`."""


def is_text_task(thing: Any) -> bool:
    """Whether an object has the members of a `TextTask`, and is not a task in tokens."""
    return all(hasattr(thing, name) for name in ("items", "score")) and not hasattr(thing, "verify")


def _response(text: str, finished: bool, token_ids: tuple[int, ...]) -> ResponseText:
    return ResponseText(text, finished=finished, token_ids=token_ids)
