"""Configuration of the documentation site: `make docs` builds it offline, with every warning an error."""

from __future__ import annotations

import html
import re
import sys
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.domains.python import PyObject
from sphinx.util import logging

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import analysis  # noqa: E402
from docs.generators.docstring_markup import field_lines, page_lines  # noqa: E402
from docs.generators.reference_pages import copy_notebooks, exports, missing_names, write_reference  # noqa: E402

project = "rlvr-dynamics"
author = "the rlvr-dynamics contributors"
copyright = author
version = release = analysis.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "myst_nb"]
exclude_patterns = ["_build", "generators", "templates", "results"]
default_role = "py:obj"  # a name in backticks links to its entry where it has one, and is code where it has none
nitpicky = True
# Other libraries cannot be looked up without a network, and a type in a signature may be internal.
# Every other name that starts with one of our packages must resolve.
nitpick_ignore_regex = [("py:.*", r"(?!(analysis|toy_models)\.).*"), ("py:class", ".*")]

html_theme = "furo"
html_title = f"{project} {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
html_math_renderer = "mathml"  # which browsers draw without a script from a network

myst_enable_extensions = ["deflist", "dollarmath", "colon_fence", "attrs_inline"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # notebooks are committed with their outputs
nb_merge_streams = True

autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_inherit_docstrings = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
toc_object_entries_show_parents = "hide"


def _write_pages(app: Sphinx, _config: object) -> None:
    write_reference(HERE / "reference")
    copy_notebooks(HERE.parent / "notebooks", HERE / "notebooks")


def _repair_docstring(app: Sphinx, what: str, name: str, value: object, options: object, lines: list[str]) -> None:
    lines[:] = page_lines(lines)
    if isinstance(value, type):
        lines += field_lines(value, lines)


def _skip_member(app: Sphinx, what: str, name: str, value: object, skip: bool, options: object) -> bool | None:
    return True if (getattr(value, "__doc__", None) or "").startswith("Alias for field number") else None


def _resolve_inner(app: Sphinx, env: Any, node: nodes.Element, content: nodes.Element) -> nodes.Element | None:
    """A full name by which a docstring means something inside a package: its entry if it is exported, else code."""
    target = str(node.get("reftarget", ""))
    if not target.startswith(("analysis.", "toy_models.")):
        return None
    if not re.fullmatch(r"[\w.]+", target):
        return content  # an expression
    try:
        value = resolve_name(target)
    except (ImportError, AttributeError):
        return None  # which Sphinx reports
    entry = next((export.target for export in exports() if export.value is value), None)
    if entry is None:
        return content
    return env.domains.python_domain.resolve_xref(env, node["refdoc"], app.builder, "obj", entry, node, content)


def _check_coverage(app: Sphinx, _env: object) -> None:
    documented = set(app.env.domains.python_domain.objects)
    for name in missing_names(documented):
        logging.getLogger(__name__).warning("exported but not in the reference: %s", name)


def _inline_math(writer: Any, node: nodes.Element) -> None:
    writer.body.append(_mathml(node, as_block=False))
    raise nodes.SkipNode


def _block_math(writer: Any, node: nodes.Element) -> None:
    writer.body.append(_mathml(node, as_block=True))
    raise nodes.SkipNode


def _mathml(node: nodes.Element, as_block: bool) -> str:
    formula = re.sub(r"\\(text|display)style\b", "", node.astext())  # MathML chooses the style of a block itself
    try:
        return str(tex2mathml(formula, as_block=as_block))
    except MathError as error:
        logging.getLogger(__name__).warning("formula %r: %s", formula, error, location=node)
        return f"<code>{html.escape(formula)}</code>"


def _label_attributes() -> None:
    """Head the fields of a class with "Attributes", as its docstring does, instead of "Variables"."""
    for field in PyObject.doc_field_types:
        if field.name == "variable":
            field.label = "Attributes"


def setup(app: Sphinx) -> dict[str, bool]:
    """Write the pages that are made at build time, and fail on an exported name that the reference lacks."""
    _label_attributes()
    app.add_html_math_renderer("mathml", (_inline_math, None), (_block_math, None))
    app.connect("config-inited", _write_pages)
    app.connect("autodoc-process-docstring", _repair_docstring, priority=600)  # after napoleon
    app.connect("missing-reference", _resolve_inner)
    app.connect("autodoc-skip-member", _skip_member)
    app.connect("env-check-consistency", _check_coverage)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
