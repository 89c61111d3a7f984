"""A `TextTask` in the tokens of a policy: the one way from texts to a `Task`.

A prompt is the item's text as the tokenizer encodes it, without special tokens, and without a chat template or a start
token (BOS) unless these are chosen. The score sees the decoded response without special tokens and without the token
that ended it. Where a task lists its solutions, special tokens inside a response are part of the text, so that each
token counts. A response with an id beyond the tokenizer, which models with padded vocabularies can draw, is wrong.

A split without items of its own gets a tenth of the training items, at least one. The prompts are ordered by the
SHA-256 of their tokens; the first tenth is the test split, the next one the validation split. The split of a prompt
therefore depends neither on the order of the items nor on a seed. Items that repeat a prompt with the same reference
count once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from ..end_tokens import end_tokens, without_end
from ..messages import unknown_name
from ..verifiers.scores import THRESHOLD, scored_verdict
from ..verifiers.verifier import NOT_JUDGED, Verdict, VerifierError
from .encodings import Encodings
from .prompt_tables import EncodedItem, PromptEncoder, PromptList, PromptTable
from .start_tokens import required_start
from .task import SPLITS, Prompt
from .text_task import ResponseText, TextItem, TextTask
from .texts import check_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["HELD_OUT_SHARE", "EncodedTask"]

HELD_OUT_SHARE = 10  # a split without items gets one prompt in ten
_SHOWN = 200  # characters of a text in a message


@dataclass
class EncodedTask:
    """A task in texts for one tokenizer.

    Raises ValueError, naming the item, where a prompt cannot be encoded, two items have the same prompt and different
    references or are in two splits, too few prompts are left to hold some out, or the tokenizer lacks the chat template
    or the start token that is needed.

    Attributes:
        tokenizer: Tokenizer of the policy.
        source: The task in texts.
        max_new_tokens: Greatest length of a response.
        chat_template: Whether prompts are put into the chat template of the tokenizer, up to where the answer begins.
        end_ids: The tokens that end a response (`Policy.end_ids`); None for the tokenizer's end token alone.
        bos: Whether each prompt begins with the tokenizer's start token; once, where a template writes it, too.
        threshold: The least score that is correct.
        errors: What a score that raises, or is no score, does: "stop" the run; "zero": the response is wrong with the
            score 0 and a reason that begins with `NOT_JUDGED`.

    Example:
        >>> from toy_models import EncodedTask, TextItem, word_tokenizer
        >>> class Sums:
        ...     name = "sums"
        ...
        ...     def items(self, split):
        ...         if split == "train":
        ...             pairs = [(a, b) for a in range(5) for b in range(5)]
        ...             return [TextItem(f"{a}+{b}", f"{a} + {b} =", str(a + b)) for a, b in pairs]
        ...
        ...     def score(self, item, text):
        ...         return text == item.reference
        >>> words = ["<pad>", "$", "+", "=", *map(str, range(9))]
        >>> task = EncodedTask(word_tokenizer(words, pad="<pad>", eos="$"), Sums(), max_new_tokens=2)
        >>> prompt = task.prompts("test")[0]
        >>> task.verify(prompt.ids, task.tokenizer.encode(f"{prompt.answer} $")).correct
        True
    """

    tokenizer: PreTrainedTokenizerBase
    source: TextTask
    max_new_tokens: int
    chat_template: bool = False
    end_ids: tuple[int, ...] | None = None
    bos: bool = False
    threshold: float = THRESHOLD
    errors: str = "stop"
    _start: tuple[int, ...] = field(init=False, repr=False)
    _splits: dict[str, PromptTable] = field(init=False, repr=False)
    _encodings: Encodings | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._encodings = Encodings(self.tokenizer, without=self._ends()) if self._lists else None
        if self.chat_template:
            check_template(self.tokenizer)
        self._start = required_start(self.tokenizer) if self.bos else ()
        self._splits = {}
        for split in SPLITS:
            if (items := self.source.items(split)) is not None:
                encoder = PromptEncoder(self.tokenizer, self.chat_template, self._start, f"task {self.name}", split)
                table = PromptTable.of(items if isinstance(items, Sequence) else list(items), encoder)
                for other in self._splits.values():
                    table.check_apart(other)
                self._splits[split] = table
        if "train" not in self._splits:
            raise ValueError(f"task {self.name}: expected items of the split train, got None; return a list of them")
        self._hold_out([split for split in reversed(SPLITS) if split not in self._splits])

    @property
    def name(self) -> str:
        """Name of the task in records."""
        return self.source.name

    @property
    def identity(self) -> dict[str, Any]:
        """How texts become prompts and scores verdicts, as plain data for run.json."""
        return {
            "chat_template": self.chat_template,
            "bos": self.bos,
            "end_ids": list(self._ends()),
            "threshold": self.threshold,
            "solutions": "not listed" if self._encodings is None else self._encodings.reason or "listed",
            "errors": self.errors,
        }

    @property
    def verifier(self) -> Any:
        """The verifier that the task in texts names; None where it has none."""
        return getattr(self.source, "verifier", None)

    @property
    def _lists(self) -> bool:
        return hasattr(self.source, "solutions")

    def prompts(self, split: str) -> list[Prompt]:
        """The prompts of a split in the order of its items; those held out of the training items by hash.

        A prompt is put into tokens when it is asked for; `[:n]` is a list of the first n.
        """
        if split not in SPLITS:
            raise ValueError(unknown_name("split", split, SPLITS))
        return cast("list[Prompt]", PromptList(self._splits[split], split))  # read like one

    def verify(self, prompt_ids: Sequence[int], response_ids: Sequence[int]) -> Verdict:
        """Judge one response. Raises ValueError for a prompt that is none of the task's."""
        return self.verify_many([prompt_ids], [response_ids])[0]

    def verify_many(self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> list[Verdict]:
        """Judge one response to each of the prompts, all together.

        Raises VerifierError, naming the item, where the score fails, or is neither True, False, a finite number nor a
        verdict.
        """
        items = [self._encoded(prompt).item for prompt in prompts]
        texts = [self._response(response) for response in responses]
        many = getattr(self.source, "score_many", None)
        if many is None:
            verdicts = [self._judge(item, text, i) for i, (item, text) in enumerate(zip(items, texts, strict=True))]
        else:
            verdicts = self._judge_many(many, items, texts)
        return [self._of_tokens(verdict, text.token_ids) for verdict, text in zip(verdicts, texts, strict=True)]

    def solutions(self, prompt_ids: Sequence[int]) -> list[tuple[int, ...]] | None:
        """Every correct response, from what `solutions(item)` of the task in texts lists; None where that is not known.

        The task lists, for an item, every text with a score of at least the threshold, or every correct token sequence,
        or gives None. Of a text, all token sequences that decode to it are listed (`Encodings`), each with every end
        token, and, where the score accepts it cut off at the greatest length, without one. So the sum of their
        probabilities is the success probability, whatever the tokenizer's own encoding is. Where sequences cannot be
        listed for the tokenizer, this is None, and `identity` says why.

        Raises:
            ValueError: A prompt that is none of the task's, or something listed that is not correct.
        """
        item = self._encoded(prompt_ids).item
        listed = getattr(self.source, "solutions", lambda item: None)(item)
        if listed is None or (self._encodings is not None and self._encodings.reason is not None):
            return None
        found: list[tuple[int, ...]] = []
        for solution in listed:
            responses = self._of_text(item, solution) if isinstance(solution, str) else [tuple(map(int, solution))]
            if responses is None:
                return None
            for response in responses if not isinstance(solution, str) else ():
                if not self.verify(prompt_ids, response).correct:
                    raise ValueError(f"{item.id}: solutions lists {list(response)}, which the score finds wrong")
            found += [response for response in responses if len(response) <= self.max_new_tokens]
        return list(dict.fromkeys(found))

    def _of_text(self, item: TextItem, text: str) -> list[tuple[int, ...]] | None:
        """Every correct response that reads `text`; None where they are too many to list."""
        assert self._encodings is not None
        sequences = self._encodings.of(text, self.max_new_tokens)
        if sequences is None:
            return None
        if not self._judge(item, ResponseText(text), 0).correct:
            raise ValueError(f"{item.id}: solutions lists {text!r}, which the score finds wrong; leave it out")
        cut_off = self._judge(item, ResponseText(text, finished=False), 0).correct
        ended = [(*ids, end) for ids in sequences if len(ids) < self.max_new_tokens for end in self._ends()]
        return ended + [ids for ids in sequences if cut_off and len(ids) == self.max_new_tokens]

    def _judge_many(self, many: Any, items: list[TextItem], texts: list[ResponseText]) -> list[Verdict]:
        try:
            scores = many(items, texts)
            if len(scores) != len(items):
                raise VerifierError(
                    f"task {self.name}: expected {len(items)} scores from score_many, got {len(scores)}; return one "
                    "for each item, in their order"
                )
        except Exception as error:  # whatever the user's code raises
            if self.errors == "zero":
                return [self._judge(item, text, i) for i, (item, text) in enumerate(zip(items, texts, strict=True))]
            if not isinstance(error, VerifierError):
                why = f"score_many fails with {type(error).__name__}: {error}"
                raise VerifierError(f"task {self.name}: {why}") from error
            if error.index is None:
                raise
            raise VerifierError(f"{items[error.index].id}: {error}", error.index) from error
        parts = enumerate(zip(items, texts, scores, strict=True))
        return [self._verdict(item, text, score, index) for index, (item, text, score) in parts]

    def _judge(self, item: TextItem, text: ResponseText, index: int) -> Verdict:
        try:
            score = self.source.score(item, text)
        except Exception as error:  # whatever the user's code raises
            return self._failed(item, text, f"score fails with {type(error).__name__}: {error}", index, error)
        return self._verdict(item, text, score, index)

    def _verdict(self, item: TextItem, text: ResponseText, score: Any, index: int) -> Verdict:
        try:
            return scored_verdict(score, self.threshold)
        except ValueError as error:
            return self._failed(item, text, str(error), index, error)

    def _failed(self, item: TextItem, text: ResponseText, why: str, index: int, error: Exception) -> Verdict:
        if self.errors == "zero":
            return Verdict(False, f"{NOT_JUDGED}{why}", 0.0)
        raise VerifierError(f"{item.id}: {why}; {_described(item, text)}", index) from error

    def _of_tokens(self, verdict: Verdict, ids: Sequence[int]) -> Verdict:
        """The verdict; wrong for a response with an id that the tokenizer does not have, which a padded model may draw.

        It has no text, so that the score has not seen it.
        """
        tokens: list[str | None] = list(self.tokenizer.convert_ids_to_tokens([int(i) for i in ids]))
        if None not in tokens:
            return verdict
        reason = f"the token {ids[tokens.index(None)]} is none of the tokenizer's"
        return Verdict(False, reason, None if verdict.score is None else 0.0)

    def _encoded(self, prompt_ids: Sequence[int]) -> EncodedItem:
        ids = tuple(int(i) for i in prompt_ids)
        for table in self._splits.values():
            if (encoded := table.find(ids)) is not None:
                return encoded
        example = self._splits["train"].items[0].id
        raise ValueError(
            f"prompt_ids: expected a prompt of the task {self.name}, such as that of {example}, got "
            f"{self.tokenizer.decode(list(prompt_ids))!r}"
        )

    def _ends(self) -> tuple[int, ...]:
        return end_tokens(self.tokenizer) if self.end_ids is None else self.end_ids

    def _response(self, response_ids: Sequence[int]) -> ResponseText:
        ids = [int(i) for i in response_ids]
        body = list(without_end(ids, self._ends()))  # an end token need not be a special one, which decoding leaves out
        # A special token that is left out would give a text further encodings, more than can be listed.
        text = str(self.tokenizer.decode(body, skip_special_tokens=not self._lists))
        return ResponseText(text, finished=len(body) < len(ids), token_ids=ids)

    def _hold_out(self, missing: list[str]) -> None:
        """Give each split without items a tenth of the training prompts."""
        train = self._splits["train"]
        tenth = max(1, len(train) // HELD_OUT_SHARE)
        if len(train) <= tenth * len(missing):
            after = f" after {train.last.id}" if len(train) else ""
            raise ValueError(
                f"task {self.name}: expected more than {tenth * len(missing)} prompts, to hold some out for "
                f"{' and '.join(reversed(missing))}, got {len(train)}; add prompts{after}, or prompts of their "
                "own for those splits"
            )
        parts = train.by_hash(tenth, len(missing))
        self._splits |= dict(zip(missing, parts, strict=True))
        self._splits["train"] = train.without(parts)


def _described(item: TextItem, text: str) -> str:
    shown = [value if len(value) <= _SHOWN else value[:_SHOWN] + " …" for value in (str(item.prompt), text)]
    return f"prompt {shown[0]!r}, response {shown[1]!r}"
