from __future__ import annotations

import os
import pickle
import re
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from toy_models import Verdict
from toy_models.verifiers import (
    Case,
    ExactMatch,
    FunctionVerifier,
    MathVerify,
    VerifierError,
    WorkerPool,
    get_verifier,
)
from toy_models.verifiers.__main__ import main
from toy_models.verifiers.math_verify_pool import last_boxed, repaired
from toy_models.verifiers.worker_pool import Failure


class TestExactMatch:
    @pytest.mark.parametrize(
        ("response", "answer", "finished", "reason"),
        [
            ("5", "5", True, "correct"),
            ("  5\n", "5 ", True, "correct"),
            ("5 ", "5", False, "not finished: no end token"),
            ("5.0", "5", True, "wrong answer"),
            ("A", "a", True, "wrong answer"),
            ("1  2", "1 2", True, "wrong answer"),
            ("the answer is 5", "5", True, "wrong answer"),
        ],
    )
    def test_what_is_compared(self, response: str, answer: str, finished: bool, reason: str) -> None:
        assert ExactMatch().judge([Case("q", response, answer, finished)]) == [Verdict(reason == "correct", reason)]


class TestFunction:
    @pytest.fixture
    def write(self, tmp_path: Path) -> Any:
        def write(body: str) -> str:
            (tmp_path / "rewards.py").write_text(textwrap.dedent(body))
            return f"{tmp_path / 'rewards.py'}:score"

        return write

    def test_is_called_with_prompt_response_answer(self, write: Any) -> None:
        target = write("""
            from toy_models import Verdict
            def score(prompt, response, answer):
                if prompt == "verdict":
                    return Verdict(True, "by hand")
                return (prompt, response, answer) == ("p", "r", "a")
        """)
        verdicts = FunctionVerifier(target).judge([Case("p", "r", "a"), Case("r", "p", "a"), Case("verdict", "", "")])
        assert verdicts == [Verdict(True, "correct"), Verdict(False, "wrong"), Verdict(True, "by hand")]

    def test_truth_values_of_numpy(self, write: Any) -> None:
        target = write("import numpy\ndef score(prompt, response, answer): return numpy.array([1])[0] == 1")
        assert isinstance(np.array([1])[0] == 1, np.bool_)
        assert FunctionVerifier(target).judge([Case("", "", "")]) == [Verdict(True, "correct")]

    def test_an_exception_names_the_prompt(self, write: Any) -> None:
        verifier = FunctionVerifier(write("def score(prompt, response, answer): return 1 / 0"))
        message = r"score failed with ZeroDivisionError: division by zero; prompt 'what\?', response 'x', answer 'y'"
        with pytest.raises(VerifierError, match=message):
            verifier.judge([Case("what?", "x", "y")])

    @pytest.mark.parametrize("value", ["None", "[1.0]", "1j", "'yes'"])
    def test_any_other_value_is_refused(self, write: Any, value: str) -> None:
        verifier = FunctionVerifier(write(f"def score(prompt, response, answer): return {value}"))
        with pytest.raises(
            VerifierError,
            match=re.escape(f"expected a score: True, False, a number or a Verdict, got {value}; prompt 'what"),
        ):
            verifier.judge([Case("what?", "x", "y")])

    def test_of_a_module(self, write: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        write("def score(prompt, response, answer): return True")
        monkeypatch.syspath_prepend(tmp_path)
        assert FunctionVerifier("rewards:score").judge([Case("", "", "")])[0].correct

    def test_its_digest_is_that_of_the_source(self, write: Any) -> None:
        first = FunctionVerifier(write("def score(p, r, a): return True")).identity
        again = FunctionVerifier(write("def score(p, r, a): return False")).identity
        assert first["name"] == again["name"]
        assert first["sha256"] != again["sha256"]

    def test_can_be_pickled(self, write: Any) -> None:
        copy = pickle.loads(pickle.dumps(FunctionVerifier(write("def score(p, r, a): return True"))))
        assert copy.judge([Case("", "", "")])[0].correct

    def test_what_is_not_there(self, write: Any, tmp_path: Path) -> None:
        target = write("def scored(prompt, response, answer): return True")
        with pytest.raises(ValueError, match=r"expected one of scored, got 'score'; did you mean scored\?"):
            get_verifier(target)
        with pytest.raises(ValueError, match=r"expected an existing Python file, got .*missing.py"):
            get_verifier(str(tmp_path / "missing.py:score"))
        with pytest.raises(ValueError, match=r"expected a module that can be imported, got 'no_such_package.rewards'"):
            get_verifier("no_such_package.rewards:score")
        with pytest.raises(ValueError, match=r"expected one of exact, math, got 'exakt'; did you mean exact\?"):
            get_verifier("exakt")
        with pytest.raises(ValueError, match="cannot be imported: ModuleNotFoundError"):
            get_verifier(write("import no_such_package"))


ECHO = """
import json, os, sys, time, signal

def main(send, *arguments):
    if arguments:
        sys.exit("no such library")
    send("ready")
    for line in sys.stdin:
        request = json.loads(line)
        if request == "hang":
            time.sleep(100_000)
        if request == "burn":
            os.kill(os.getpid(), signal.SIGXCPU)
        if request == "die":
            os._exit(3)
        if request == "kill":
            os.kill(os.getpid(), signal.SIGSEGV)
        send([request, os.getpid()])
"""


class TestWorkerPool:
    @pytest.fixture
    def pool(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
        (tmp_path / "echoing_child.py").write_text(ECHO)
        monkeypatch.syspath_prepend(tmp_path)
        pools = []

        def make(workers: int = 2, seconds: float = 20.0, *arguments: str) -> WorkerPool:
            pools.append(WorkerPool("echoing_child", arguments, workers, seconds))
            return pools[-1]

        yield make
        for started in pools:
            started.close()

    def test_answers_in_order_by_as_many_processes_as_there_are(self, pool: Any) -> None:
        answers = pool(workers=2).ask(list(range(50)))
        assert [number for number, _ in answers] == list(range(50))
        assert len({pid for _, pid in answers}) == 2

    def test_processes_stay_for_the_next_call(self, pool: Any) -> None:
        workers = pool(workers=1)
        assert workers.ask(["a"])[0][1] == workers.ask(["b"])[0][1]

    @pytest.mark.parametrize(
        ("request_", "reason"),
        [("die", "crashed (exit status 3)"), ("kill", "crashed (SIGSEGV)"), ("burn", "timeout")],
    )
    def test_one_that_dies_is_replaced(self, pool: Any, request_: str, reason: str) -> None:
        answers = pool(workers=1).ask(["a", request_, "b"])
        assert answers[1] == Failure(reason)
        assert (answers[0][0], answers[2][0]) == ("a", "b")
        assert answers[0][1] != answers[2][1]

    @pytest.mark.slow
    def test_one_that_hangs_is_killed(self, pool: Any) -> None:
        workers = pool(workers=2, seconds=5.0)
        pid = workers.ask(["a"])[0][1]
        answers = workers.ask(["hang", "a", "b"])
        assert answers[0] == Failure("timeout")
        assert [answer[0] for answer in answers[1:]] == ["a", "b"]
        with pytest.raises(ProcessLookupError):  # it was the first one, idle since
            os.kill(pid, 0)

    def test_one_that_cannot_start_says_why(self, pool: Any) -> None:
        with pytest.raises(RuntimeError, match=r"(?s)crashed \(exit status 1\) before it was ready.no such library"):
            pool(1, 20.0, "fail").ask(["a"])

    def test_works_outside_the_main_thread(self, pool: Any) -> None:
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.extend(pool().ask(["a"])))
        thread.start()
        thread.join()
        assert found[0][0] == "a"

    def test_a_pickle_starts_its_own(self, pool: Any) -> None:
        workers = pool(workers=1)
        pid = workers.ask(["a"])[0][1]
        copy = pickle.loads(pickle.dumps(workers))
        assert copy.ask(["a"])[0][1] != pid
        copy.close()


class TestMathText:
    @pytest.mark.parametrize(
        ("text", "inner"),
        [
            (r"\boxed{5}", "5"),
            (r"\boxed{1} or \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
            (r"\boxed{1}, then \boxed{cut", "1"),
            ("no box", None),
            (r"\boxed{", None),
        ],
    )
    def test_last_boxed(self, text: str, inner: str | None) -> None:
        assert last_boxed(text) == inner

    @pytest.mark.parametrize(
        ("answer", "inner"),
        [
            ("5", "5"),
            ("$5$", "5"),
            ("$$x$$", "x"),
            (r"\boxed{5}", "5"),
            ("$1$ and $2$", "$1$ and $2$"),
            (r"\begin{pmatrix}6\-33\end{pmatrix}", r"\begin{pmatrix}6\\-33\end{pmatrix}"),
            (r"\begin{pmatrix}6\\-33\end{pmatrix}", r"\begin{pmatrix}6\\-33\end{pmatrix}"),
            (r"\begin{pmatrix}\frac13\\frac12\end{pmatrix}", r"\begin{pmatrix}\frac13\\frac12\end{pmatrix}"),
            (r"5\-3", r"5\-3"),
        ],
    )
    def test_repaired(self, answer: str, inner: str) -> None:
        assert repaired(answer) == rf"\boxed{{{inner}}}"


@pytest.fixture(scope="module")
def math() -> Any:
    verifier = MathVerify(seconds=4)
    yield verifier
    verifier.close()


class TestMathVerify:
    def test_verdicts(self, math: Any) -> None:
        cases = {
            ("5", r"so it is \boxed{5}"): "correct",
            ("5", "the answer is 5"): "correct",
            ("5", "5}"): "correct",
            (r"\frac12", r"\boxed{0.5}"): "correct",
            ("$x+1$", r"\boxed{1 + x}"): "correct",
            ("5", r"it is 5, no: \boxed{6}"): "wrong answer",
            ("5", r"\boxed{}"): "no answer found",
            ("5", "no idea"): "no answer found",
            ("", r"\boxed{5}"): "reference not understood",
        }
        verdicts = math.judge([Case("", response, answer) for answer, response in cases])
        assert [verdict.reason for verdict in verdicts] == list(cases.values())
        assert [verdict.correct for verdict in verdicts] == [reason == "correct" for reason in cases.values()]

    @pytest.mark.slow
    def test_a_tower_of_powers_times_out_and_the_next_is_judged(self, math: Any) -> None:
        before = time.process_time()
        verdicts = math.judge([Case("", r"\boxed{2003^{2002^{2001}}}", "9"), Case("", r"\boxed{\frac{18}{2}}", "9")])
        assert verdicts[0] == Verdict(False, "timeout")
        assert verdicts[1].correct
        assert time.process_time() - before < 1.0  # nothing was computed here

    def test_identity_tells_the_versions(self, math: Any) -> None:
        identity = math.identity
        assert (identity["name"], identity["seconds"]) == ("math", 4)
        assert set(identity["versions"]) == {"math-verify", "latex2sympy2_extended", "antlr4-python3-runtime", "sympy"}
        assert "absent" not in identity["versions"].values()

    def test_without_the_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(ValueError, match=r"pip install -e '\.\[math\]'"):
            get_verifier("math")


class TestCommand:
    def test_measures_a_file(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        rows = ['{"solution": "5", "answer": "5"}', '{"solution": "7", "answer": "8"}']
        (tmp_path / "a.jsonl").write_text("\n".join(rows))
        assert main([str(tmp_path / "a.jsonl"), "--verifier", "exact"]) == 0
        out = capsys.readouterr().out
        assert "accepted  1 of 2 (50.00%)" in out
        assert "wrong answer: 1\n    '8'  against  …'7'" in out
        assert main([str(tmp_path / "a.jsonl"), "--verifier", "exact", "--shuffle"]) == 0
        assert "accepted  0 of 2" in capsys.readouterr().out

    @pytest.mark.parametrize("options", [[], ["--limit", "0"]])
    def test_a_file_without_rows(self, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str]) -> None:
        (tmp_path / "a.jsonl").write_text("\n" if not options else '{"solution": "5", "answer": "5"}')
        assert main([str(tmp_path / "a.jsonl"), "--verifier", "exact", *options]) == 2
        assert "expected at least one row to judge, got none" in capsys.readouterr().err

    @pytest.mark.parametrize("option", ["--workers", "--limit", "--show"])
    def test_numbers_below_zero(self, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str) -> None:
        (tmp_path / "a.jsonl").write_text('{"solution": "5", "answer": "5"}')
        with pytest.raises(SystemExit, match="2"):
            main([str(tmp_path / "a.jsonl"), "--verifier", "exact", option, "-1"])
        assert f"argument {option}: expected an integer ≥ " in capsys.readouterr().err

    def test_what_cannot_be_read(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main([str(tmp_path / "a.jsonl")]) == 2
        assert "a.jsonl cannot be read: No such file" in capsys.readouterr().err


MATH = os.environ.get("MATH_FILE")  # "FILE:RESPONSE_COLUMN:ANSWER_COLUMN"


@pytest.mark.slow
@pytest.mark.skipif(MATH is None, reason="MATH_FILE (FILE:RESPONSE_COLUMN:ANSWER_COLUMN) names no copy of MATH")
def test_math_solutions_are_accepted(capsys: pytest.CaptureFixture[str]) -> None:
    path, response, answer = str(MATH).split(":")
    assert main([path, "--response-column", response, "--answer-column", answer]) == 0
    share = capsys.readouterr().out.split("(")[1].split("%")[0]
    assert float(share) >= 99.0
