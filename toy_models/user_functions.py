"""Functions that a user names as "file.py:name" or "package.module:name".

A file may import modules that lie beside it, as when Python runs it. These are part of what the function is:
`helper_files` lists those that its source names.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from .messages import unknown_name

__all__ = ["helper_files", "load_function", "source_file"]


def source_file(target: str, kind: str, known: tuple[str, ...] = ()) -> Path:
    """The file that holds a function; its module is not imported.

    Args:
        target: The function as "file.py:name" or "package.module:name".
        kind: What the function is for, such as "verifier"; error messages begin with it.
        known: Built-in names that may have been meant by a target of another form.

    Raises:
        ValueError: The target has another form, or the file or module does not exist.
    """
    where, colon, name = target.rpartition(":")
    if not colon or not where or not name.isidentifier():
        raise ValueError(
            f"{unknown_name(kind, target, known)}; a function of yours is written file.py:name or package.module:name"
        )
    if where.endswith(".py"):
        path = Path(where).expanduser()
        if not path.is_file():
            raise ValueError(f"{kind}: expected an existing Python file, got {path.absolute()}")
        return path
    try:
        spec = importlib.util.find_spec(where)
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        raise ValueError(
            f"{kind}: expected a module that can be imported, got {where!r}; write file.py:{name}, or add its "
            "folder to PYTHONPATH"
        )
    return Path(spec.origin)


def helper_files(path: Path) -> list[Path]:
    """The Python files beside a file that its source imports, and those that these import, without running any.

    Imports are read from the source: `import a.b`, `from a import b` and relative ones. A module that is loaded by a
    computed name, and a file of data, is not seen.

    Args:
        path: A Python file.

    Returns:
        Distinct files of its folder and of the folders below it, and above it where an import is relative, sorted; the
        file itself is not among them.
    """
    folder = path.resolve().parent
    files, waiting = {path.resolve()}, [path.resolve()]
    while waiting:
        source = waiting.pop()
        try:
            tree = ast.parse(source.read_bytes())
        except (SyntaxError, ValueError, OSError):  # the import itself will say what is wrong
            continue
        for base, parts in _imported(tree, folder, source.parent):
            for file in _files_of(base, parts):
                if file not in files:
                    files.add(file)
                    waiting.append(file)
    return sorted(files - {path.resolve()})


def _imported(tree: ast.AST, folder: Path, package: Path) -> Iterator[tuple[Path, list[str]]]:
    """(folder to look in, names of the parts) of each module that a source may import."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield folder, alias.name.split(".")
        elif isinstance(node, ast.ImportFrom):
            base = folder
            if node.level:
                base = package
                for _ in range(node.level - 1):
                    base = base.parent
            parts = node.module.split(".") if node.module else []
            for alias in node.names:
                yield base, [*parts, alias.name]


def _files_of(base: Path, parts: list[str]) -> Iterator[Path]:
    """The files that an import of `parts` from the folder `base` runs; the last part may be a name in the module."""
    for part in parts:
        module, package = base / f"{part}.py", base / part / "__init__.py"
        if package.is_file():
            yield package.resolve()
        elif module.is_file():
            yield module.resolve()
            return
        elif not (base / part).is_dir():
            return
        base /= part


def load_function(
    target: str, kind: str, known: tuple[str, ...] = (), *, own_process: bool = False
) -> Callable[..., Any]:
    """The function that is named by a target.

    The folder of a file is looked in first while it is imported, and last afterwards. What it has imported from there
    is its own: a second file, elsewhere, gets the modules beside it.

    Args:
        target: See `source_file`.
        kind: See `source_file`.
        known: See `source_file`.
        own_process: Whether this process is there for the function alone: the folder of its file stays the first on the
            import path, and the modules beside it stay imported, as when Python runs the file.

    Raises:
        ValueError: As for `source_file`; or the file cannot be imported or has no such function.
    """
    path = source_file(target, kind, known)
    where, _, name = target.rpartition(":")
    try:
        if not where.endswith(".py"):
            module = importlib.import_module(where)
        elif own_process:
            # a file with the name of a module of Python would hide that module from everything
            sys.path.insert(len(sys.path) if path.stem in sys.stdlib_module_names else 0, str(path.resolve().parent))
            module = _module_of(path, kind)
        else:
            with _modules_beside(path):
                module = _module_of(path, kind)
    except Exception as error:
        raise ValueError(f"{kind}: {path} cannot be imported: {type(error).__name__}: {error}{_cure(error)}") from error
    except SystemExit as error:
        raise ValueError(
            f"{kind}: {path} cannot be imported: it calls exit({error.code!r}); put what runs a program under "
            'if __name__ == "__main__":'
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        public = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise ValueError(f"{unknown_name(kind, name, public)} in {path}")
    result: Callable[..., Any] = function
    return result


def _cure(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError):
        return "; modules are looked for beside the file and on PYTHONPATH, and among the installed packages"
    return ""


def _module_of(path: Path, kind: str) -> ModuleType:
    """The file as a new module under its own name, by which pickle and processes that it starts find it again."""
    file = str(path.resolve())
    taken = getattr(sys.modules.get(path.stem), "__file__", file) != file or path.stem in sys.stdlib_module_names
    name = path.stem if path.stem.isidentifier() and not taken else f"_{kind}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@contextmanager
def _modules_beside(path: Path) -> Iterator[None]:
    folder, before = str(path.resolve().parent), set(sys.modules)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
        if folder not in sys.path:
            sys.path.append(folder)
        helpers = {str(file) for file in helper_files(path)}
        for name in set(sys.modules) - before:
            if getattr(sys.modules[name], "__file__", None) in helpers:
                del sys.modules[name]
