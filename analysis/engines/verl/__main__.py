"""`python -m analysis.engines.verl`: check a configuration of verl, and train with it, recorded."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from toy_models.messages import nearest

from ...common.command import command_line, run_command, say

__all__ = ["main"]

_PROGRAM = "python -m analysis.engines.verl"
_COMMANDS = {
    "check": "compose a configuration and name what cannot train, before Ray starts",
    "train": "check it, then run verl's trainer in this process and record what it does",
    "objectives": "list the objectives by their names in verl",
    "--smoke": "train a tiny model on the CPU, by the same path, from end to end",
}
_OVERRIDES = """\
OVERRIDE is an override of verl's configuration in Hydra's syntax, algorithm.adv_estimator=psr, or @FILE, a file with
one of them on each line. docs/how_to/watch_a_verl_run.md goes through a run.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command line.

    Returns:
        The exit status: 0 done, 1 a fault of the run, 2 an invalid request or a configuration that cannot train, 130
        stopped.
    """
    name, *rest = (sys.argv[1:] if argv is None else list(argv)) or ["--help"]
    if name in ("-h", "--help", "help"):
        print(_help())
        return 0
    if name == "--smoke":
        from .smoke.run import main as smoke

        return smoke(rest)
    if name == "objectives" and not rest:
        from .objectives.objective_listing import objective_listing

        print(objective_listing())
        return 0
    if name == "objectives":
        return say(f"error: objectives: expected no arguments, got {' '.join(rest)}; leave them out", 2)
    if name not in _COMMANDS:
        return say(f"error: expected a command, got {name!r}; {nearest(name, _COMMANDS)}", 2)
    arguments = _parser(name).parse_intermixed_args(rest)
    again = command_line(f"{_PROGRAM} {name}", rest)
    return run_command(lambda: _run(name, arguments), again=again, folder=arguments.out)


def _help() -> str:
    width = max(map(len, _COMMANDS))
    lines = [f"  {name:<{width}}  {about}" for name, about in _COMMANDS.items()]
    return "\n".join(
        [f"usage: {_PROGRAM} COMMAND [OPTIONS] [OVERRIDE ...]", "", "commands:", *lines, "", _OVERRIDES.rstrip()]
    )


def _parser(name: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"{_PROGRAM} {name}",
        description=f"{_COMMANDS[name][0].upper()}{_COMMANDS[name][1:]}.",
        epilog=_OVERRIDES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("overrides", nargs="*", metavar="OVERRIDE", help="of verl's configuration")
    add("--out", type=Path, metavar="DIR", help="record the run into this folder, which all nodes share")
    add("--tokens", type=float, metavar="F", help="fraction of the prompts whose tokens are recorded (0.125)")
    add("--config-dir", type=Path, metavar="DIR", help="a folder with configurations of your own, as Hydra's")
    add("--config-name", default="ppo_trainer", metavar="NAME", help="the configuration to start from (ppo_trainer)")
    if name == "check":
        add("--no-files", action="store_true", help="another machine trains: look at no files, folders and engines")
    else:
        add("--print", action="store_true", help="print verl's own command that does the same, and end")
    return parser


def _run(name: str, arguments: argparse.Namespace) -> int:
    from .configuration.checks import check
    from .configuration.composition import compose, expanded
    from .configuration.launch import observing_overrides, plain_command, run
    from .configuration.overview import overview
    from .configuration.paths_of_a_run import record_out

    where = {"config_dir": arguments.config_dir, "config_name": arguments.config_name}
    overrides = expanded(arguments.overrides)
    if name == "train" or arguments.out is not None or arguments.tokens is not None:
        overrides += observing_overrides(compose(overrides, **where), arguments.out, arguments.tokens)
    if name == "train" and arguments.print:
        config_name = None if arguments.config_name == "ppo_trainer" else arguments.config_name
        print(plain_command(overrides, config_dir=arguments.config_dir, config_name=config_name))
        return 0
    config = compose(overrides, **where)
    checked = check(config, files=not getattr(arguments, "no_files", False))
    print(overview(config, checked.route))
    for note in checked.notes:
        print(f"note: {note}")
    if name == "train":
        out = record_out(config)
        run(config, None if out is None else Path(out).expanduser())
    return 0


if __name__ == "__main__":
    sys.exit(main())
