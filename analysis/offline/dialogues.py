"""Dialogues of several turns as tokens: the assistant's turns are the policy's; those of users and tools are context.

Messages are put into the tokenizer's chat template turn by turn, and what a message adds to the text so far is encoded
apart, as it was when the policy sampled it:

    prompt | own text of turn 1 | end of turn, tool's turn, opening of turn 2 | own text of turn 2 | …

A message of the assistant with `weight` 0 (as in OpenAI's files for fine-tuning) is context. The end token that closes
a turn is the policy's where the trace ends responses with it (`eos`), and otherwise context. Token ids are exact; texts
are not: a template may write calls of tools with other spaces than the policy did.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = ["WEIGHT", "dialogue_tokens", "is_own"]

WEIGHT = "weight"  # of a message: 0 for one that the policy did not write
_REASONING = ("reasoning_content", "reasoning", "thinking")
_SHOWN = 60

Messages = Sequence[Mapping[str, Any]]


def is_own(message: Mapping[str, Any]) -> bool:
    """Whether the policy wrote a message."""
    return message.get("role") == "assistant" and message.get(WEIGHT) not in (0, False)


def dialogue_tokens(
    messages: Messages,
    turns: Messages,
    start: str,
    *,
    where: str,
    render: Callable[[Messages, bool], str],
    encode: Callable[[str, str], Sequence[int]],
    ends: Sequence[str],
    eos: bool,
) -> tuple[list[int], list[bool], str]:
    """The tokens after the prompt up to the policy's last one, which of them are its own (bool), and their text.

    Args:
        messages: The prompt.
        turns: The messages after it; the first is the policy's.
        start: The prompt in the template, up to where the first turn begins.
        where: The row, for messages.
        render: Messages in the template, and whether a turn of the assistant is opened at the end.
        encode: Token ids of a text that stands after another one.
        ends: The texts of the tokens that end a turn.
        eos: Whether the end token of a turn is the policy's.

    Raises:
        ValueError: A template that writes earlier turns otherwise once others follow, or that leaves out what the
            policy wrote.
    """
    told, text = list(messages), start
    segments: list[tuple[str, bool]] = []

    def add(piece: str, *, own: bool) -> None:
        nonlocal text
        if piece:
            segments.append((piece, own))
            text += piece

    for turn in turns:
        message = {name: value for name, value in turn.items() if name != WEIGHT}
        if not is_own(turn):
            told.append(message)
            continue
        add(_added(text, render(told, True), where), own=False)
        told.append(message)
        added = _added(text, render(told, False), where)
        written, end = _own_part(added, message, ends, where)
        add(written, own=True)
        add(end if eos else "", own=True)
    ids: list[int] = []
    policy: list[bool] = []
    before = start
    for piece, own in segments:
        tokens = encode(before, piece)
        ids += tokens
        policy += [own] * len(tokens)
        before += piece
    return ids, policy, "".join(piece for piece, _ in segments)


def _added(before: str, after: str, where: str) -> str:
    """What a text adds to the one that it begins with."""
    if not after.startswith(before):
        shared = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), len(after))
        raise ValueError(
            f"{where}: the chat template writes a turn otherwise once others follow, or otherwise than it opens one: "
            f"{before[shared : shared + _SHOWN]!r} becomes {after[shared : shared + _SHOWN]!r} (templates leave the "
            "reasoning of earlier turns out, for example); give the token ids of such a dialogue (response_ids) and "
            "which of them the policy sampled (response_mask)"
        )
    return after[len(before) :]


def _own_part(added: str, message: Mapping[str, Any], ends: Sequence[str], where: str) -> tuple[str, str]:
    """What the policy wrote of a turn in the template, and the end token after it."""
    content = _text(message.get("content"))
    reasoning = next((message[name] for name in _REASONING if isinstance(message.get(name), str)), "")
    for part, name in ((content, "content"), (reasoning, "reasoning")):
        if part.strip() and part.strip() not in added:
            raise ValueError(
                f"{where}: the chat template leaves out the {name} of a turn of the assistant: {part[:_SHOWN]!r}"
            )
    closed = [(place, end) for end in ends if end and (place := added.rfind(end)) >= 0]
    if closed:
        place, end = max(closed)
        return added[:place], end
    whole = content if not reasoning and not message.get("tool_calls") else added
    place = added.find(whole.strip()) + len(whole.strip())
    return added[:place], ""


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(part.get("text", "") if isinstance(part, Mapping) else "" for part in content)
    return content or ""
