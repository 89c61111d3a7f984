from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from toy_models.child_process import ChildProcess

ECHO = """
import json, os, subprocess, sys

def main(send, *arguments):
    print("a library talks")
    subprocess.run(["echo", "so does its program"])
    send({"arguments": arguments, "path": sys.path, "variable": os.environ.get("VARIABLE")})
    for line in sys.stdin:
        send(json.loads(line))
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Writes a module that a child can run."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(text: str) -> str:
        (tmp_path / "stand_in.py").write_text(text)
        return "stand_in"

    return write


def test_values_go_both_ways_and_prints_do_not_mix_with_them(module: Callable[[str], str], tmp_path: Path) -> None:
    with ChildProcess(module(ECHO), ["a", "b c"], environment={"VARIABLE": "1"}) as child:
        values = child.values()
        first = next(values)
        assert (first["arguments"], first["variable"]) == (["a", "b c"], "1")
        assert first["path"][0] == str(tmp_path)
        for value in ([1, "β\n"], {"long": "x" * 1_000_000}, None):
            child.send(value)
            assert next(values) == value
        assert child.exit_status is None
        assert "so does its program" in child.error_tail()
    with pytest.raises(ProcessLookupError):
        os.kill(child.pid, 0)


def test_nothing_in_the_folder_of_the_child_shadows_a_module(
    module: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = module("def main(send): send('right')")
    (tmp_path / "elsewhere").mkdir()
    for shadow in ("json.py", "toy_models.py", "stand_in.py"):
        (tmp_path / "elsewhere" / shadow).write_text("raise RuntimeError('shadowed')")
    monkeypatch.chdir(tmp_path / "elsewhere")
    with ChildProcess(name) as child:
        assert list(child.values()) == ["right"]
        assert child.ending == "exit status 0"
        assert child.error_tail() == ""


@pytest.mark.parametrize(
    ("body", "ending", "tail"),
    [
        ("raise ValueError('too small')", "exit status 1", "ValueError: too small"),
        ("import os; print('half', flush=True); os._exit(3)", "exit status 3", "half"),
        ("import os; os.kill(os.getpid(), 9)", "SIGKILL", ""),
    ],
)
def test_the_end_of_a_child(module: Callable[[str], str], body: str, ending: str, tail: str) -> None:
    with ChildProcess(module(f"def main(send):\n    send(1)\n    {body}")) as child:
        assert list(child.values()) == [1]
        assert child.closed
        assert child.ending == ending
        assert child.error_tail().endswith(tail)
        child.send("nobody reads this")


def test_an_exception_kills_the_child_and_what_it_started(module: Callable[[str], str]) -> None:
    name = module(
        "import subprocess, sys\n"
        "def main(send):\n"
        "    send(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(6000)']).pid)\n"
        "    sys.stdin.read()\n"
    )
    pids: list[int] = []

    def interrupt() -> None:
        with ChildProcess(name) as child:
            pids.extend((child.pid, next(child.values())))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    pid, started = pids
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    while psutil.pid_exists(started) and psutil.Process(started).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)  # it was killed; otherwise it would sleep for 6000 seconds


def test_receiving_does_not_wait(module: Callable[[str], str]) -> None:
    with ChildProcess(module(ECHO)) as child:
        next(child.values())
        assert child.receive() == []
        child.send(1)
        child.send(2)
        values: list[int] = []
        while len(values) < 2:
            select.select([child], [], [])
            values += child.receive()
        assert values == [1, 2]
        assert not child.closed
    child.close()
