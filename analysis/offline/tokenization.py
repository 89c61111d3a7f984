"""Recorded rollouts as token ids: text encoded as it stands, prompt and response apart; ids of the file as they are.

Nothing is added unless asked for: `chat_template` puts the prompt into the tokenizer's template, `bos` begins it with
the start token, `eos` ends each response with the end token. A response continues its prompt: what a tokenizer puts at
the start of a text only (`text_start`) is not put between the two, unless `responses_apart` asks for it. Dumps of
decoded text have lost such tokens (verl's has those of the template decoded away, TRL's has messages): where it matters
what the model saw to the last token, record token ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from toy_models.end_tokens import end_tokens
from toy_models.spooled import Spooled
from toy_models.tasks.start_tokens import required_start, start_tokens, with_start
from toy_models.tasks.task import prompt_hash
from toy_models.tasks.texts import (
    TemplateError,
    chat_messages,
    check_template,
    continues_turn,
    encode_text,
    last_question,
    render_messages,
    render_prompt,
)

from ..errors import UsageError
from .dialogues import dialogue_tokens
from .policy_tokens import policy_mask
from .reading import BadRows, Rollout
from .reencoding import TextCheck
from .text_start import encode_continuation, marks_start
from .token_checks import ModelLimits, check_tokens, groups_of, texts_are_parts
from .trace_settings import TraceSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["WARNING", "Encoded", "ModelLimits", "encode_rollouts"]

WARNING = "Warning: "  # begins a note that a reader must not overlook

_PROMPTS = 1024  # prompts whose tokens are kept for the next responses to them


@dataclass(frozen=True)
class Encoded:
    """One rollout as tokens. `question` is what a verifier is shown; `group` counts within the step."""

    rollout: Rollout
    prompt_id: str
    prompt: np.ndarray  # int64
    response: np.ndarray  # int64
    prompt_text: str
    response_text: str
    judged_text: str  # what a verifier sees of the response
    question: str
    finished: bool | None  # whether the response ends with an end token; None where text cannot tell
    group: int
    policy: np.ndarray  # bool, whether the policy sampled each response token
    text_of_ids: bool = False  # the file's text is a part of what its token ids read, so that the text is theirs

    @property
    def own_length(self) -> int:
        """How many of the response tokens the policy sampled."""
        return int(self.policy.sum())

    @property
    def length(self) -> int:
        """Positions that the model goes through: the last token of the response predicts nothing that is asked for."""
        return len(self.prompt) + len(self.response) - 1


def encode_rollouts(
    rollouts: Sequence[Rollout],
    tokenizer: PreTrainedTokenizerBase,
    limits: ModelLimits,
    settings: TraceSettings,
    columns: Mapping[str, str],
    bad: BadRows,
    *,
    ends: Sequence[int] | None = None,
    notes: list[str] | None = None,
    inexact: str = "",
) -> Sequence[Encoded]:
    """The rollouts that can be traced, in order.

    `ends` are the tokens that end a response, by default the tokenizer's end token; what a reader should know of how
    texts were read is added to `notes`, first that their ids may not be those that were trained on, which begins with
    `WARNING`. `inexact` is what the layout says of that.

    Raises UsageError for a tokenizer that does not match the model or the file's token ids, a template or an end token
    that it does not have, groups with several prompts, and (unless `bad` skips them) a row that cannot be encoded, ids
    outside the vocabulary and rollouts longer than the model's positions.
    """
    if len(tokenizer) > limits.vocab:
        raise UsageError(
            f"tokenizer: it has {len(tokenizer)} tokens, but the model embeds only {limits.vocab}; they "
            "do not match: give the tokenizer that the model was trained with"
        )
    if settings.eos and tokenizer.eos_token_id is None:
        raise UsageError("eos: the tokenizer has no end token; leave it out, or set tokenizer.eos_token")
    if settings.chat_template:
        try:
            check_template(tokenizer, settings.chat_template if isinstance(settings.chat_template, str) else None)
        except ValueError as error:
            raise UsageError(str(error)) from error
    encoder = _Encoder(tokenizer, settings, columns, end_tokens(tokenizer) if ends is None else ends)
    kept = Spooled[tuple[Rollout, dict[str, Any]]]()
    for rollout in rollouts:
        try:
            fields = encoder(rollout)
            check_tokens(rollout, fields, limits)
        except ValueError as error:
            refused = isinstance(error, TemplateError)
            bad(error, "prompt that the chat template refuses" if refused else "tokens that the model cannot take")
            continue
        kept.append((rollout, fields))
    if not kept:
        raise UsageError(f"rollouts: no row is left that the model can take; the first: {bad.examples[0]}")
    only_parts = texts_are_parts(tokenizer, (rollout for rollout, _ in kept))

    def encoded(rollout: Rollout, fields: dict[str, Any], group: int) -> Encoded:
        if only_parts and rollout.response_ids is not None:
            text = str(tokenizer.decode(list(rollout.response_ids)))
            fields = fields | {"response_text": text, "text_of_ids": rollout.response is not None}
        return Encoded(rollout, group=group, **fields)

    groups = groups_of(kept)
    if notes is not None:
        told = encoder.texts.warnings(inexact, eos=settings.eos, chat_template=bool(settings.chat_template))
        notes += [*(WARNING + text for text in told), *encoder.notes()]
    return Spooled(encoded(rollout, fields, group) for (rollout, fields), group in zip(kept, groups, strict=True))


class _Encoder:
    """Encodes rows; the prompt of a group once."""

    def __init__(
        self, tokenizer: Any, settings: TraceSettings, columns: Mapping[str, str], ends: Sequence[int]
    ) -> None:
        self._tokenizer, self._settings, self._columns, self._ends = tokenizer, settings, columns, ends
        self._end_words = [word for i in ends if isinstance(word := tokenizer.convert_ids_to_tokens(int(i)), str)]
        self._prompts: dict[Any, dict[str, Any]] = {}  # the last ones
        self._known: set[int] = set()  # hashes of all
        self._marks = marks_start(tokenizer)
        try:
            self._start = required_start(tokenizer) if settings.bos else start_tokens(tokenizer)
        except ValueError as error:
            raise UsageError(str(error)) from error
        self._continued = self._without_start = self._doubled = self._in_turn = 0
        self._padded = self._padded_prompts = self._ended_at_once = self._dialogues = 0
        self.texts = TextCheck(tokenizer, ends)

    def __call__(self, rollout: Rollout) -> dict[str, Any]:
        tokenizer = self._tokenizer
        key = rollout.prompt_ids or repr((rollout.prompt, rollout.tools, rollout.template_arguments))
        prompt = self._prompts.get(key)
        if prompt is None:
            prompt = self._prompts[key] = self._prompt_once(rollout, hash(key))
            if len(self._prompts) > _PROMPTS:
                del self._prompts[next(iter(self._prompts))]
        own: np.ndarray | None = None
        if rollout.turns is not None:
            ids, own, text = self._dialogue(rollout, prompt["prompt_text"])
        elif rollout.response_ids is not None:
            ids = list(rollout.response_ids)
            text = rollout.response or str(tokenizer.decode(ids))
            if rollout.response and self.texts.compares:
                self.texts.known(text, ids, self._encoded_or_none(prompt["prompt_text"], text, rollout.where))
        else:
            assert rollout.response is not None
            text = rollout.response
            ids = (
                self._encoded(prompt["prompt_text"], text, rollout.where)
                if text
                else [self._end_of_empty(rollout.where)]
            )
            self._continued += bool(text) and self._continues
            if text:
                self.texts.response(text, ids)
        masked = rollout.response_mask is not None or own is not None
        padding = 0 if masked else self._padding(ids, rollout.where)
        policy = policy_mask(rollout, len(rollout.prompt_ids or prompt["prompt"]), len(ids)) if own is None else own
        policy[len(ids) - padding :] = False
        last = int(policy.nonzero()[0][-1]) if policy.any() else len(ids) - 1  # of the policy's own tokens
        ended = ids[last] in self._ends
        if self._settings.eos and not ended:
            ids, padding = [*ids[: len(ids) - padding], tokenizer.eos_token_id], 0
            policy, ended = np.append(policy[: len(ids) - 1], True), True
        self._padded += bool(padding)
        body = ids[: len(ids) - padding]
        return {
            **prompt,
            "response": np.array(ids, dtype=np.int64),
            "policy": policy,
            "response_text": text,
            "judged_text": self._judged(text, body, exact=rollout.response_ids is not None),
            "finished": ended if ended or rollout.response_ids is not None else None,
        }

    @property
    def _continues(self) -> bool:
        """Whether texts are read as continuing others, without the space that the tokenizer puts before every text."""
        return self._marks and not self._settings.responses_apart

    def _encoded(self, before: str, text: str, where: str) -> list[int]:
        """Token ids of a text that stands after another one."""
        if self._continues:
            return list(encode_continuation(self._tokenizer, before, text, where))
        return list(encode_text(self._tokenizer, text, where))

    def _encoded_or_none(self, before: str, text: str, where: str) -> list[int] | None:
        try:
            return self._encoded(before, text, where)
        except ValueError:
            return None

    def _dialogue(self, rollout: Rollout, start: str) -> tuple[list[int], np.ndarray, str]:
        where, turns, settings = rollout.where, list(rollout.turns or ()), self._settings
        messages = chat_messages(rollout.prompt, where, self._columns.get("prompt", "prompt"))
        if continues_turn(messages):
            raise ValueError(
                f"{where}: expected a prompt that ends before the first turn of the response, got one within"
            )
        self._dialogues += 1

        def render(told: Sequence[Mapping[str, Any]], open_turn: bool) -> str:
            return render_messages(
                self._tokenizer,
                chat_messages(list(told), where, "response"),
                where,
                chat_template=settings.chat_template,
                tools=rollout.tools,
                arguments={**settings.template_arguments, **(rollout.template_arguments or {})},
                open_turn=open_turn,
            )

        ids, policy, text = dialogue_tokens(
            messages,
            turns,
            start,
            where=where,
            render=render,
            encode=lambda before, text: self._encoded(before, text, where),
            ends=self._end_words,
            eos=settings.eos,
        )
        return ids, np.array(policy, dtype=bool), text

    def _end_of_empty(self, where: str) -> int:
        """The token that an empty response consists of: it was decoded away, and a response has one at least."""
        own = self._tokenizer.eos_token_id
        end = own if own is not None else next(iter(self._ends), None)
        if end is None:
            raise ValueError(
                f"{where}: the response is empty, and neither tokenizer nor model has an end token that it may have "
                "been; set tokenizer.eos_token"
            )
        self._ended_at_once += 1
        return int(end)

    def _padding(self, ids: Sequence[int], where: str) -> int:
        """How many tokens after the end of a response, or of one that was cut off, fill it up to some length."""
        pad = getattr(self._tokenizer, "pad_token_id", None)
        fill = {pad, *self._ends}
        kept = next((i + 1 for i in reversed(range(len(ids))) if ids[i] not in fill), 0)
        kept += kept < len(ids) and ids[kept] in self._ends
        if not kept:
            raise ValueError(f"{where}: expected a response, got padding alone (the token {pad})")
        return len(ids) - kept

    def _without_padding(self, ids: tuple[int, ...], where: str) -> tuple[int, ...]:
        """A prompt without the padding on its left."""
        pad = getattr(self._tokenizer, "pad_token_id", None)
        if pad is None or pad == self._tokenizer.bos_token_id:
            return ids
        begin = next((i for i, token in enumerate(ids) if token != pad), len(ids))
        if begin == len(ids):
            raise ValueError(f"{where}: expected a prompt, got padding alone (the token {pad})")
        self._padded_prompts += bool(begin)
        return ids[begin:]

    def _judged(self, text: str, ids: Sequence[int], *, exact: bool) -> str:
        """What a verifier sees: the text of the ids where they are exact, without the end token in any case."""
        ended = ids[-1] in self._ends
        if exact:  # an end token need not be a special token, which decoding leaves out
            return str(self._tokenizer.decode(list(ids[:-1] if ended else ids), skip_special_tokens=True))
        word = next((word for word in self._end_words if ended and text.endswith(word)), "")
        return text.removesuffix(word)

    def _prompt_once(self, rollout: Rollout, key: int) -> dict[str, Any]:
        """`_prompt`, which counts what it notices; of a prompt that is encoded again it has been counted."""
        counts = self._without_start, self._doubled, self._in_turn, self._padded_prompts
        prompt = self._prompt(rollout)
        if key in self._known:
            self._without_start, self._doubled, self._in_turn, self._padded_prompts = counts
        elif rollout.prompt_ids is None and isinstance(rollout.prompt, str):
            self.texts.prompt(rollout.prompt)
        self._known.add(key)
        return prompt

    def _prompt(self, rollout: Rollout) -> dict[str, Any]:
        column, where, settings = self._columns.get("prompt", "prompt"), rollout.where, self._settings
        template = settings.chat_template
        if isinstance(rollout.prompt, list) and not template and rollout.prompt_ids is None:
            raise ValueError(
                f"{where}: the prompt is a list of chat messages; ask for the tokenizer's template with "
                "chat_template (--chat-template)"
            )
        if rollout.prompt is None:
            question = text = str(self._tokenizer.decode(list(rollout.prompt_ids or ())))
        else:  # of a prompt whose ids are given, messages are for the verifier alone
            template = template or (isinstance(rollout.prompt, list) and bool(self._tokenizer.chat_template))
            try:
                if isinstance(rollout.prompt, list) and not template:
                    raise TemplateError(f"{where}: the tokenizer has no chat template")
                question, text = self._rendered(rollout, where, column, template=template)
            except TemplateError:
                if rollout.prompt_ids is None:
                    raise
                question = last_question(chat_messages(rollout.prompt, where, column))
                text = str(self._tokenizer.decode(list(rollout.prompt_ids)))
        if rollout.prompt_ids is None:
            ids = self._with_start(encode_text(self._tokenizer, text, where))
        else:
            ids = self._without_padding(rollout.prompt_ids, where)
        self._in_turn += bool(
            rollout.prompt_ids is None
            and isinstance(rollout.prompt, list)
            and not settings.new_turn
            and continues_turn(chat_messages(rollout.prompt, where, column))
        )
        start = len(self._start)
        self._doubled += bool(start) and tuple(ids[: 2 * start]) == 2 * self._start
        return {
            "prompt_id": prompt_hash(ids),
            "prompt": np.array(ids, dtype=np.int64),
            "prompt_text": text,
            "question": question,
        }

    def _rendered(self, rollout: Rollout, where: str, column: str, *, template: bool | str) -> tuple[str, str]:
        settings = self._settings
        return render_prompt(
            self._tokenizer,
            rollout.prompt,
            where,
            column,
            chat_template=template,
            tools=rollout.tools,
            arguments={**settings.template_arguments, **(rollout.template_arguments or {})},
            new_turn=settings.new_turn,
        )

    def _with_start(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        started = with_start(ids, self._start)
        if self._settings.bos:
            return started
        self._without_start += started != ids
        return ids

    def notes(self) -> list[str]:
        """What a reader should know of how the texts of this file were read."""
        out, count = [], len(self._known)
        if self._continued:
            out.append(
                f"The tokenizer puts a space before every text. {self._continued} responses were read as continuing "
                "their prompts, without that space. Decoding leaves it out, so that a text cannot tell whether it was "
                "sampled: record token ids, or choose responses_apart (--responses-apart) where it was."
            )
        if self._without_start:
            word = "".join(self._tokenizer.convert_ids_to_tokens(list(self._start)))
            out.append(
                f"{self._without_start} of {count} prompts do not begin with the start token {word}, which the "
                "tokenizer puts before a text by default; add it with bos (--bos) if the rollouts were sampled so."
            )
        if self._doubled:
            out.append(f"{self._doubled} of {count} prompts begin with the start token twice.")
        if self._ended_at_once:
            out.append(
                f"{self._ended_at_once} responses are empty texts: the policy ended them at once. Each is traced as "
                "the end token alone."
            )
        if self._dialogues:
            out.append(
                f"{self._dialogues} responses are dialogues of several turns in the chat template: the assistant's "
                "turns are the policy's, those of users and tools and the template's own tokens are context. Texts are "
                "not exact: a template may write calls of tools with other spaces than the policy did. Token ids are."
            )
        if self._padded:
            out.append(f"{self._padded} responses are filled up with padding, which is not traced.")
        if self._padded_prompts:
            out.append(f"{self._padded_prompts} of {count} prompts began with padding, which was taken off.")
        if self._in_turn:
            out.append(
                f"{self._in_turn} of {count} prompts end with a message of the assistant; their responses continue "
                "that turn. If it is complete, choose new_turn (--new-turn)."
            )
        return out
