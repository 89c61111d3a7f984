"""Tasks in texts: items, scores as verdicts, and the way into the tokens of a policy."""

from __future__ import annotations

import math
import pickle
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from toy_models import EncodedTask, ResponseText, TextItem, Verdict, verify_all, word_tokenizer
from toy_models.tasks.text_task import is_text_task
from toy_models.verifiers import VerifierError
from toy_models.verifiers.scores import scored_verdict

WORDS = ["<pad>", "$", "+", "=", *map(str, range(30))]
END = 1


def tokenizer() -> Any:
    return word_tokenizer(WORDS, pad="<pad>", eos="$")


class Sums:
    """Sums whose score is the nearness of the answer; keeps what it was asked."""

    name = "sums"

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def items(self, split: str) -> Any:
        if split != "train":
            return None
        return [TextItem(f"{a}+{b}", f"{a} + {b} =", str(a + b)) for a in range(6) for b in range(6)]

    def score(self, item: TextItem, text: str) -> Any:
        self.asked.append((item, text))
        return max(0.0, 1 - abs(int(text) - int(item.reference)) / 10)


def encoded(source: Any, **options: Any) -> EncodedTask:
    return EncodedTask(tokenizer(), source, max_new_tokens=3, **options)


class TestScores:
    @pytest.mark.parametrize(
        ("value", "verdict"),
        [
            (True, Verdict(True, "correct")),
            (np.bool_(False), Verdict(False, "wrong")),
            (1, Verdict(True, "correct", 1.0)),
            (0.25, Verdict(False, "score 0.25", 0.25)),
            (np.float32(2.0), Verdict(True, "correct", 2.0)),
            (torch.tensor(0.5), Verdict(False, "score 0.5", 0.5)),
            (Fraction(1, 2), Verdict(False, "score 0.5", 0.5)),
            (-3.0, Verdict(False, "score -3", -3.0)),
            (Verdict(False, "no number"), Verdict(False, "no number")),
            (Verdict(True, "correct", 1.0), Verdict(True, "correct", 1.0)),
            (Verdict(True, "nearly", 0.9), Verdict(False, "score 0.9", 0.9)),
        ],
    )
    def test_as_verdicts(self, value: Any, verdict: Verdict) -> None:
        assert scored_verdict(value, 1.0) == verdict

    def test_the_threshold_decides(self) -> None:
        assert [scored_verdict(0.5, t).correct for t in (0.5, math.nextafter(0.5, 1))] == [True, False]

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            (float("nan"), "expected a finite score, got nan; return 0"),
            (np.float64("inf"), "expected a finite score, got inf"),
            (Verdict(True, "correct", math.nan), "expected a finite score, got nan"),
            ("1.0", "expected a score: True, False, a number or a Verdict, got '1.0'"),
            (None, "expected a score: .*, got None"),
            (np.ones(2), r"expected a score: .*, got array\(\[1., 1.\]\)"),
            (1j, "expected a score"),
        ],
    )
    def test_what_is_none(self, value: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            scored_verdict(value, 1.0)


class TestEncoded:
    def test_splits_prompts_and_verdicts(self) -> None:
        source = Sums()
        task = encoded(source)
        assert [len(task.prompts(split)) for split in ("train", "validation", "test")] == [30, 3, 3]
        assert (task.name, task.max_new_tokens) == ("sums", 3)
        prompt = task.prompts("train")[0]
        assert tuple(tokenizer().encode(prompt.text)) == prompt.ids
        right, near, cut = (tokenizer().encode(f"{int(prompt.answer or 0) + off}") for off in (0, 2, 0))
        verdicts = verify_all(task, [prompt.ids] * 3, [[*right, END], [*near, END], cut])
        assert [(v.correct, v.score) for v in verdicts] == [(True, 1.0), (False, 0.8), (True, 1.0)]
        assert [text.finished for _, text in source.asked] == [True, True, False]
        assert [text.token_ids for _, text in source.asked] == [(*right, END), (*near, END), tuple(cut)]
        assert {item.id for item, _ in source.asked} == {prompt.text.removesuffix(" =").replace(" ", "")}

    def test_a_threshold_of_its_own(self) -> None:
        task = encoded(Sums(), threshold=0.8)
        prompt = task.prompts("train")[0]
        answer = tokenizer().encode(f"{int(prompt.answer or 0) + 2} $")
        assert task.verify(prompt.ids, answer) == Verdict(True, "correct", 0.8)
        assert task.identity == {
            "chat_template": False,
            "bos": False,
            "end_ids": [END],
            "threshold": 0.8,
            "solutions": "not listed",
            "errors": "stop",
        }

    def test_many_at_once(self) -> None:
        class Many(Sums):
            def score_many(self, items: Any, texts: Any) -> Any:
                return [item.reference == text for item, text in zip(items, texts, strict=True)]

        task = encoded(Many())
        first, second = task.prompts("train")[:2]
        answers = [tokenizer().encode(f"{first.answer} $")] * 2
        assert [v.correct for v in task.verify_many([first.ids, second.ids], answers)] == [True, False]

    def test_faults_name_the_item(self) -> None:
        task = encoded(Sums())
        prompt = task.prompts("train")[0]
        with pytest.raises(VerifierError, match=r"^0\+\d: score fails with ValueError: .*prompt '0 \+ .*response '\+'"):
            task.verify(prompt.ids, tokenizer().encode("+ $"))
        bad = Sums()
        bad.score = lambda item, text: math.nan  # type: ignore[method-assign]
        with pytest.raises(VerifierError, match=r"^0\+\d: expected a finite score, got nan") as error:
            encoded(bad).verify_many([prompt.ids], [[END]])
        assert error.value.index == 0
        few = Sums()
        few.score_many = lambda items, texts: []  # type: ignore[attr-defined]
        with pytest.raises(VerifierError, match="task sums: expected 1 scores from score_many, got 0"):
            encoded(few).verify(prompt.ids, [END])
        few.score_many = lambda items, texts: 1 / 0  # type: ignore[attr-defined]
        with pytest.raises(VerifierError, match="task sums: score_many fails with ZeroDivisionError"):
            encoded(few).verify(prompt.ids, [END])

    def test_items_that_are_none(self) -> None:
        class Broken(Sums):
            def __init__(self, items: Any) -> None:
                super().__init__()
                self._given = items

            def items(self, split: str) -> Any:
                return self._given

        with pytest.raises(ValueError, match="task sums: expected items of the split train, got None"):
            encoded(Broken(None))
        with pytest.raises(ValueError, match=r"expected toy_models.TextItem objects from items\('train'\), got str"):
            encoded(Broken(["1 + 1 ="]))
        with pytest.raises(ValueError, match="a: expected a string or a list of chat messages"):
            encoded(Broken([TextItem("a", [{"role": "user"}])]))
        with pytest.raises(ValueError, match="a: expected a prompt of one split only, got that of a"):
            encoded(Broken([TextItem("a", "1 =")]))

    def test_messages_go_through_the_template(self) -> None:
        class Chat(Sums):
            def items(self, split: str) -> Any:
                items = super().items(split)
                return items and [TextItem(i.id, [{"role": "user", "content": i.prompt}], i.reference) for i in items]

        words = tokenizer()
        words.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %} +"
        task = EncodedTask(words, Chat(), 3, chat_template=True)
        assert all(prompt.text.endswith("= +") for prompt in task.prompts("train"))
        with pytest.raises(ValueError, match=r"0\+0: expected a text, got a list of chat messages; set chat_template"):
            encoded(Chat())


def test_a_response_is_a_string_that_survives_pickling() -> None:
    text = pickle.loads(pickle.dumps(ResponseText("5", finished=False, token_ids=[7])))
    assert (text, text.finished, text.token_ids) == ("5", False, (7,))


def test_what_a_text_task_is() -> None:
    assert is_text_task(Sums())
    assert not is_text_task(encoded(Sums()))
    assert not is_text_task(object())
