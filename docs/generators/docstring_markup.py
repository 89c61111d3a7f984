"""Small repairs that let docstrings and comments written to be read in an editor stand in a page as well.

- A bar in running text, as in |w|, is a bar and not a reStructuredText substitution.
- A paragraph whose first line has columns, set apart by two or more spaces, is a table and shown as it stands.
- An indented block after a paragraph is shown as it stands: it is a formula, a table or code.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Sequence

__all__ = ["comment_at", "field_lines", "page_lines"]

_CODE = re.compile(r"(``.+?``|`[^`]+`)")
_COLUMNS = re.compile(r"\s*[\w,. ]*\w {2,}\S")
_NOT_LITERAL = re.compile(r"\s*(>>>|[-*+] |\d+\. |:\w|\.\. )")


def page_lines(lines: Sequence[str]) -> list[str]:
    r"""The lines of a docstring as reStructuredText.

    >>> page_lines(["With |w| small:", "", "    |w|·x", "", "and so on."])
    ['With \\|w\\| small::', '', '    |w|·x', '', 'and so on.']
    """
    result: list[str] = []
    literal: int | None = None  # the indentation that a literal block stands deeper than
    table = False
    for i, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if literal is None and _COLUMNS.match(line) and (i == 0 or not lines[i - 1].strip()):
            table = True
            result += [f"{line[:indent]}::", ""]
        table = table and bool(line.strip())
        if table:
            result.append(f"    {line}")
            continue
        if literal is not None and line.strip() and indent <= literal:
            literal = None
        if literal is not None or line.lstrip().startswith((">>>", "...")):
            result.append(line)
            continue
        result.append(_escaped(line))
        if _opens_block(lines, i, indent):
            literal = indent
            if line.rstrip().endswith(":"):
                result[-1] += "" if line.rstrip().endswith("::") else ":"
            else:
                result += ["", f"{line[:indent]}::"]
    return result


def _opens_block(lines: Sequence[str], i: int, indent: int) -> bool:
    """Whether line `i` ends a paragraph of running text, and an indented block of another kind than a list follows."""
    if not lines[i].strip() or i + 1 >= len(lines) or lines[i + 1].strip():
        return False
    first = next((j + 1 for j in range(i - 1, -1, -1) if not lines[j].strip()), 0)
    if _NOT_LITERAL.match(lines[first]):
        return False
    following = next((text for text in lines[i + 1 :] if text.strip()), "")
    deeper = len(following) - len(following.lstrip()) > indent
    return deeper and not _NOT_LITERAL.match(following)


def _escaped(line: str) -> str:
    field_type = re.fullmatch(r"(\s*:vartype \w+:) ([^`].*)", line)
    if field_type:  # jaxtyping's shapes hold stars
        return f"{field_type[1]} ``{field_type[2]}``"
    parts = _CODE.split(line)
    parts[::2] = [re.sub(r"(?<!\\)\|", r"\\|", part) for part in parts[::2]]
    return "".join(parts)


def field_lines(cls: type, lines: Sequence[str]) -> list[str]:
    """Field-list entries for the annotated fields of a class, each with the comment that stands behind or above it.

    Fields that `lines`, the class's docstring, describes already are left out, and so are private ones.
    """
    try:
        source = inspect.cleandoc("\n" + inspect.getsource(cls)).splitlines()
    except (OSError, TypeError):
        return []
    (node,) = ast.parse("\n".join(source)).body
    assert isinstance(node, ast.ClassDef)
    entries = []
    for statement in node.body:
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        name, annotation = statement.target.id, ast.unparse(statement.annotation)
        known = any(line.lstrip().startswith(f":ivar {name}:") for line in lines)
        if name.startswith("_") or known or annotation.startswith("ClassVar"):
            continue
        comment = comment_at(source, statement.lineno, statement.end_lineno or statement.lineno)
        entries += [f":ivar {name}: {_escaped(comment)}", f":vartype {name}: ``{annotation}``"]
    return ["", *entries] if entries else []


def comment_at(source: Sequence[str], first: int, last: int) -> str:
    """The comment behind the statement on lines `first` to `last`, counted from one, else the lines of it above."""
    behind = re.search(r"\s#:? (.*)$", source[last - 1])
    if behind:
        return behind[1]
    above: list[str] = []
    column = len(source[first - 1]) - len(source[first - 1].lstrip())
    for line in reversed(source[: first - 1]):
        if not line.startswith(" " * column + "#"):
            break
        above.insert(0, line.strip().lstrip("#: "))
    return " ".join(above)
