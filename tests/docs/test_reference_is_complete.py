"""Every name that a package exports has a description, and the reference has an entry for it."""

from __future__ import annotations

from pathlib import Path

from docs.generators import reference_pages as reference
from docs.generators.docstring_markup import field_lines, page_lines
from docs.generators.reference_pages import Export, constant_comment, exports, missing_names, write_reference

FEWEST_WORDS, FEWEST_WORDS_OF_A_CONSTANT = 7, 3
DOCUMENTED_ONCE = sorted({export.target: export for export in exports()}.values(), key=lambda export: export.target)


def _is_described(export: Export) -> bool:
    if not reference.is_documentable(export.value):
        return len(constant_comment(export).split()) >= FEWEST_WORDS_OF_A_CONSTANT
    description = export.value.__doc__ or ""
    if isinstance(export.value, type):
        description = " ".join([description, *field_lines(export.value, ())])
    generated = description.startswith(f"{export.name}(")  # what a dataclass or named tuple without a docstring gets
    return len(description.split()) >= FEWEST_WORDS and not generated


def test_every_exported_name_has_a_description() -> None:
    assert [export.target for export in DOCUMENTED_ONCE if not _is_described(export)] == []


def test_reference_has_an_entry_for_each_name(tmp_path: Path) -> None:
    write_reference(tmp_path, commands=())
    text = "\n".join(path.read_text(encoding="utf-8") for path in tmp_path.iterdir())
    for export in DOCUMENTED_ONCE:
        if reference.is_documentable(export.value):
            assert f":: {export.target}\n" in text
        else:
            assert f".. py:data:: {export.name}\n" in (tmp_path / f"{export.home}.rst").read_text(encoding="utf-8")


def test_a_missing_name_is_noticed() -> None:
    documented = {export.target for export in exports()}
    assert missing_names(documented) == []
    assert missing_names(documented - {"analysis.laws.mass_flow"}) == ["analysis.laws.mass_flow"]


def test_pages_of_packages_that_are_gone_are_deleted(tmp_path: Path) -> None:
    (tmp_path / "analysis.gone.rst").write_text("old")
    write_reference(tmp_path, commands=())
    assert not (tmp_path / "analysis.gone.rst").exists()


def test_formulas_are_kept_and_lists_are_not() -> None:
    formula = ["It is:", "", "    x = |y|", "", "For |x| > 1:", "", "    - a", "    - b"]
    assert page_lines(formula) == ["It is::", "", "    x = |y|", "", "For \\|x\\| > 1:", "", "    - a", "    - b"]


class _Fields:
    plain: int  # what it is
    # above it
    after: str
    described: float
    _private: int  # nothing


def test_fields_are_described_by_their_comments() -> None:
    lines = field_lines(_Fields, [":ivar described: by the docstring"])
    assert lines == [
        "",
        ":ivar plain: what it is",
        ":vartype plain: ``int``",
        ":ivar after: above it",
        ":vartype after: ``str``",
    ]
