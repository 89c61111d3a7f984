"""`rlvr-dynamics`: its commands, and that none loads torch to explain itself."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from analysis import __version__
from analysis.__main__ import COMMANDS, main

ROOT = Path(__file__).parents[1]


def test_without_a_command_it_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown and about in shown for name, (_, about) in COMMANDS.items())
    assert max(map(len, shown.splitlines())) <= 120


def test_version_and_an_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"rlvr-dynamics {__version__}\n"
    assert main(["trce"]) == 2
    assert capsys.readouterr().err == "error: expected a command, got 'trce'; did you mean trace?\n"


def test_arguments_and_status_are_passed_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments in (["--run", "tinny"], ["--run", "tiny", "--dry-run"]):
        ways = []
        for way in (main, importlib.import_module("analysis.trace").main):
            status = way(["trace", *arguments] if way is main else arguments)
            ways.append((status, capsys.readouterr()))
        assert ways[0] == ways[1]


@pytest.mark.parametrize("line", [[name, "--help"] for name in COMMANDS] + [["objectives", "grpo"]])
def test_no_help_loads_torch(line: list[str]) -> None:
    code = (
        "import sys; from analysis.__main__ import main\n"
        "try: status = main(sys.argv[1:])\n"
        "except SystemExit as end: status = end.code\n"
        "sys.exit(99 if {'torch', 'transformers', 'pandas', 'matplotlib'} & sys.modules.keys() else status)"
    )
    done = subprocess.run([sys.executable, "-c", code, *line], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert line[-1] in done.stdout or "usage: " in done.stdout


@pytest.mark.parametrize("module", ["analysis", "analysis.ladder"])
def test_modules_are_commands(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: ")
