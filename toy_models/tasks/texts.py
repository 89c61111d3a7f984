"""Texts of a file as tokens: chat messages, chat templates and encoding, with errors that name the row.

A prompt in a chat template ends where the answer begins: after the opening of the assistant's turn, or, where its last
message is the assistant's, within that turn, which the answer continues.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "TemplateError",
    "chat_messages",
    "check_template",
    "continues_turn",
    "encode_text",
    "last_question",
    "render_messages",
    "render_prompt",
]

_SHOWN = 80  # characters of a text in a message
_REASONING = ("reasoning_content", "reasoning", "thinking")  # fields of a message beside its content

Messages = list[dict[str, Any]]


class TemplateError(ValueError):
    """A prompt that the tokenizer's chat template refuses."""


def chat_messages(value: Any, where: str, column: str) -> Messages:
    """A prompt as chat messages; a text is one message of the user.

    A message has a role and a content, which is a text or a list of parts of the type "text". An assistant's message
    may have tool calls or reasoning in place of a content. Any other field stays for the template. Fields that are
    null, as Parquet fills them in, are left out.

    Raises ValueError for a value of another type, and for an empty prompt.

    >>> chat_messages("2+3=", "a.jsonl line 1", "prompt")
    [{'role': 'user', 'content': '2+3='}]
    """
    given = [{"role": "user", "content": value}] if isinstance(value, str) else value
    if not isinstance(given, list) or not given or not all(isinstance(message, Mapping) for message in given):
        raise ValueError(
            f"{where}: expected a string or a list of chat messages in {column!r}, got {str(value)[:_SHOWN]!r}"
        )
    messages: Messages = [_without_nulls(message) for message in given]
    for number, message in enumerate(messages, start=1):
        content, other = message.get("content"), any(message.get(name) for name in ("tool_calls", *_REASONING))
        if isinstance(content, list):
            _check_parts(content, f"{where}: message {number} of {column!r}")
        elif not isinstance(content, str) and not (content is None and other):
            raise ValueError(
                f"{where}: expected a string or a list of chat messages in {column!r}, got {str(value)[:_SHOWN]!r}"
            )
        if not isinstance(message.get("role"), str):
            raise ValueError(
                f"{where}: expected a role (system, user, assistant, tool, …) in message {number} of {column!r}, got "
                f"{str(message)[:_SHOWN]!r}"
            )
        if content is None:
            message["content"] = None  # templates ask whether it is none rather than whether it is defined
    if not any(_text(message).strip() or message.get("tool_calls") for message in messages):
        raise ValueError(f"{where}: expected a prompt in {column!r}, got an empty one")
    return messages


def check_template(tokenizer: PreTrainedTokenizerBase, name: str | None = None) -> None:
    """Raises ValueError for a tokenizer without a chat template, or without the one of that name.

    Of several templates without a name, the one called default is taken, with tools the one called tool_use.
    """
    templates = tokenizer.chat_template
    if not templates:
        raise ValueError(
            "chat_template: expected a tokenizer with a chat template, got one without; leave chat_template out, or "
            "save a tokenizer that has one"
        )
    if isinstance(templates, dict):
        if name not in templates and (name is not None or not templates.keys() & {"default", "tool_use"}):
            wanted = "the name of one" if name is None else repr(name)
            raise ValueError(
                f"chat_template: expected {wanted}, got a tokenizer with the templates {', '.join(sorted(templates))}; "
                "choose one of them by its name"
            )
    elif name is not None:
        raise ValueError(
            f"chat_template: expected the template {name!r}, got a tokenizer with a single template, which has no "
            "name; leave the name out"
        )


