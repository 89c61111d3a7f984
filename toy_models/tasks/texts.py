"""Texts of a file as tokens: chat messages, chat templates and encoding, with errors that name the row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["chat_messages", "check_template", "encode_text", "render_prompt"]

_SHOWN = 80  # characters of a text in a message


def chat_messages(value: Any, where: str, column: str) -> list[dict[str, str]]:
    """A prompt as chat messages; a text is one message of the user.

    Raises ValueError for a value of another type, and for an empty prompt.

    >>> chat_messages("2+3=", "a.jsonl line 1", "prompt")
    [{'role': 'user', 'content': '2+3='}]
    """
    messages = [{"role": "user", "content": value}] if isinstance(value, str) else value
    contents = [m.get("content") for m in messages if isinstance(m, dict)] if isinstance(messages, list) else []
    if not contents or len(contents) < len(messages) or not all(isinstance(text, str) for text in contents):
        raise ValueError(
            f"{where}: expected a string or a list of chat messages in {column!r}, got {str(value)[:_SHOWN]!r}"
        )
    if not any(text.strip() for text in contents if text):
        raise ValueError(f"{where}: expected a prompt in {column!r}, got an empty one")
    return list(messages)


def check_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises ValueError for a tokenizer without a chat template."""
    if not tokenizer.chat_template:
        raise ValueError(
            "chat_template: expected a tokenizer with a chat template, got one without; leave chat_template out, or "
            "save a tokenizer that has one"
        )


def render_prompt(
    tokenizer: PreTrainedTokenizerBase, value: Any, where: str, column: str, *, chat_template: bool
) -> tuple[str, str]:
    """The last message, and the whole prompt as text: as it is, or in the tokenizer's template up to where the answer
    begins. Raises ValueError as `chat_messages` does, and for a list of messages without a template."""
    messages = chat_messages(value, where, column)
    question = messages[-1]["content"]
    if chat_template:
        return question, str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    if not isinstance(value, str):
        raise ValueError(f"{where}: expected a text, got a list of chat messages; set chat_template = true")
    return question, question


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str, where: str) -> tuple[int, ...]:
    """Token ids of a text, without special tokens. Raises ValueError where it cannot be encoded or has no token."""
    try:
        encoded: Any = tokenizer.encode(text, add_special_tokens=False)
    except Exception as error:  # tokenizers raises a bare Exception for a word it cannot encode
        raise ValueError(f"{where}: the tokenizer cannot encode {text[:_SHOWN]!r} ({error})") from error
    if not encoded:
        raise ValueError(f"{where}: expected at least one token, got none from the tokenizer for {text[:_SHOWN]!r}")
    return tuple(int(i) for i in encoded)
