"""A digest of what source files do, whatever their comments, docstrings and layout say."""

from __future__ import annotations

import ast
import hashlib
import threading
from collections.abc import Iterable
from pathlib import Path

__all__ = ["code_digest", "normalised_source"]

_PARSING = threading.Lock()  # CPython counts the depth of its parser once for all threads, and fails where two meet


def normalised_source(source: str) -> str:
    """The source without comments and docstrings, in the layout of `ast.unparse`.

    >>> normalised_source('def double(x):  # of a number\\n    "Twice x."\\n    return ( 2*x )')
    'def double(x):\\n    return 2 * x'
    """
    with _PARSING:
        tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            match node.body:
                case [ast.Expr(ast.Constant(str())), *rest]:
                    node.body = rest or [ast.Pass()]
    return ast.unparse(tree)


def code_digest(files: Iterable[Path]) -> str:
    """SHA-256 of the normalised source of the files, in the given order."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(normalised_source(file.read_text(encoding="utf-8")).encode() + b"\0")
    return digest.hexdigest()
