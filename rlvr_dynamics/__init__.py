"""The package `analysis` under the name of the project, for programs that have a folder `analysis` of their own.

`import rlvr_dynamics` gives the names of `analysis`, and `python -m rlvr_dynamics.trace` its commands, from the same
files. Use one of the two names in a program: each has its own copies of the classes.
"""

from pathlib import Path

_package = Path(__file__).resolve().parents[1] / "analysis"
__path__ = [str(_package)]
__file__ = str(_package / "__init__.py")
exec(compile(Path(__file__).read_bytes(), __file__, "exec"))
