"""Texts of a file as tokens: chat messages, templates and encoding, with errors that say which row is meant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["chat_messages", "check_template", "encode_text", "render_prompt"]

_SHOWN = 80  # characters of a text in a message


def chat_messages(value: Any, where: str, column: str) -> list[dict[str, str]]:
    """A prompt as chat messages: a string is what the user says. ValueError for anything else, and where it is empty.

    >>> chat_messages("2+3=", "a.jsonl line 1", "prompt")
    [{'role': 'user', 'content': '2+3='}]
    """
    messages = [{"role": "user", "content": value}] if isinstance(value, str) else value
    said = [m.get("content") for m in messages if isinstance(m, dict)] if isinstance(messages, list) else []
    if not said or len(said) < len(messages) or not all(isinstance(text, str) for text in said):
        raise ValueError(
            f"{where}: expected a string or a list of chat messages in {column!r}, got {str(value)[:_SHOWN]!r}"
        )
    if not any(text.strip() for text in said if text):
        raise ValueError(f"{where}: the prompt ({column!r}) is empty")
    return list(messages)


def check_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """ValueError for a tokenizer without a chat template."""
    if not tokenizer.chat_template:
        raise ValueError("chat_template: the tokenizer has none; leave it out, or save a tokenizer with one")


def render_prompt(
    tokenizer: PreTrainedTokenizerBase, value: Any, where: str, column: str, *, chat_template: bool
) -> tuple[str, str]:
    """What the last message asks, and the prompt as text: in the tokenizer's template, ending where the answer begins,
    or as it stands. ValueError as in `chat_messages`, and for messages without a template."""
    messages = chat_messages(value, where, column)
    question = messages[-1]["content"]
    if chat_template:
        return question, str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    if not isinstance(value, str):
        raise ValueError(f"{where}: a prompt of chat messages needs a template; set chat_template = true")
    return question, question


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str, where: str) -> tuple[int, ...]:
    """Token ids of a text, nothing added; ValueError where the tokenizer cannot encode it or makes no token of it."""
    try:
        encoded: Any = tokenizer.encode(text, add_special_tokens=False)
    except Exception as error:  # tokenizers raises a bare Exception for a word it cannot encode
        raise ValueError(f"{where}: the tokenizer cannot encode {text[:_SHOWN]!r} ({error})") from error
    if not encoded:
        raise ValueError(f"{where}: the tokenizer makes no token of {text[:_SHOWN]!r}")
    return tuple(int(i) for i in encoded)
