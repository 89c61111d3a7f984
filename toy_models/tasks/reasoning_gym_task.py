"""The task `reasoning-gym`: questions that a data set of the package reasoning-gym makes, and its own scores.

A data set makes question i from its seed and i. The questions of a split have an interval of i of their own: first the
test split, then the validation split, then the training split, each as long as it takes to get the wanted number of
distinct questions; a question that has come before is left out and counted. So no question is in two splits, and
another number of training questions leaves the held-out ones as they are. The data set is asked for question i by its
index and never iterated over.

`score_answer` of the data set scores a response, from 0 to 1, with partial credit. A response that was cut off at the
greatest length is wrong. Data sets that score by their class's own code do so in a child process, since some evaluate
the response as an expression: a response may loop or use up memory there.

**Exact evaluation.** A data set that inherits `score_answer` from reasoning-gym's base class gives 1.0 to one text
alone, its answer; `solutions` lists it. `countdown` accepts infinitely many texts (white space, parentheses); with
`normal_form` one text counts for each way to compute the target, and these are listed (`countdown_forms`). Any other
data set lists none, and neither does one with a lower threshold or with a tag around the answer.

Source: reasoning-gym 0.1.25, `reasoning_gym/dataset.py` and `reasoning_gym/factory.py` (Apache-2.0).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..messages import nearest, unknown_name
from ..verifiers.verifier import Verdict, VerifierError
from ..verifiers.worker_pool import Failure, StartError, WorkerPool
from .countdown_forms import in_normal_form, normal_forms
from .gym_imports import check_packages, gym_registry, gym_version
from .task import SPLITS
from .text_task import TextItem

__all__ = ["GYM_TASK", "GymTask", "check_normal_form", "gym_data_set", "lists_solutions"]

GYM_TASK = "reasoning-gym"
SECONDS = 10  # processor time of one score
_WALL = 12  # wall-clock limit over that of processor time: other load on the machine stretches it
_ORDER = ("test", "validation", "train")  # so that more training questions change no held-out one
_MOST_NUMBERS = 4  # of countdown: with five, a prompt has 430,080 expressions, which take half a minute to list
_OURS = ("seed", "size")  # fields of a configuration that are set here


class GymTask:
    """Questions of one data set of reasoning-gym, as a `TextTask`.

    Args:
        data_set: Its name, such as "chain_sum".
        config: Fields of its configuration; its own defaults where they are left out.
        sizes: Number of distinct questions of "train", "validation" and "test".
        seed: What the questions depend on beside the configuration.
        system: Text of a system message before each question; None for none. It needs a chat template.
        answer_tag: Only what stands in the last <tag>…</tag> of a response is scored, white space around it apart, and
            nothing where there is none; None to score the response as it stands.
        normal_form: For countdown: a response counts only in the normal form of expressions, so that the correct ones
            can be listed.
        threshold: The least score that is correct. Solutions are listed for 1.0 alone.
        workers: Number of processes that score.

    Raises:
        ValueError: reasoning-gym is not installed, has no such data set, or the configuration is invalid; or the data
            set makes too few distinct questions.

    Example::

        task = GymTask("gcd", {"max_value": 100}, {"train": 512, "validation": 64, "test": 128})
        encoded = EncodedTask(tokenizer, task, max_new_tokens=16)
    """

    name = GYM_TASK

    def __init__(
        self,
        data_set: str,
        config: Mapping[str, Any],
        sizes: Mapping[str, int],
        *,
        seed: int = 0,
        system: str | None = None,
        answer_tag: str | None = None,
        normal_form: bool = False,
        threshold: float = 1.0,
        workers: int = 1,
    ) -> None:
        if unknown := [split for split in sizes if split not in SPLITS]:
            raise ValueError(unknown_name("split", unknown[0], SPLITS))
        if normal_form:
            check_normal_form(data_set, config)
        questions = 2 * sum(sizes.values())  # of which at most half may repeat another
        self._set = gym_data_set(data_set, config, seed, questions)
        self._system, self._tag, self._normal = system, answer_tag, normal_form
        self._own_score = not _inherits_score(type(self._set))
        arguments = [data_set, json.dumps(_plain(config)), str(seed), str(questions), str(SECONDS)]
        self._pool = WorkerPool(f"{__package__}.gym_worker", arguments, workers, SECONDS * _WALL)
        self.verifier = _Identity(
            {
                "name": GYM_TASK,
                "version": gym_version(),
                "data_set": data_set,
                "config": _plain(config),
                "seed": seed,
                "answer_tag": answer_tag,
                "normal_form": normal_form,
            }
        )
        # A task in texts that has this member lists its solutions, and only such a task does.
        if lists_solutions(data_set, normal_form=normal_form, answer_tag=answer_tag, threshold=threshold):
            self.solutions = self._solutions
        self.left_out: dict[str, int] = {}  # split -> questions that had come before
        self._entries: dict[int, dict[str, Any]] = {}
        self._items = self._made(data_set, sizes, questions)
        self.verifier.identity["left_out"] = self.left_out  # run.json says how many questions came twice

    def items(self, split: str) -> list[TextItem]:
        """The questions of a split, in the order of their indices."""
        return self._items[split]

    def score(self, item: TextItem, text: str) -> Verdict:
        """The score of one response."""
        return self.score_many([item], [text])[0]

    def score_many(self, items: Sequence[TextItem], texts: Sequence[str]) -> list[Verdict]:
        """The score of one response to each item.

        Raises:
            VerifierError: `score_answer` raises, or its process cannot be started; `index` is the case.
        """
        verdicts: list[Verdict | None] = [self._refused(text) for text in texts]
        left = [i for i, verdict in enumerate(verdicts) if verdict is None]
        answers = [(items[i].columns["index"], self._answer(texts[i])) for i in left]
        for i, score in zip(left, self._scores(answers), strict=True):
            if isinstance(score, Failure):
                verdicts[i] = Verdict(False, score.reason, 0.0)
            elif isinstance(score, str):
                raise VerifierError(f"score_answer of reasoning-gym fails with {score}", i)
            else:
                verdicts[i] = Verdict(score >= 1, "correct" if score >= 1 else f"score {score:.4g}", score)
        return [verdict for verdict in verdicts if verdict is not None]

    def _solutions(self, item: TextItem) -> list[str]:
        """Every text that scores 1."""
        if self._normal:
            entry = self._entries[item.columns["index"]]["metadata"]
            return normal_forms(entry["numbers"], entry["target"])
        return [str(item.reference)]

    def close(self) -> None:
        """End the processes that score; they are started again when needed."""
        self._pool.close()

    def _made(self, data_set: str, sizes: Mapping[str, int], questions: int) -> dict[str, list[TextItem]]:
        items: dict[str, list[TextItem]] = {}
        seen: set[str] = set()
        index = 0
        for split in _ORDER:
            items[split], self.left_out[split] = [], 0
            while len(items[split]) < sizes.get(split, 0):
                if index == questions:
                    raise ValueError(
                        f"data set {data_set}: expected {sum(sizes.values())} distinct questions, got {len(seen)} "
                        f"among the first {questions}; lower task.train_prompts or task.splits, or widen task.config"
                    )
                entry = self._set[index]
                question = entry["question"]
                if question in seen:
                    self.left_out[split] += 1
                else:
                    seen.add(question)
                    self._entries[index] = entry
                    items[split].append(
                        TextItem(f"{data_set}/{index}", self._prompt(question), entry["answer"], {"index": index})
                    )
                index += 1
        return items

    def _prompt(self, question: str) -> str | list[dict[str, str]]:
        if self._system is None:
            return question
        return [{"role": "system", "content": self._system}, {"role": "user", "content": question}]

    def _answer(self, text: str) -> str | None:
        return str(text) if self._tag is None else tagged(text, self._tag)

    def _refused(self, text: str) -> Verdict | None:
        if not getattr(text, "finished", True):
            return Verdict(False, "not finished: no end token", 0.0)
        if self._tag is not None and tagged(text, self._tag) is None:
            return Verdict(False, f"no <{self._tag}>", 0.0)
        if self._normal and not in_normal_form(str(text)):
            return Verdict(False, "not in normal form", 0.0)
        return None

    def _scores(self, answers: Sequence[tuple[int, str | None]]) -> list[float | str | Failure]:
        """A score for each (index, answer); the error's name and text where `score_answer` raises."""
        if not self._own_score:
            return [float(self._set.score_answer(answer, self._entries[index])) for index, answer in answers]
        try:
            return self._pool.ask([list(answer) for answer in answers])
        except StartError as error:
            raise VerifierError(f"reasoning-gym cannot be started in a process of its own: {error}") from error


