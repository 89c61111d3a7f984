"""What a user's function, or code that it runs, does to its process: every case is judged or named, ours stays ours."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from toy_models import Verdict
from toy_models.user_functions import helper_files, load_function
from toy_models.verifiers import Case, FunctionVerifier, VerifierError
from toy_models.verifiers.__main__ import main

ROOT = str(Path(__file__).parents[3])
RUNS_CODE = """
    def score(prompt, response, answer):
        scope = {}
        exec(response, scope)
        return str(scope.get("x")) == answer
"""


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    def write(body: str, name: str = "rewards.py") -> str:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(textwrap.dedent(body))
        return f"{tmp_path / name}:score"

    return write


def judged(target: str, *codes: str) -> list[Verdict]:
    verifier = FunctionVerifier(target)
    try:
        return verifier.judge([Case("q", textwrap.dedent(code), "1") for code in codes])
    finally:
        verifier.close()


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("exit()", "ended by exit()"),
        ("import sys; sys.exit('bye')", "ended by exit('bye')"),
        ("raise SystemExit(0)", "ended by exit(0)"),
        ("raise KeyboardInterrupt", "ended by KeyboardInterrupt"),
        ("raise GeneratorExit", "ended by GeneratorExit"),
        ("import os; os._exit(0)", "crashed (exit status 0)"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "crashed (SIGKILL)"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", "crashed (SIGTERM)"),
        ("import os, signal; os.killpg(0, signal.SIGKILL)", "crashed (SIGKILL)"),
        ("import os; os.abort()", "crashed (SIGABRT)"),
        ("f = lambda: f()\nf()", "failed (RecursionError)"),
        ("x = bytearray(1 << 50)", "failed (MemoryError)"),
    ],
)
def test_a_call_that_ends_its_process_is_wrong_and_the_next_is_judged(
    write: Callable[..., str], code: str, reason: str
) -> None:
    assert judged(write(RUNS_CODE), "x = 1", code, "x = 1") == [
        Verdict(True, "correct"),
        Verdict(False, reason),
        Verdict(True, "correct"),
    ]


@pytest.mark.parametrize(
    "code",
    [
        "print('noise' * 10)",
        "import sys; sys.stderr.write('noise')",
        "import os; os.write(1, b'noise'); os.write(2, b'noise')",
        "import sys; sys.stdout = sys.stderr = sys.stdin = None",
        "import sys; sys.stdout.close()",
        "import os; os.close(0); os.close(1); os.close(2)",
        "import os; os.chdir('/')",
        "import os; os.environ.clear(); os.environ['HOME'] = 'nowhere'",
        "import signal; signal.signal(signal.SIGALRM, signal.SIG_DFL); signal.setitimer(signal.ITIMER_REAL, 0.2)",
        "import signal; signal.signal(signal.SIGXCPU, signal.SIG_IGN); signal.signal(signal.SIGINT, signal.SIG_IGN)",
        "import sys; sys.setrecursionlimit(60)",
        "import os; os.umask(0o777)",
        "import builtins; builtins.print = builtins.len = builtins.open = None",
        "import os; os.kill = os.fork = os.chdir = os.getcwd = os.dup2 = os.umask = os.getpid = None",
        "import sys; sys.path.clear()",
        "import random, locale; random.seed(0); locale.setlocale(locale.LC_ALL, 'C')",
        "import os\nif os.fork() == 0: raise ValueError('in the copy')",
        "import os\nif os.fork() == 0: x = 2",
        "import os, threading; threading.Thread(target=lambda: None).start()",
        "import subprocess; subprocess.Popen(['sleep', '1000'])",
        "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1)'], check=True)",
        "import os, sys\npid = os.fork()\nif not pid: os._exit(0)\nwhile True:\n    try: os.wait()\n"
        "    except ChildProcessError: break",
        "import sys\nassert sys.stdin.read() == ''",
    ],
)
def test_what_a_call_changes_is_put_back(
    write: Callable[..., str], code: str, capfd: pytest.CaptureFixture[str]
) -> None:
    here = os.getcwd()
    after = f"import os, time; time.sleep(0.3 if 'setitimer' in {code!r} else 0); x = int(len(os.environ) > 1)"
    after += f"; x *= int(os.path.abspath('.') == {here!r}); print(open(os.devnull).read(), end='')"
    assert judged(write(RUNS_CODE), code + "\nx = 1", after) == [Verdict(True, "correct")] * 2
    assert capfd.readouterr() == ("", "")
    assert os.getcwd() == here


def test_standard_input_is_empty_and_an_error_names_the_case(write: Callable[..., str]) -> None:
    message = r"rewards.py:score failed with EOFError: .*; prompt 'q', response 'input\(\)', answer '1'"
    with pytest.raises(VerifierError, match=message) as caught:
        judged(write(RUNS_CODE), "x = 1", "x = 1", "input()")
    assert caught.value.index == 2


def test_files_that_are_all_closed(write: Callable[..., str]) -> None:
    code = "import os, time; os.closerange(0, 4096); time.sleep(1000)"
    assert judged(write(RUNS_CODE), code, "x = 1")[1].correct


@pytest.mark.slow
@pytest.mark.parametrize("code", ["while True: pass", "import time; time.sleep(1000)", "10 ** 10 ** 10"])
def test_a_call_without_end_is_an_error(write: Callable[..., str], code: str) -> None:
    target = write(RUNS_CODE + "\n    score.seconds = 1\n")
    with pytest.raises(
        VerifierError, match=r"expected an answer within 1 s of processor time .*; raise task\.ver"
    ) as at:
        judged(target, "x = 1", code)
    assert at.value.index == 1
    lenient = FunctionVerifier(target, errors="zero")
    late, right = lenient.judge([Case("q", code, "1"), Case("q", "x = 1", "1")])
    lenient.close()
    assert (late.correct, late.score, right) == (False, 0.0, Verdict(True, "correct"))
    assert late.reason.startswith("not judged: the verifier: expected an answer within 1 s")


def test_memory_is_limited_to_half_of_the_machines(write: Callable[..., str]) -> None:
    code = "import resource; x = bytearray(resource.getrlimit(resource.RLIMIT_DATA)[0])"
    assert judged(write(RUNS_CODE), code, "x = 1") == [
        Verdict(False, "failed (MemoryError)"),
        Verdict(True, "correct"),
    ]


def test_a_function_that_never_gives_a_verdict_is_at_fault(write: Callable[..., str]) -> None:
    target = write("import sys\ndef score(prompt, response, answer): sys.exit('no API key')")
    with pytest.raises(VerifierError, match=r"each of its first 8 calls ended without one, .*no API key"):
        judged(target, *["x"] * 20)
    assert len(judged(target, *["x"] * 7)) == 7


def test_output_of_theirs_goes_nowhere_and_ours_is_whole(write: Callable[..., str], tmp_path: Path) -> None:
    target = write("print('at import')\ndef score(prompt, response, answer):\n    print('noise')\n    return True")
    (tmp_path / "a.jsonl").write_text('{"solution": "x", "answer": "1"}\n')
    run = subprocess.run(
        [sys.executable, "-m", "toy_models.verifiers", tmp_path / "a.jsonl", "--verifier", target],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert "noise" not in run.stdout + run.stderr
    assert "at import" not in run.stdout + run.stderr
    assert "accepted  1 of 1" in run.stdout


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("exit(0)", r"rewards.py cannot be imported: it calls exit\(0\)"),
        ("import os; os._exit(0)", r"rewards.py cannot be imported: .*crashed \(exit status 0\) before it was ready"),
        ("raise KeyboardInterrupt", "rewards.py:score cannot be imported: it ends with KeyboardInterrupt"),
        ("def score(p, r, a", "rewards.py cannot be imported: SyntaxError"),
        ("import no_such_module_at_all", "No module named 'no_such_module_at_all'; modules are looked for beside the"),
        ("def score(p, r, a): return True\nscore.seconds = 0", "expected a whole number of seconds .*, got 0"),
    ],
)
def test_a_file_that_cannot_be_imported(write: Callable[..., str], body: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FunctionVerifier(write(body))


class TestFilesBeside:
    def test_are_found_whatever_their_form(self, write: Callable[..., str]) -> None:
        write("same = lambda a, b: a == b", "helper.py")
        write("", "tools/__init__.py")
        write("from . import strip\ndef clean(text): return strip.of(text)", "tools/clean.py")
        write("def of(text): return text.strip()", "tools/strip.py")
        write("def late(): return True", "lazily.py")
        target = write("""
            from helper import same
            import tools.clean
            def score(prompt, response, answer):
                import lazily
                return same(tools.clean.clean(response), answer) and lazily.late()
        """)
        assert judged(target, " 1 ", "2") == [Verdict(True, "correct"), Verdict(False, "wrong")]
        verifier = FunctionVerifier(target)
        names = ["helper.py", "lazily.py", "tools/__init__.py", "tools/clean.py", "tools/strip.py"]
        assert list(verifier.identity["helpers"]) == names
        write("same = lambda a, b: True", "helper.py")
        assert FunctionVerifier(target).identity["helpers"]["helper.py"] != verifier.identity["helpers"]["helper.py"]
        assert FunctionVerifier(target).identity["sha256"] == verifier.identity["sha256"]

    def test_are_those_of_its_own_folder(self, write: Callable[..., str], tmp_path: Path) -> None:
        for name, value in (("one", True), ("two", False)):
            write(f"VALUE = {value}", f"{name}/helper.py")
            write("from helper import VALUE\ndef score(p, r, a): return VALUE", f"{name}/rewards.py")
        for name, value in (("one", True), ("two", False)):
            assert judged(f"{tmp_path / name / 'rewards.py'}:score", "x")[0].correct is value
            assert load_function(f"{tmp_path / name / 'rewards.py'}:score", "objective")(1, 2, 3) is value

    def test_a_cycle_and_what_cannot_be_parsed(self, write: Callable[..., str], tmp_path: Path) -> None:
        write("import b", "a.py")
        write("import a, c, json, rewards", "b.py")
        write("this is not Python", "c.py")
        write("import a", "rewards.py")
        assert [path.name for path in helper_files(tmp_path / "rewards.py")] == ["a.py", "b.py", "c.py"]


def test_dataclasses_pickle_and_processes_of_its_own(write: Callable[..., str]) -> None:
    target = write("""
        import multiprocessing, pickle
        from dataclasses import dataclass
        @dataclass
        class Pair:
            left: str
            right: str
            def equal(self): return self.left == self.right
        def work(pair): return pair.equal()
        def score(prompt, response, answer):
            pair = pickle.loads(pickle.dumps(Pair(response, answer)))
            if prompt == "q":
                with multiprocessing.get_context("fork").Pool(1) as pool:
                    return pool.map(work, [pair])[0]
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                return pool.map(work, [pair])[0]
    """)
    verifier = FunctionVerifier(target)
    assert [v.correct for v in verifier.judge([Case("q", "1", "1"), Case("q", "2", "1"), Case("p", "1", "1")])] == [
        True,
        False,
        True,
    ]


def test_a_file_named_like_a_module_of_python(write: Callable[..., str], tmp_path: Path) -> None:
    write("import random\ndef score(p, r, a): return random.random() < 2", "statistics.py")
    assert judged(f"{tmp_path / 'statistics.py'}:score", "x")[0].correct


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc")
def test_processes_die_with_ours(write: Callable[..., str], tmp_path: Path) -> None:
    """Ours is killed while the function is in a loop: it, and what it started, are gone."""
    target = write(f"""
        import os, subprocess
        def score(prompt, response, answer):
            other = subprocess.Popen(["sleep", "1000"])
            with open({str(tmp_path / "pids.part")!r}, "w") as file:
                file.write(f"{{os.getpid()}} {{other.pid}}")
            os.rename({str(tmp_path / "pids.part")!r}, {str(tmp_path / "pids")!r})
            while True: pass
    """)
    code = (
        f"from toy_models.verifiers import Case, FunctionVerifier; "
        f"FunctionVerifier({target!r}).judge([Case('', '', '')])"
    )
    ours = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    while not (tmp_path / "pids").exists():
        assert ours.poll() is None
        time.sleep(0.05)
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    ours.send_signal(signal.SIGKILL)
    ours.wait()
    while any(alive(pid) for pid in pids):
        time.sleep(0.05)


class TestCommand:
    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "expected at least one row to judge, got none"),
            (b"\n\n", "expected at least one row to judge, got none"),
            (b"[1, 2]\n", r"a.jsonl line 1: expected an object"),
            (b'{"solution": "1"}\n', r"a.jsonl line 1: no column 'answer'"),
            (b'{"solution": null, "answer": "1"}\n', r"a.jsonl line 1: the column 'solution' is null"),
            (b'{"solution": "1", "answer": "1"\n', r"a.jsonl line 1: not valid JSON"),
            (b"\xff\xfe\x00", r"a.jsonl cannot be read: "),
            (b"\x00\x00", r"a.jsonl cannot be read: expected text or Parquet, got binary data"),
        ],
    )
    def test_files_that_cannot_be_judged(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, message: str
    ) -> None:
        (tmp_path / "a.jsonl").write_bytes(content)
        assert main([str(tmp_path / "a.jsonl"), "--verifier", "exact"]) == 2
        assert message in capsys.readouterr().err

    def test_folders_and_broken_parquet(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "a.parquet").write_bytes(b"")
        for path in (tmp_path, tmp_path / "a.parquet", tmp_path / "none.jsonl"):
            assert main([str(path), "--verifier", "exact"]) == 2
            assert "cannot be read" in capsys.readouterr().err

    def test_a_function_that_fails_names_the_row(
        self, write: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        rows = [{"solution": text, "answer": "1"} for text in ("x = 1", "exit()", "1 / 0")]
        (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
        target = write(RUNS_CODE)
        assert main([str(tmp_path / "a.jsonl"), "--verifier", target]) == 2
        assert "error: a.jsonl line 3: verifier" in capsys.readouterr().err
        assert main([str(tmp_path / "a.jsonl"), "--verifier", target, "--limit", "2"]) == 0
        assert "ended by exit(): 1" in capsys.readouterr().out

    def test_text_that_no_terminal_can_show(self, tmp_path: Path) -> None:
        (tmp_path / "a.jsonl").write_text(r'{"solution": "\ud800", "answer": "∞"}')
        run = subprocess.run(
            [sys.executable, "-m", "toy_models.verifiers", tmp_path / "a.jsonl", "--verifier", "exact"],
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
            env=os.environ | {"PYTHONIOENCODING": "ascii"},
        )
        assert (run.returncode, run.stderr) == (0, "")
