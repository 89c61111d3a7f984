"""The pages of the reference, made when the site is built: one for each package, one for the command lines.

Every name that a package exports is documented exactly once, in the innermost package that exports it; the packages
around it list the name with a link. Nothing here is committed, so nothing can become stale.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import pkgutil
import re
import subprocess
import sys
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from analysis.__main__ import COMMANDS as analysis_commands

from .docstring_markup import comment_at, page_lines

__all__ = [
    "COMMANDS",
    "Export",
    "constant_comment",
    "copy_notebooks",
    "exports",
    "is_documentable",
    "missing_names",
    "packages",
    "write_reference",
]

ROOTS = ("analysis", "toy_models")
ROOT = Path(__file__).resolve().parents[2]
ELSEWHERE = ("analysis.engines.verl",)  # needs an environment of its own; docs/how_to/watch_a_verl_run.md documents it
COMMANDS = ("analysis", *(module.removesuffix(".__main__") for module, _ in analysis_commands.values()))


@dataclass(frozen=True)
class Export:
    """A name that a package exports: `package.name`, the object, and the innermost package that exports it too."""

    package: str
    name: str
    value: Any
    home: str

    @property
    def target(self) -> str:
        """The full name under which the reference documents it."""
        return f"{self.home}.{self.name}"


@cache
def packages() -> dict[str, ModuleType]:
    """Every package of the project by its full name, outer ones first; without those that need another environment."""
    found: dict[str, ModuleType] = {}
    for root in ROOTS:
        module = importlib.import_module(root)
        found[root] = module
        for info in pkgutil.walk_packages(module.__path__, f"{root}."):
            if info.ispkg and not info.name.startswith(ELSEWHERE):
                found[info.name] = importlib.import_module(info.name)
    return found


@cache
def exports() -> tuple[Export, ...]:
    """The names of every package's `__all__`, subpackages left out."""
    homes: dict[tuple[str, str, int], str] = {}
    rows = []
    for package, module in packages().items():
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name)
            if inspect.ismodule(value) or name == "__version__":
                continue
            rows.append((package, name, value))
            key = (package.split(".")[0], name, id(value))
            homes[key] = max(homes.get(key, package), package, key=lambda full: full.count("."))
    return tuple(
        Export(package, name, value, homes[package.split(".")[0], name, id(value)]) for package, name, value in rows
    )


def missing_names(documented: Collection[str]) -> list[str]:
    """Exported names that are not among `documented`, sorted."""
    return sorted({export.target for export in exports()} - set(documented))


def constant_comment(export: Export) -> str:
    """What the source says of an exported constant: the comment behind its assignment, or above it."""
    source = inspect.getsource(_defining_module(export))
    for node in ast.parse(source).body:
        if not isinstance(node, (ast.Assign, ast.AnnAssign)):
            continue
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if any(isinstance(target, ast.Name) and target.id == export.name for target in targets):
            return comment_at(source.splitlines(), node.lineno, node.end_lineno or node.lineno)
    return ""


def _defining_module(export: Export) -> ModuleType:
    """The module whose source assigns the constant: followed through the package's stub or its imports."""
    package = packages()[export.home]
    assert package.__file__ is not None
    stub = Path(package.__file__).with_suffix(".pyi")
    text = (stub if stub.exists() else Path(package.__file__)).read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and any(
            (alias.asname or alias.name) == export.name for alias in node.names
        ):
            relative = "." * node.level + (node.module or "")
            return importlib.import_module(relative, export.home)
    return package


def write_reference(folder: Path, commands: Sequence[str] = COMMANDS) -> None:
    """Write the pages into `folder`: pages whose text has not changed are left alone, any other file is deleted."""
    pages = {f"{name}.rst": _package_page(name) for name in packages() if _has_page(name)}
    pages["command_line.md"] = _command_page(commands)
    pages["index.md"] = _index_page()
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        if path.name not in pages:
            path.unlink()
    for name, text in pages.items():
        _write(folder / name, text)


def _write(path: Path, text: str) -> None:
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def _has_page(package: str) -> bool:
    return any(export.package == package for export in exports())


