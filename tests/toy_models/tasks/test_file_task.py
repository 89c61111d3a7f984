from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from toy_models import DataFiles, FileTask, Verdict, verify_all
from toy_models.table_files import read_table
from toy_models.tasks.tokenizer import word_tokenizer
from toy_models.verifiers import Case, ExactMatch, VerifierError, accepted_answer, get_verifier, judge_accepted

DIGITS = [str(n) for n in range(100)]
END = 1
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}{% if add_generation_prompt %}:{% endif %}"
)


@pytest.fixture
def tokenizer() -> Any:
    return word_tokenizer(["<pad>", "$", ":", "+", "user", "system", *DIGITS], pad="<pad>", eos="$")


def sums(n: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"prompt": f"{i} + {i} :", "answer": str(2 * i)} for i in range(start, start + n)]


def write(path: Path, rows: Any) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return path


def task(tokenizer: Any, train: Path, *, chat_template: bool = False, **files: Any) -> FileTask:
    return FileTask(tokenizer, DataFiles(train, **files), ExactMatch(), 3, chat_template)


def texts(task: FileTask, split: str) -> list[str]:
    return [prompt.text for prompt in task.prompts(split)]


class TestSplits:
    def test_three_files(self, tokenizer: Any, tmp_path: Path) -> None:
        files = {
            name: write(tmp_path / f"{name}.jsonl", sums(5, start=10 * i))
            for i, name in enumerate(("train", "validation", "test"))
        }
        file_task = task(tokenizer, **files)
        for i, name in enumerate(files):
            assert texts(file_task, name) == [row["prompt"] for row in sums(5, start=10 * i)]
        prompt = file_task.prompts("test")[0]
        assert (prompt.split, prompt.answer, prompt.ids) == ("test", "40", tuple(tokenizer.encode("20 + 20 :")))

    def test_one_file_gives_a_tenth_to_each_other_split(self, tokenizer: Any, tmp_path: Path) -> None:
        file_task = task(tokenizer, write(tmp_path / "a.jsonl", sums(40)))
        by_split = {split: texts(file_task, split) for split in ("train", "validation", "test")}
        assert {split: len(rows) for split, rows in by_split.items()} == {"train": 32, "validation": 4, "test": 4}
        assert sorted(text for rows in by_split.values() for text in rows) == sorted(row["prompt"] for row in sums(40))
        assert by_split["train"] == [row["prompt"] for row in sums(40) if row["prompt"] in by_split["train"]]

    def test_the_split_does_not_depend_on_the_order_of_the_file(self, tokenizer: Any, tmp_path: Path) -> None:
        file_task = task(tokenizer, write(tmp_path / "a.jsonl", sums(40)))
        other = task(tokenizer, write(tmp_path / "b.jsonl", sums(40)[::-1]))
        for split in ("validation", "test"):
            assert file_task.prompts(split) == other.prompts(split)

    def test_a_given_test_file_leaves_the_rest_to_validation(self, tokenizer: Any, tmp_path: Path) -> None:
        held = write(tmp_path / "t.jsonl", sums(3, start=40))
        file_task = task(tokenizer, write(tmp_path / "a.jsonl", sums(20)), test=held)
        assert [len(file_task.prompts(split)) for split in ("train", "validation", "test")] == [18, 2, 3]

    def test_too_few(self, tokenizer: Any, tmp_path: Path) -> None:
        with pytest.raises(
            ValueError, match="expected more than 2 prompts, to hold some out for validation and test, got 2; add"
        ):
            task(tokenizer, write(tmp_path / "a.jsonl", sums(2)))

    def test_repeated_lines_count_once(self, tokenizer: Any, tmp_path: Path) -> None:
        file_task = task(tokenizer, write(tmp_path / "a.jsonl", [*sums(10), *sums(3)]))
        assert sum(len(file_task.prompts(split)) for split in ("train", "validation", "test")) == 10

    def test_two_answers_are_refused(self, tokenizer: Any, tmp_path: Path) -> None:
        rows = [*sums(10), {"prompt": "3  + 3 :", "answer": "7"}]  # the same tokens in another spelling
        with pytest.raises(
            ValueError, match=r"line 11: expected the answer '\d+' of .* line 4, which has the same prompt, got '7'"
        ):
            task(tokenizer, write(tmp_path / "a.jsonl", rows))

    def test_a_prompt_of_two_files_is_refused(self, tokenizer: Any, tmp_path: Path) -> None:
        train, held = write(tmp_path / "a.jsonl", sums(10)), write(tmp_path / "t.jsonl", sums(3, start=9))
        with pytest.raises(
            ValueError, match=r"t.jsonl line 1: expected a prompt of one split only, got that of a.jsonl line 10"
        ):
            task(tokenizer, train, test=held)


