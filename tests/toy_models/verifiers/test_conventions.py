"""Reward functions of other libraries as verifiers: how they are told apart, and called as their library calls them."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from toy_models import DataFiles, FileTask, Verdict, verify_all, word_tokenizer
from toy_models.verifiers import Case, FunctionVerifier, VerifierError
from toy_models.verifiers.__main__ import main
from toy_models.verifiers.conventions import convention_of

MESSAGES = [{"role": "user", "content": "2+3?"}]
PEERS = Path(sys.prefix) / "peers"


def request(**more: Any) -> dict[str, Any]:
    given = {"prompt": "2+3?", "response": "5", "answer": "5", "given": "2+3?", "reference": "5"}
    return {**given, "columns": {"answer": "5"}, "token_ids": [7, 1], **more}


def called(function: Callable[..., Any], *requests: Mapping[str, Any]) -> Any:
    positional, named = convention_of(function, "f").arguments(requests or [request()])
    return function(*positional, **named)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], str]:
    def write(body: str) -> str:
        (tmp_path / "rewards.py").write_text(textwrap.dedent(body))
        return f"{tmp_path / 'rewards.py'}:score"

    return write


def judged(target: str, *cases: Case, **options: Any) -> list[Verdict]:
    verifier = FunctionVerifier(target, **options)
    try:
        return verifier.judge(cases)
    finally:
        verifier.close()


class TestNames:
    @pytest.mark.parametrize(
        ("function", "convention", "required", "optional"),
        [
            (lambda prompt, response, answer: 0, "own", (), ()),
            (lambda p, r, a, /: 0, "own", (), ()),
            (lambda *texts: 0, "own", (), ()),
            (lambda prompt, response, answer, level, scale=1: 0, "own", ("level",), ("scale",)),
            (lambda completions, **columns: 0, "trl", (), None),
            (lambda prompts, completions, solution, unit="m": 0, "trl", ("solution",), ("unit",)),
            (lambda completion_ids, **columns: 0, "trl", (), None),
            (lambda data_source, solution_str, ground_truth: 0, "verl", ("data_source",), ("extra_info",)),
            (lambda solution_str, ground_truth, extra_info=None, **rest: 0, "verl", (), ("extra_info",)),
            (lambda completion, answer: 0, "verifiers", (), ()),
            (lambda prompt, completion, answer: 0, "verifiers", (), ()),
            (lambda completion, parser, info, level: 0, "verifiers", ("level",), ("info", "task")),
            (lambda completion, **columns: 0, "verifiers", (), None),
            (lambda task, trace: 0, "verifiers", (), None),
        ],
    )
    def test_tell_the_convention(self, function: Any, convention: str, required: Any, optional: Any) -> None:
        found = convention_of(function, "f")
        assert (found.name, found.required, found.optional) == (convention, required, optional)
        assert found.batch is (convention == "trl")

    @pytest.mark.parametrize(
        ("function", "message"),
        [
            (
                lambda response, answer: 0,
                r"verifier f: expected a signature such as f\(prompt, response, answer\); .*; g",
            ),
            (
                lambda: 0,
                r"f\(prompts, completions, \*\*columns\) of TRL; .* of verl; .* of verifiers; got \(no parameter",
            ),
            (lambda *, prompt, response, answer: 0, r"got \(prompt, response, answer\)"),
            (lambda completions, trainer_state: 0, r"it needs trainer_state, the state of TRL's trainer"),
            (lambda task, trace, runtime: 0, r"it needs runtime, a runtime of verifiers, in which tools run"),
            (lambda completion, judge: 0, r"it needs judge, a judge of verifiers, another model"),
            (lambda solution_str, ground_truth, reward_router_address: 0, r"verl's reward model"),
        ],
    )
    def test_unknown_signatures(self, function: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            convention_of(function, "f")

    def test_defaults_of_what_is_not_there_are_kept(self) -> None:
        assert called(lambda completions, trainer_state=None: [trainer_state]) == [None]
        assert called(lambda task, trace, runtime=None: runtime) is None


class TestArguments:
    @pytest.mark.slow  # imports torch and TRL
    def test_of_trl(self) -> None:
        def keep(**named: Any) -> Any:
            return named

        def function(prompts: Any, completions: Any, **columns: Any) -> Any:
            return keep(prompts=prompts, completions=completions, **columns)

        two = [
            request(columns={"answer": "5", "level": 1}),
            request(given=MESSAGES, response="6", columns={"answer": "6", "prompt": "x"}),
        ]
        found = called(function, *two)
        assert found["prompts"] == ["2+3?", MESSAGES]
        assert found["completions"] == ["5", [{"role": "assistant", "content": "6"}]]
        assert found["completion_ids"] == [[7, 1], [7, 1]]
        assert (found["answer"], found["level"]) == (["5", "6"], [1, None])
        assert found["log_extra"]("column", [1]) is found["log_metric"]("name", 1.0) is None
        assert found.keys() == {
            *("prompts", "completions", "completion_ids", "answer", "level", "log_extra", "log_metric")
        }

    def test_of_verl(self) -> None:
        def compute_score(data_source: str, solution_str: str, ground_truth: Any, extra_info: Any = None) -> Any:
            return data_source, solution_str, ground_truth, extra_info

        rows = request(reference=["5", "five"], columns={"data_source": "sums", "extra_info": {"index": 3}})
        assert called(compute_score, rows) == ("sums", "5", ["5", "five"], {"index": 3})
        assert called(compute_score, request(columns={"data_source": "sums"})) == ("sums", "5", "5", {})

    def test_of_verifiers(self) -> None:
        def legacy(prompt: Any, completion: Any, answer: Any, info: Any, state: Any, parser: Any, **rest: Any) -> Any:
            return prompt, completion, answer, info, state["completion"], parser.parse_answer(completion), rest["level"]

        reply = [{"role": "assistant", "content": "5"}]
        found = called(legacy, request(given=MESSAGES, columns={"info": {"a": 1}, "level": 2}))
        assert found == (MESSAGES, reply, "5", {"a": 1}, reply, "5", 2)
        assert called(legacy, request(columns={"level": 2})) == ("2+3?", "5", "5", {}, "5", "5", 2)

        def v1(task: Any, trace: Any) -> Any:
            return trace.last_reply, task.answer, task.level

        assert called(v1, request(columns={"level": 2})) == ("5", "5", 2)

    def test_of_ours_with_columns(self) -> None:
        function = lambda prompt, response, answer, level, unit="m": (prompt, response, answer, level, unit)  # noqa: E731
        assert called(function, request(columns={"level": 2})) == ("2+3?", "5", "5", 2, "m")


class TestInTheirProcess:
    def test_many_at_once_and_the_one_at_fault(self, write: Any) -> None:
        target = write("""
            calls = 0
            def score(prompts, completions, **columns):
                global calls
                calls += 1
                return [float(text) + calls / 100 if text != "none" else None for text in completions]
        """)
        right, wrong = Case("q", "1", "1"), Case("q", "0", "1")
        assert [v.score for v in judged(target, right, wrong, wrong)] == [1.01, 0.01, 0.01]
        with pytest.raises(
            VerifierError, match=r"expected a score: .*, got None; prompt 'q', response 'none'"
        ) as error:
            judged(target, right, wrong, Case("q", "none", "1"))
        assert error.value.index == 2
        found = judged(target, right, Case("q", "none", "1"), wrong, errors="zero")
        assert [v.score for v in found] == [1.02, 0.0, 0.04]  # alone, after the call of all three

    def test_a_list_of_another_length(self, write: Any) -> None:
        target = write("def score(completions, **columns): return [1.0]")
        case = Case("q", "1", "1")
        assert [v.correct for v in judged(target, case, case)] == [True, True]  # each alone gets its number
        target = write("def score(completions, **columns): return 1.0")
        with pytest.raises(VerifierError, match=r"expected a list of 1 number, one for each completion, got 1.0"):
            judged(target, case)

    @pytest.mark.parametrize("signature", ["prompt, response, answer", "completions, answer", "completion, answer"])
    def test_async(self, write: Any, signature: str) -> None:
        target = write(f"""
            import asyncio
            loops = set()
            async def score({signature}):
                await asyncio.sleep(0)
                loops.add(id(asyncio.get_running_loop()))
                scores = [0.5 * len(loops)]
                return scores if "completions" in {signature!r} else scores[0]
        """)
        case = Case("q", "1", "1", columns={"answer": "1"})
        verifier = FunctionVerifier(target)
        assert [verifier.judge([case])[0].score for _ in range(2)] == [0.5, 0.5]  # one loop for all calls
        verifier.close()

    def test_an_async_function_without_end(self, write: Any) -> None:
        target = write("""
            async def score(prompt, response, answer):
                while response == "hang":
                    pass
                return 1.0
        """)
        with pytest.raises(VerifierError, match=r"within 1 s of processor time") as error:
            judged(target, Case("q", "1", "1"), Case("q", "hang", "1"), seconds=1)
        assert error.value.index == 1

    def test_objects_with_a_score(self, write: Any) -> None:
        target = write("""
            def score(data_source, solution_str, ground_truth, extra_info=None):
                return {"score": extra_info["scale"] * (solution_str == ground_truth), "acc": 1.0}
        """)
        columns = {"data_source": "sums", "extra_info": {"scale": 2.0}}
        cases = [Case("q", text, "5", columns=columns) for text in "56"]
        assert [(v.correct, v.score) for v in judged(target, *cases)] == [(True, 2.0), (False, 0.0)]
        with pytest.raises(VerifierError, match=r"it needs the column 'data_source', got a row with answer; add the"):
            judged(target, Case("q", "5", "5"))
        with pytest.raises(VerifierError, match=r"the column 'extra_info' cannot be passed to it \(.*set"):
            judged(write("def score(p, r, a, extra_info): return 1"), Case("q", "", "", columns={"extra_info": {1}}))


class TestInFiles:
    """Columns of a file reach functions that ask for them by name."""

    def task(self, folder: Path, verifier: FunctionVerifier, rows: str, **options: Any) -> FileTask:
        (folder / "a.jsonl").write_text(rows)
        words = word_tokenizer(["<pad>", "$", "1", "2", "3"], pad="<pad>", eos="$")
        words.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
        return FileTask(words, DataFiles(folder / "a.jsonl"), verifier, 3, **options)

    def test_by_name(self, write: Any, tmp_path: Path) -> None:
        rows = "\n".join(f'{{"prompt": "{"1 " * i}", "answer": "1", "level": {i}}}' for i in range(1, 8))
        verifier = FunctionVerifier(write("def score(prompt, response, answer, level): return level / 10"))
        task = self.task(tmp_path, verifier, rows, threshold=0.5)
        prompts = task.prompts("train")
        verdicts = verify_all(task, [p.ids for p in prompts], [[1]] * len(prompts))
        assert [v.score for v in verdicts] == [len(p.ids) / 10 for p in prompts]
        assert [v.correct for v in verdicts] == [len(p.ids) >= 5 for p in prompts]
        with pytest.raises(ValueError, match=r"a.jsonl line 1: no column 'level'; it has prompt, answer"):
            self.task(tmp_path, verifier, '{"prompt": "1", "answer": "1"}\n')
        verifier.close()

    def test_messages_are_messages(self, write: Any, tmp_path: Path) -> None:
        rows = "\n".join(
            f'{{"prompt": [{{"role": "user", "content": "{"1 " * i}"}}], "answer": "2"}}' for i in range(1, 8)
        )
        verifier = FunctionVerifier(
            write("""
            def score(prompts, completions, completion_ids, answer):
                assert all(p[0]["role"] == "user" for p in prompts)
                return [float(c[-1]["content"] == a) + len(i) for c, i, a in zip(completions, completion_ids, answer)]
        """)
        )
        task = self.task(tmp_path, verifier, rows, chat_template=True)
        prompt = task.prompts("train")[0]
        assert [task.verify(prompt.ids, ids).score for ids in ([3, 1], [4, 1], [3])] == [3.0, 2.0, 2.0]
        verifier.close()


class TestRealFunctions:
    def test_of_trl(self) -> None:
        pytest.importorskip("trl")
        given = [{"role": "user", "content": "?"}]
        texts = ["<think>x</think>5", "5"]
        cases = [Case("?", text, "5", given=given, columns={"solution": "5"}) for text in texts]
        assert [v.correct for v in judged("trl.rewards:think_format_reward", *cases)] == [True, False]
        boxed = [case._replace(response=rf"\boxed{{{text}}}") for case, text in zip(cases, "56", strict=True)]
        assert [v.score for v in judged("trl.rewards:accuracy_reward", *boxed)] == [1.0, 0.0]

    def test_of_trl_that_read_tokens(self, write: Any) -> None:
        pytest.importorskip("trl")
        target = write(
            "from trl.rewards import get_soft_overlong_punishment\nscore = get_soft_overlong_punishment(4, 2)"
        )
        cases = [Case("?", "", "", token_ids=range(n)) for n in (2, 3, 9)]
        assert [v.score for v in judged(target, *cases)] == [0.0, -0.5, -1.0]

    @pytest.mark.skipif(not (PEERS / "verl").is_dir(), reason="verl is not in .venv/peers")
    def test_of_verl(self, write: Any) -> None:
        target = write(f"""
            import sys, types
            for name in ("verl", "verl.utils"):  # without what their packages import, which is not installed
                sys.modules[name] = types.ModuleType(name)
                sys.modules[name].__path__ = [{str(PEERS)!r} + "/" + name.replace(".", "/")]
            from verl.utils.reward_score import default_compute_score as score
        """)
        columns = {"data_source": "openai/gsm8k"}
        cases = [Case("?", text, "5", columns=columns) for text in ("so #### 5", "so #### 6")]
        assert [v.correct for v in judged(target, *cases)] == [True, False]


def test_the_command_measures_functions_with_columns(
    write: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = write("""
        def score(completions, **columns):
            return [0.5 + 0.25 * (text == answer) for text, answer in zip(completions, columns["goal"])]
    """)
    rows = "\n".join(f'{{"solution": "{i}", "goal": "{i}"}}' for i in range(4))
    (tmp_path / "a.jsonl").write_text(rows)
    command = [str(tmp_path / "a.jsonl"), "--verifier", target, "--answer-column", "goal", "--threshold", "0.75"]
    assert main(command) == 0
    assert "accepted  4 of 4" in capsys.readouterr().out
    assert main([*command, "--shuffle"]) == 0
    out = capsys.readouterr().out
    assert "accepted  0 of 4" in out
    assert "score 0.5: 4" in out
