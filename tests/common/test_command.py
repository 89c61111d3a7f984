"""How command lines end: status and message, whatever stops them and wherever."""

from __future__ import annotations

import signal
import subprocess
import sys
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