def _first_sentence(text: str | None) -> str:
    paragraph = " ".join((text or "").strip().split("\n\n")[0].split())
    return re.split(r"(?<=[.!?])\s+(?=[A-Z`])", paragraph)[0]


def _index_page() -> str:
    rows = "".join(
        f"| [`{name}`]({name}.rst) | {_first_sentence(packages()[name].__doc__)} |\n"
        for name in packages()
        if _has_page(name)
    )
    listed = "\n".join(f"{name}" for name in packages() if _has_page(name))
    return f"""\
# API reference

Every public name has its page entry here; a name that is exported and not documented fails the build. Import names
from the packages below: modules inside them may move. The most used names are exported by `analysis` itself.

| package | what it holds |
|:--|:--|
{rows}
```{{toctree}}
:hidden:

{listed}
```
"""


def _package_page(package: str) -> str:
    module = packages()[package]
    own = [export for export in exports() if export.package == package and export.home == package]
    linked = [export for export in exports() if export.package == package and export.home != package]
    title = f"``{package}``"
    lines = [title, "=" * len(title), "", f".. py:module:: {package}", ""]
    lines += [*page_lines(inspect.cleandoc(module.__doc__ or "").splitlines()), ""]
    if linked:
        lines += ["Names of inner packages", "-----------------------", ""]
        lines += ["These can be imported from here; they are described where they live.", ""]
        lines += [".. list-table::", "   :widths: auto", ""]
        for export in sorted(linked, key=lambda export: export.name.lower()):
            lines += [f"   * - :py:obj:`{export.name} <{export.target}>`", f"     - {_summary(export)}"]
        lines.append("")
    for export in own:
        lines += [*_entry(export), ""]
    return "\n".join(lines).rstrip() + "\n"


def _summary(export: Export) -> str:
    if is_documentable(export.value):
        return _first_sentence(export.value.__doc__)
    return constant_comment(export)


def is_documentable(value: Any) -> bool:
    """Whether autodoc describes the value by its docstring: a class or a function, and not a constant."""
    return inspect.isclass(value) or inspect.isroutine(value)


def _entry(export: Export) -> Iterator[str]:
    if inspect.isclass(export.value):
        yield f".. autoclass:: {export.target}"
    elif inspect.isroutine(export.value):
        yield f".. autofunction:: {export.target}"
    else:
        yield f".. py:data:: {export.name}"
        value = repr(export.value)
        if len(value) <= 200:
            yield f"   :value: {value}"
        yield ""
        yield f"   {constant_comment(export)}"


def _command_page(commands: Sequence[str]) -> str:
    with ThreadPoolExecutor(2) as pool:
        helps = list(pool.map(_help, commands))
    sections = "".join(
        f"\n## `python -m {name}`\n\n```text\n{text}```\n" for name, text in zip(commands, helps, strict=True)
    )
    return f"""\
# Command line

The help of every command, as `--help` prints it. `rlvr-dynamics trace` and `python -m analysis.trace` are the same, and
likewise for the other commands. Each command exits with 0 when it is done, 1 when a run failed, 2 when the request is
invalid and 130 when it was stopped. Results go to standard output, progress and errors to standard error.
`python -m analysis.engines.verl` needs verl; [Watch a verl run](../how_to/watch_a_verl_run.md#options) has its options.
{sections}"""


def _help(module: str) -> str:
    environment = os.environ | {"COLUMNS": "100", "NO_COLOR": "1", "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "-m", module, "--help"], capture_output=True, text=True, env=environment, cwd=ROOT, check=True
    )
    return run.stdout


def copy_notebooks(source: Path, folder: Path) -> None:
    """Copy the notebooks with their outputs beside the pages; their links into docs/ become links between pages."""
    folder.mkdir(exist_ok=True)
    names = {path.name for path in source.glob("*.ipynb")}
    for path in folder.iterdir():
        if path.name not in names:
            path.unlink()
    for name in names:
        text = (source / name).read_text(encoding="utf-8")
        _write(folder / name, text.replace("](../docs/", "](../"))