def continues_turn(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the prompt ends within the assistant's turn, so that the answer continues it."""
    last = messages[-1]
    return last["role"] == "assistant" and not last.get("tool_calls")


def last_question(messages: Sequence[Mapping[str, Any]]) -> str:
    """What the user asked last; of messages without the user's, the last one."""
    asked = [message for message in messages if message["role"] == "user"] or messages
    return _text(asked[-1])


def render_prompt(
    tokenizer: PreTrainedTokenizerBase,
    value: Any,
    where: str,
    column: str,
    *,
    chat_template: bool | str,
    tools: Any = None,
    arguments: Mapping[str, Any] | None = None,
    new_turn: bool = False,
) -> tuple[str, str]:
    """What the user asked last, and the whole prompt as text: as it is, or in the tokenizer's template up to where the
    answer begins.

    Args:
        tokenizer: The tokenizer.
        value: A text or a list of chat messages.
        where: The row, for messages.
        column: Its column, for messages.
        chat_template: Whether the template is used; of several, the name of one.
        tools: JSON schemas of the tools that the template describes, as a list or as JSON.
        arguments: Further variables of the template, such as enable_thinking.
        new_turn: A last message of the assistant is complete; its turn is closed, and a new one opened.

    Raises ValueError as `chat_messages` does, for a list of messages without a template, and (`TemplateError`) for a
    prompt that the template refuses.
    """
    messages = chat_messages(value, where, column)
    question = last_question(messages)
    if chat_template:
        options = _options(chat_template, tools, arguments, where)
        if continues_turn(messages) and not new_turn:
            options["continue_final_message"] = _continued(messages[-1])
        else:
            options["add_generation_prompt"] = True
        return question, _rendered(tokenizer, messages, where, options)
    if not isinstance(value, str):
        raise ValueError(f"{where}: expected a text, got a list of chat messages; set chat_template = true")
    return question, question


def render_messages(
    tokenizer: PreTrainedTokenizerBase,
    messages: Messages,
    where: str,
    *,
    chat_template: bool | str,
    tools: Any = None,
    arguments: Mapping[str, Any] | None = None,
    open_turn: bool = False,
) -> str:
    """Whole messages (`chat_messages`) in the template, with `open_turn` up to where the assistant's next one begins.

    Arguments and errors are those of `render_prompt`.
    """
    options = _options(chat_template, tools, arguments, where)
    return _rendered(tokenizer, messages, where, options | {"add_generation_prompt": open_turn})


def _options(chat_template: bool | str, tools: Any, arguments: Mapping[str, Any] | None, where: str) -> dict[str, Any]:
    """Keyword arguments of apply_chat_template."""
    options = dict(arguments or {})
    if tools:
        options["tools"] = _tools(tools, where)
    if isinstance(chat_template, str):
        options["chat_template"] = chat_template
    return options


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str, where: str) -> tuple[int, ...]:
    """Token ids of a text, without special tokens. Raises ValueError where it cannot be encoded or has no token."""
    try:
        encoded: Any = tokenizer.encode(text, add_special_tokens=False)
    except Exception as error:  # tokenizers raises a bare Exception for a word it cannot encode
        raise ValueError(f"{where}: the tokenizer cannot encode {text[:_SHOWN]!r} ({error})") from error
    if not encoded:
        raise ValueError(f"{where}: expected at least one token, got none from the tokenizer for {text[:_SHOWN]!r}")
    return tuple(int(i) for i in encoded)


def _rendered(tokenizer: Any, messages: Messages, where: str, options: Mapping[str, Any]) -> str:
    """The messages in the template. A template that takes texts alone gets the text of a content of one part."""
    try:
        text = _applied(tokenizer, messages, where, options)
    except TemplateError:
        if not any(isinstance(message["content"], list) for message in messages):
            raise
        return _applied(tokenizer, _flat(messages, where), where, options)
    if any(isinstance(message["content"], list) and _lost(message, text) for message in messages):
        return _applied(tokenizer, _flat(messages, where), where, options)
    return text


def _applied(tokenizer: Any, messages: Messages, where: str, options: Mapping[str, Any]) -> str:
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, **options))
    except Exception as error:  # whatever the template raises, and what its code runs into
        reason = " ".join(str(error).split())[: 4 * _SHOWN]
        raise TemplateError(
            f"{where}: the tokenizer's chat template refuses the prompt ({type(error).__name__}: {reason})"
        ) from error


def _lost(message: Mapping[str, Any], rendered: str) -> bool:
    """Whether a template showed the list of parts as Python writes it, or not at all."""
    parts = message["content"]
    as_python = any(str(part) in rendered for part in parts)
    return as_python or (message["role"] == "user" and any(part["text"].strip() not in rendered for part in parts))


def _flat(messages: Messages, where: str) -> Messages:
    """Contents of one part as texts."""
    out = []
    for number, message in enumerate(messages, start=1):
        content = message["content"]
        if isinstance(content, list) and len(content) > 1:
            raise TemplateError(
                f"{where}: expected a text as the content of message {number}, which is all that the chat template "
                f"takes, got {len(content)} parts; join them in the file"
            )
        out.append(message | {"content": content[0]["text"]} if isinstance(content, list) else message)
    return out


def _continued(message: Mapping[str, Any]) -> str:
    """The field of a message that the answer continues."""
    return next((n for n in _REASONING if message["content"] is None and isinstance(message.get(n), str)), "content")


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return "".join(part["text"] for part in content)
    return content or next((str(message[name]) for name in _REASONING if message.get(name)), "")


def _check_parts(content: Sequence[Any], where: str) -> None:
    for part in content:
        if not isinstance(part, Mapping) or part.get("type", "text") != "text" or not isinstance(part.get("text"), str):
            raise ValueError(
                f'{where}: expected parts such as {{"type": "text", "text": …}}, got {str(part)[:_SHOWN]!r}; only '
                "texts can be traced"
            )
    if not content:
        raise ValueError(f"{where}: expected at least one part, got an empty list")


def _tools(tools: Any, where: str) -> Any:
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except ValueError as error:
            raise ValueError(f"{where}: expected tools as a list of JSON schemas, got {tools[:_SHOWN]!r}") from error
    if not isinstance(tools, list) or not all(isinstance(tool, Mapping) for tool in tools):
        raise ValueError(f"{where}: expected tools as a list of JSON schemas, got {str(tools)[:_SHOWN]!r}")
    return _without_nulls(tools)


def _without_nulls(value: Any) -> Any:
    """Objects without their null fields, which Parquet adds where other rows have them."""
    if isinstance(value, Mapping):
        return {
            name: item if name == "arguments" else _without_nulls(item)  # of a tool call, where null is a value
            for name, item in value.items()
            if item is not None
        }
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value