def gym_data_set(name: str, config: Mapping[str, Any], seed: int, size: int) -> Any:
    """A data set of reasoning-gym.

    Args:
        name: Its name.
        config: Fields of its configuration.
        seed: Its seed.
        size: How many questions it is asked for at most.

    Raises:
        ValueError: reasoning-gym or a package that this data set needs is not installed; the name is unknown; the
            configuration has an unknown field, or the data set refuses it.
    """
    registry = gym_registry()
    known = sorted(set(registry) - {"composite"})
    if name == "composite":
        raise ValueError("data set composite: it mixes other data sets; name one of these, and run one for each")
    if name not in registry:
        raise ValueError(
            f"expected one of the {len(known)} data sets of reasoning-gym, got {name!r} ({nearest(name, known)})"
        )
    check_packages(name)
    kind, config_kind = registry[name]
    fields = {field.name: field for field in dataclasses.fields(config_kind)}
    for field in config:
        if field in _OURS:
            raise ValueError(f"data set {name}: {field} is set by the recipe's own fields; leave it out of the config")
        if field not in fields:
            raise ValueError(unknown_name(f"field of the data set {name}", field, sorted(set(fields) - set(_OURS))))
    options = {field: _as_declared(value, fields[field]) for field, value in _plain(config).items()}
    own = {"seed": seed, "size": size}
    options |= {field: own[field] for field in _OURS if field in fields}
    try:
        made = config_kind(**options)
        if hasattr(made, "validate"):
            made.validate()
        return kind(config=made)
    except (AssertionError, TypeError, ValueError, KeyError, AttributeError) as error:
        reason = str(error) or type(error).__name__
        raise ValueError(f"data set {name}: it refuses the configuration {_plain(config)}: {reason}") from error


