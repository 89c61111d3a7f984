"""How far texts of a file stand for the token ids that were trained on, counted while they are tokenised.

A dump of texts is tokenised again, and nothing in it says which ids were trained on. Some of what is lost shows:

    a text whose tokens, decoded, are another text, or that has characters which decoding could not read (U+FFFD)
    rows that have ids and a text, whose text has other tokens
    responses without the end token, which decoding leaves out
    prompts that end as the chat template ends them once its special tokens are decoded away

Text that survives all of this may still have been sampled as other tokens: the counts are lower bounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from toy_models.tasks.texts import chat_messages, render_messages

__all__ = ["TextCheck"]

_DECODED = 1024  # texts whose tokens are decoded again
_COMPARED = 256  # rows whose ids are compared with those of their text
_UNREADABLE = "\N{REPLACEMENT CHARACTER}"
_PROBE = "0"


class TextCheck:
    """Counts over the rows of a file; `warnings` says what they mean."""

    def __init__(self, tokenizer: Any, ends: Sequence[int]) -> None:
        self._tokenizer, self._ends = tokenizer, frozenset(ends)
        self._texts = self._decoded = self._lost = self._unended = 0
        self._both = self._other = 0
        self._prompts = self._rendered = 0
        self._remains, self._fewer = _template_remains(tokenizer)

    def response(self, text: str, ids: Sequence[int]) -> None:
        """Count a response that is given as text alone, and its tokens before an end token is added."""
        self._texts += 1
        self._unended += ids[-1] not in self._ends
        if _UNREADABLE in text:
            self._lost += 1
        elif self._decoded < _DECODED:
            self._decoded += 1
            self._lost += self._read(ids).lstrip(" ") != text.lstrip(" ")

    def known(self, text: str, ids: Sequence[int], encoded: Sequence[int] | None) -> None:
        """Count a response whose ids are known, and what its text is tokenised to, None where it cannot be."""
        self._both += 1
        own = list(ids)
        while own and own[-1] in self._ends:
            own.pop()
        self._other += encoded is None or list(encoded) not in (own, list(ids))

    @property
    def compares(self) -> bool:
        """Whether further rows with ids and text are wanted."""
        return self._both < _COMPARED

    def prompt(self, text: str) -> None:
        """Count a prompt that is given as text."""
        self._prompts += 1
        self._rendered += bool(self._remains) and text.rstrip().endswith(self._remains)

    def warnings(self, inexact: str, *, eos: bool, chat_template: bool) -> list[str]:
        """What the counts mean.

        Args:
            inexact: What is known of the layout: that its texts were decoded without special tokens; empty where it is
                not known to be so.
            eos: Whether end tokens were added.
            chat_template: Whether prompts were put into the chat template.

        Returns:
            One sentence or several as one warning; nothing where no text is traced, or nothing is known against it.
        """
        found = []
        if self._lost:
            rest = f" (beyond {_DECODED:,} rows the latter alone are found)" if self._texts > _DECODED else ""
            found.append(
                f"{self._lost:,} of {self._texts:,} response texts do not survive decoding and tokenising: their "
                f"tokens read otherwise, or they hold characters that decoding could not read{rest}."
            )
        elif inexact and self._texts:
            found.append(
                f"All {self._texts:,} response texts survive decoding and tokenising, which does not show that they "
                "were sampled as these tokens."
            )
        if self._texts and self._other:
            found.append(
                f"Of {self._both:,} rows that have both, the text of {self._other:,} has other tokens than their ids."
            )
        if inexact and self._unended and not eos:
            found.append(
                f"{self._unended:,} of {self._texts:,} responses have no end token, whose row and weight are missing; "
                "add it with eos (--eos) if the policy sampled it."
            )
        if inexact and self._rendered:
            found.append(self._of_prompts(chat_template))
        return [" ".join([*([inexact] if inexact else ["Inexact token ids."]), *found])] if inexact or found else []

    def _of_prompts(self, again: bool) -> str:
        which = (
            f"{self._rendered:,} of {self._prompts:,} prompts end with {self._remains!r}, as the tokenizer's chat "
            "template does once its special tokens are decoded away"
        )
        if again:
            return f"{which}, and were put into the template a second time: leave chat_template (--chat-template) out."
        return f"{which}: the policy saw about {self._fewer} tokens more."

    def _read(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids)))


def _template_remains(tokenizer: Any) -> tuple[str, int]:
    """How a prompt in the chat template ends once special tokens are decoded away, and how many tokens that takes."""
    try:
        messages = chat_messages([{"role": "user", "content": _PROBE}], "", "prompt")
        whole = tokenizer.encode(
            render_messages(tokenizer, messages, "", chat_template=True, open_turn=True), add_special_tokens=False
        )
        text = str(tokenizer.decode(whole, skip_special_tokens=True))
        fewer = len(whole) - len(tokenizer.encode(text, add_special_tokens=False))
    except Exception:  # no template, one that refuses the probe, or a tokenizer that does not know its words
        return "", 0
    return text.rpartition(_PROBE)[2].strip(), fewer