class TestReading:
    def test_parquet_and_nested_columns(self, tokenizer: Any, tmp_path: Path) -> None:
        rows = [{"q": {"text": row["prompt"]}, "a": {"b": {"c": int(row["answer"])}}} for row in sums(10)]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
        file_task = task(tokenizer, tmp_path / "a.parquet", prompt_column="q.text", answer_column="a.b.c")
        assert {prompt.text: prompt.answer for prompt in file_task.prompts("train")}["0 + 0 :"] == "0"

    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            ([{"question": "1", "answer": "2"}], "a.jsonl line 1: no column 'prompt'; it has question, answer"),
            ([{"prompt": {"text": "1"}, "answer": "2"}], r"line 1: expected a string or a list of chat messages"),
            ([{"prompt": "1"}], "a.jsonl line 1: no column 'answer'; it has prompt"),
            ([{"prompt": "1", "answer": None}], "a.jsonl line 1: the column 'answer' is null"),
            ([*sums(2), "", '{"prompt": "1"'], r"line 4: not valid JSON \(Expecting ',' delimiter at column 15"),
            (["[1]"], r"a.jsonl line 1: expected an object \{…\} on each line, got \[1\]"),
            (
                [*sums(1), {"prompt": " ", "answer": "2"}],
                r"a.jsonl line 2: expected a prompt in .prompt., got an empty one",
            ),
            ([{"prompt": [], "answer": "2"}], r"line 1: expected a string or a list of chat messages"),
            ([{"prompt": ["1"], "answer": "2"}], r"line 1: expected a string or a list of chat messages"),
            ([""], "a.jsonl: expected a prompt and an answer in each line, got an empty file"),
        ],
    )
    def test_faults_name_the_line(self, tmp_path: Path, rows: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            DataFiles(write(tmp_path / "a.jsonl", rows)).read()

    def test_files_that_are_none(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"a.jsonl cannot be read: No such file or directory"):
            read_table(tmp_path / "a.jsonl", [])
        (tmp_path / "a.parquet").write_text("no")
        with pytest.raises(ValueError, match=r"a.parquet cannot be read"):
            read_table(tmp_path / "a.parquet", [])
        (tmp_path / "a.jsonl").write_bytes(b'"\xff')
        with pytest.raises(ValueError, match=r"a.jsonl cannot be read: 'utf-8' codec"):
            read_table(tmp_path / "a.jsonl", [])

    def test_answers_that_are_no_text_are_json(self, tmp_path: Path) -> None:
        rows = read_table(write(tmp_path / "a.jsonl", [{"a": 5}, {"a": ["x", 1]}, {"a": "5"}]), ["a"])
        assert [row.text("a") for row in rows] == ["5", '["x", 1]', "5"]


class TestPrompts:
    def test_nothing_is_added(self, tokenizer: Any, tmp_path: Path) -> None:
        file_task = task(tokenizer, write(tmp_path / "a.jsonl", sums(10)))
        assert all(
            list(p.ids) == tokenizer.encode(p.text, add_special_tokens=False) for p in file_task.prompts("train")
        )

    def test_chat_template(self, tokenizer: Any, tmp_path: Path) -> None:
        tokenizer.chat_template = TEMPLATE
        messages = [{"role": "system", "content": "7"}, {"role": "user", "content": "8"}]
        rows = [*sums(9), {"prompt": messages, "answer": "1"}]
        file_task = task(tokenizer, write(tmp_path / "a.jsonl", rows), chat_template=True, prompt_column="prompt")
        every = [p for split in ("train", "validation", "test") for p in file_task.prompts(split)]
        assert {"user 0 + 0 : :", "system 7 user 8 :"} <= {p.text for p in every}

    def test_chat_template_that_is_not_there(self, tokenizer: Any, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="chat_template: expected a tokenizer with a chat template"):
            task(tokenizer, write(tmp_path / "a.jsonl", sums(10)), chat_template=True)
        rows = [{"prompt": [{"role": "user", "content": "8"}], "answer": "1"}]
        with pytest.raises(ValueError, match="line 1: expected a text, got a list of chat messages; set chat_template"):
            task(tokenizer, write(tmp_path / "a.jsonl", rows))

    def test_what_the_tokenizer_does_not_know(self, tokenizer: Any, tmp_path: Path) -> None:
        rows = [*sums(3), {"prompt": "one + 1 :", "answer": "2"}]
        with pytest.raises(ValueError, match=r"line 4: the tokenizer cannot encode 'one \+ 1 :'"):
            task(tokenizer, write(tmp_path / "a.jsonl", rows))

    def test_no_tokens_at_all(self, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tokenizer, "encode", lambda text, add_special_tokens: [])
        with pytest.raises(ValueError, match=r"line 1: expected at least one token, got none .* '0 \+ 0 :'"):
            task(tokenizer, write(tmp_path / "a.jsonl", sums(3)))


class TestAcceptedAnswers:
    """A list of accepted answers is not judged as its JSON text: any one of them is right."""

    def test_any_of_a_list_is_right(self, tokenizer: Any, tmp_path: Path) -> None:
        rows = [row | {"answer": [row["answer"], 77]} for row in sums(10)]
        file_task = task(tokenizer, write(tmp_path / "a.jsonl", rows))
        prompt = file_task.prompts("train")[0]
        own = str(2 * int(prompt.text.split()[0]))
        answers = [[*tokenizer.encode(text), END] for text in (own, "77", "78")]
        verdicts = verify_all(file_task, [prompt.ids] * 3, answers)
        assert [verdict.correct for verdict in verdicts] == [True, True, False]
        assert prompt.answer == json.dumps([own, "77"])

    def test_verdicts_keep_their_places_and_errors_their_case(self) -> None:
        cases = [
            Case("", "a", accepted_answer(["b", "c"])),
            Case("", "d", "d"),
            Case("", "c", accepted_answer(["b", "c"])),
        ]
        verdicts = judge_accepted(ExactMatch(), cases)
        assert [verdict.correct for verdict in verdicts] == [False, True, True]
        with pytest.raises(VerifierError, match="got the object") as error:
            judge_accepted(ExactMatch(), [*cases, Case("", "a", accepted_answer({"target": "a"}))])
        assert error.value.index == 3

        class Failing:
            """Of a built-in name; fails at its fourth question."""

            identity = {"name": "exact"}  # noqa: RUF012

            def judge(self, cases: Any) -> Any:
                raise VerifierError("it failed", 3)

        with pytest.raises(VerifierError, match="it failed") as error:
            judge_accepted(Failing(), cases)
        assert error.value.index == 2

    def test_the_list_survives_the_way_to_a_process(self) -> None:
        answers = pickle.loads(pickle.dumps(accepted_answer(["2", "two"])))
        assert (answers, answers.texts) == ('["2", "two"]', ("2", "two"))


class TestVerdicts:
    def test_the_verifier_sees_text_without_the_end_token(self, tokenizer: Any, tmp_path: Path) -> None:
        seen = []

        class Spy:
            identity: Any = {}  # noqa: RUF012

            def judge(self, cases: Any) -> Any:
                seen.append(list(cases))
                return [Verdict(True, "correct") for _ in cases]

        files = DataFiles(write(tmp_path / "a.jsonl", sums(10)))
        file_task = FileTask(tokenizer, files, Spy(), 3)
        first, second = file_task.prompts("train")[:2]
        answers = [[*tokenizer.encode(first.answer), END], tokenizer.encode("4 + 5")]
        verify_all(file_task, [first.ids, second.ids], answers)
        expected = [(first.text, first.answer, first.answer, True), (second.text, "4 + 5", second.answer, False)]
        assert [[tuple(case)[:4] for case in cases] for cases in seen] == [expected]
        assert [(case.given, case.reference, case.token_ids) for case in seen[0]] == [
            (prompt.text, prompt.answer, tuple(answer)) for prompt, answer in zip((first, second), answers, strict=True)
        ]

    def test_one_by_one_is_the_same(self, tokenizer: Any, tmp_path: Path) -> None:
        file_task = task(tokenizer, write(tmp_path / "a.jsonl", sums(20)))
        prompts = [prompt.ids for prompt in file_task.prompts("train")]
        responses = [(*tokenizer.encode(str(2 * (i % 7))), END) for i in range(len(prompts))]
        together = verify_all(file_task, prompts, responses)
        assert together == [file_task.verify(*pair) for pair in zip(prompts, responses, strict=True)]
        assert 0 < sum(verdict.correct for verdict in together) < len(together)

    def test_strangers_and_solutions(self, tokenizer: Any, tmp_path: Path) -> None:
        file_task = task(tokenizer, write(tmp_path / "a.jsonl", sums(10)))
        with pytest.raises(ValueError, match=r"prompt_ids: expected a prompt of .*a.jsonl.*, got '99 \+ 99'"):
            file_task.verify(tokenizer.encode("99 + 99"), [END])
        with pytest.raises(ValueError, match="split: expected one of train, validation, test, got 'dev'"):
            file_task.prompts("dev")
        assert file_task.solutions(file_task.prompts("train")[0].ids) is None

    def test_too_few_verdicts(self) -> None:
        class Lazy:
            name = "lazy"

            def verify_many(self, prompts: Any, responses: Any) -> Any:
                return []

        with pytest.raises(ValueError, match="lazy: expected 1 verdicts from verify_many, got 0"):
            verify_all(Lazy(), [[1]], [[2]])  # type: ignore[arg-type]

    @pytest.mark.parametrize("method", ["verify", "verify_many"])
    def test_a_task_that_exits(self, method: str) -> None:
        def leave(*arguments: Any) -> Any:
            raise SystemExit(0)

        leaving = type("Leaving", (), {"name": "leaving", method: leave})()
        with pytest.raises(RuntimeError, match=r"task leaving: expected a verdict.*, but it called exit\(0\)"):
            verify_all(leaving, [[1]], [[2]])

    def test_a_verifier_that_fails_names_the_line(self, tmp_path: Path, tokenizer: Any) -> None:
        (tmp_path / "rewards.py").write_text("def score(prompt, response, answer): return 1 / 0")
        rows = [{"prompt": f"{i} + 1 :", "answer": "1"} for i in range(9)]
        (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
        verifier = get_verifier(f"{tmp_path / 'rewards.py'}:score")
        task = FileTask(tokenizer, DataFiles(tmp_path / "a.jsonl"), verifier, 4)
        prompt = next(p for split in ("train", "test") for p in task.prompts(split) if p.text == "3 + 1 :")
        with pytest.raises(VerifierError, match=r"^a.jsonl line 4: verifier .*ZeroDivisionError"):
            verify_all(task, [prompt.ids], [[END]])


class TestChatPrompts:
    """Prompts of chat messages in training: as a trace of recorded rollouts renders them."""

    TURNS = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} $ {% endfor %}"
        "{% if add_generation_prompt %}:{% endif %}"
    )

    def rows(self, *last: dict[str, str]) -> list[dict[str, Any]]:
        return [{"prompt": [{"role": "user", "content": f"{i}"}, *last], "answer": str(i)} for i in range(12)]

    def test_that_end_within_the_turn_of_the_assistant(self, tmp_path: Path) -> None:
        words = word_tokenizer(["<pad>", "$", ":", "user", "assistant", "system", *DIGITS], pad="<pad>", eos="$")
        words.chat_template = self.TURNS
        rows = self.rows({"role": "assistant", "content": "7"})
        made = task(words, write(tmp_path / "a.jsonl", rows), chat_template=True)
        prompt = made.prompts("train")[0]
        assert prompt.text.endswith("$ assistant 7")
        assert made.verify(prompt.ids, [words.convert_tokens_to_ids(str(prompt.answer)), END]).correct

    def test_that_the_template_refuses_name_the_line(self, tokenizer: Any, tmp_path: Path) -> None:
        tokenizer.chat_template = self.TURNS
        rows = [*self.rows(), {"prompt": [{"role": "system", "content": "1"}], "answer": "1"}]
        with pytest.raises(
            ValueError, match=r"a.jsonl line 13: the tokenizer's chat template refuses .*no system role"
        ):
            task(tokenizer, write(tmp_path / "a.jsonl", rows), chat_template=True)