def lists_solutions(data_set: str, *, normal_form: bool, answer_tag: str | None, threshold: float) -> bool:
    """Whether every correct response to the questions of a data set can be listed, as texts.

    Raises ValueError where reasoning-gym is not installed.
    """
    if threshold != 1 or answer_tag is not None:
        return False
    return normal_form or _inherits_score(gym_registry()[data_set][0])


def check_normal_form(data_set: str, config: Mapping[str, Any]) -> None:
    """Raises ValueError where a normal form of responses is not known, or a prompt has too many of them."""
    if data_set != "countdown":
        raise ValueError(
            f"task.normal_form: expected the data set countdown, got {data_set}; leave it out: data sets with one "
            "accepted text list it without"
        )
    most = config.get("max_numbers", 6)
    if isinstance(most, int) and most > _MOST_NUMBERS:
        raise ValueError(
            f"task.normal_form: expected at most {_MOST_NUMBERS} numbers, got max_numbers = {most}, which has "
            f"too many expressions for a prompt; set task.config.max_numbers = {_MOST_NUMBERS} or less"
        )


def tagged(text: str, tag: str) -> str | None:
    """What stands in the last <tag>…</tag> of a text, without white space around it; None where there is none.

    >>> tagged("so <answer>1</answer> or <answer> 12 </answer>.", "answer")
    '12'
    """
    before, opening, rest = str(text).rpartition(f"<{tag}>")
    content, closing, _ = rest.partition(f"</{tag}>")
    if opening and not closing:  # opened again and not closed: the one before counts
        return tagged(before, tag)
    return content.strip() if opening else None


class _Identity:
    """What scores depend on, as the `verifier` of a task has it."""

    def __init__(self, identity: dict[str, Any]) -> None:
        self.identity = identity


def _inherits_score(kind: type) -> bool:
    """Whether a data set scores by the code of reasoning-gym's base class: one text has the score 1."""
    base = next(parent for parent in kind.__mro__ if parent.__name__ == "ProceduralDataset")
    return getattr(kind, "score_answer", None) is vars(base)["score_answer"]


def _as_declared(value: Any, field: dataclasses.Field[Any]) -> Any:
    """A list as the tuple that the configuration has by default, where it has one."""
    return tuple(value) if isinstance(value, list) and isinstance(field.default, tuple) else value


def _plain(value: Any) -> Any:
    """Tables and lists as JSON has them."""
    if isinstance(value, Mapping):
        return {str(name): _plain(entry) for name, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, list | tuple) else value
