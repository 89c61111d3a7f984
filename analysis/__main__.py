"""`rlvr-dynamics`, or `python -m analysis`: all commands under one name."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from toy_models.messages import nearest

from .common.command import say
from .version import __version__

__all__ = ["main"]

# name -> the module whose `main` it is, and what it does
COMMANDS = {
    "trace": ("analysis.trace", "train a recipe and record every update, or trace recorded rollouts of any model"),
    "claims": ("analysis.claims.__main__", "the ledger: claims of papers, each decided by a command"),
    "report": ("analysis.report.__main__", "tables and figures of a run folder"),
    "diagnose": (
        "analysis.diagnose",
        "what is wrong with a run or with rollouts, in sentences; an exit status for pipelines",
    ),
    "passk": ("analysis.passk.__main__", "Pass@k with intervals from a file of graded samples, and where curves cross"),
    "noise": ("analysis.noise", "noise of the gradient estimators around the exact gradient"),
    "factorial": ("analysis.factorial.__main__", "what makes PSR and NSR differ, factor by factor, on exact policies"),
    "coverage": ("analysis.coverage.__main__", "how often the intervals that are printed cover, by simulation"),
    "objectives": ("analysis.objectives.__main__", "every objective with its weight per token and its source"),
    "verifiers": ("toy_models.verifiers.__main__", "whether a verifier accepts a file's own worked solutions"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status of the command that it calls."""
    name, *rest = (sys.argv[1:] if argv is None else list(argv)) or ["--help"]
    if name in ("-h", "--help", "help"):
        print(_help())
        return 0
    if name == "--version":
        print(f"rlvr-dynamics {__version__}")
        return 0
    if name not in COMMANDS:
        return say(f"error: expected a command, got {name!r}; {nearest(name, COMMANDS)}", 2)
    module = COMMANDS[name][0]
    if module.startswith("analysis."):  # under the name that this package was imported by
        module = f"{__package__}{module.removeprefix('analysis')}"
    status: int = importlib.import_module(module).main(rest)
    return status


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {about}" for name, (_, about) in COMMANDS.items()]
    forms = [module.removesuffix(".__main__") for module, _ in COMMANDS.values()]
    return "\n".join(
        [
            "usage: rlvr-dynamics COMMAND [OPTIONS]",
            "",
            "Gradient dynamics of reinforcement learning with verifiable rewards.",
            "",
            "commands:",
            *lines,
            "",
            "`rlvr-dynamics COMMAND --help` explains a command. Each is also a module of its own: "
            f"`python -m {forms[0]}`",
            "is the same as `rlvr-dynamics trace`.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
