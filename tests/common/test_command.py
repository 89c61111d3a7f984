"""How command lines end: status and message, whatever stops them and wherever."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from analysis.common.command import command_line, run_command
from analysis.errors import UsageError

ROOT = Path(__file__).parents[2]


def raising(error: BaseException) -> object:
    def body() -> int:
        raise error

    return body


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (UsageError("steps: expected 1, got 0"), 2, "error: steps: expected 1, got 0\n"),
        (KeyboardInterrupt(), 130, "stopped; resume with\n  again\n"),
        (KeyboardInterrupt("stopped; resume with that"), 130, "stopped; resume with that\n"),
    ],
)
def test_messages(error: BaseException, status: int, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(raising(error), again="again") == status
    assert capsys.readouterr().err == message


def test_no_status_is_0_and_a_status_is_kept() -> None:
    assert run_command(lambda: None) == 0
    assert run_command(lambda: 1) == 1


@pytest.mark.parametrize("there", [True, False])
def test_a_fault_is_one_line_and_a_file(there: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / ("" if there else "absent")
    assert run_command(raising(ZeroDivisionError("first\nsecond")), folder=folder) == 1
    message = capsys.readouterr().err
    assert message.startswith("error: ZeroDivisionError: first (traceback: ")
    path = Path(message.removeprefix("error: ZeroDivisionError: first (traceback: ").removesuffix(")\n"))
    assert (path == folder / "error.txt") == there
    assert "second" in path.read_text()


def test_the_handler_of_before_comes_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    run_command(lambda: None)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_imports_and_figures_ends_with_130(number: signal.Signals) -> None:
    code = (
        "import sys, time\nfrom analysis.common.command import run_command\n"
        "def body():\n    print('ready', flush=True)\n    import matplotlib.figure\n    time.sleep(60)\n"
        "sys.exit(run_command(body, again='this'))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate()
    assert (process.returncode, errors) == (130, "stopped; resume with\n  this\n")


def test_command_line_is_quoted() -> None:
    assert command_line("python -m a", ["--set", "grid.seed=[0, 1]"]) == "python -m a --set 'grid.seed=[0, 1]'"


AT_IMPORT = """
import os, signal, sys

class Kill:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.{signal})

sys.meta_path.insert(0, Kill())
"""
AT_EXIT = """
import atexit, os, signal
atexit.register(lambda: os.kill(os.getpid(), signal.{signal}))
"""


def command_with(startup: str, tmp_path: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """A command in a process that runs `startup` first."""
    (tmp_path / "sitecustomize.py").write_text(startup)
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )


# The first two come before the command handles signals itself; the others while it loads compiled code. Interrupted at
# torch.nn the process used to end with SIGABRT. The command would run for minutes.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("analysis.errors", "SIGINT"),
        ("analysis.factorial", "SIGTERM"),
        ("pandas._libs.lib", "SIGINT"),
        ("torch.nn", "SIGTERM"),
    ],
)
def test_a_signal_during_an_import_ends_with_130(module: str, name: str, tmp_path: Path) -> None:
    ended = command_with(AT_IMPORT.format(module=module, signal=name), tmp_path, "analysis.factorial", "--quiet")
    assert ended.returncode == 130, ended.stderr
    assert ended.stderr.startswith("stopped")
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_after_the_end_changes_nothing(name: str, tmp_path: Path) -> None:
    ended = command_with(AT_EXIT.format(signal=name), tmp_path, "analysis.report", "absent")
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: ")
    assert ended.stderr.count("\n") == 1


def test_a_signal_while_the_outcome_is_said_is_a_stop(capsys: pytest.CaptureFixture[str]) -> None:
    class Interrupting(UsageError):
        def __str__(self) -> str:
            raise KeyboardInterrupt

    assert run_command(raising(Interrupting())) == 130
    assert capsys.readouterr().err == "stopped\n"


def test_someone_elses_program_keeps_its_handlers(tmp_path: Path) -> None:
    code = (
        "import signal; read = lambda: [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]\n"
        "before = read()\nimport analysis\nprint(read() == before)"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ended.stdout.split() == ["True"]


def test_a_command_called_during_an_import_can_be_stopped() -> None:
    """A module may train while it is imported: its own import does not put the signal off."""
    code = (
        "import os, signal, sys, types\n"
        "from analysis.common.command import run_command\n"
        "status = run_command(lambda: os.kill(os.getpid(), signal.SIGTERM) or 5)\n"
        "print(status)\n"
    )
    importing = "import sys; sys.path.insert(0, sys.argv[1]); import trains_when_imported"
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "trains_when_imported.py").write_text(code)
        command = [sys.executable, "-c", importing, folder]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ended.stdout.split() == ["130"]
