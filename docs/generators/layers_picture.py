"""The picture of the packages, docs/images/layers.svg, drawn from the import contracts in pyproject.toml."""

from __future__ import annotations

import tomllib
from html import escape
from pathlib import Path

__all__ = ["layers", "layers_picture"]

ROOT = Path(__file__).resolve().parents[2]
WIDTH, ROW, GAP, BOX = 860, 64, 10, 40
_STYLE = (
    "text{font:13px sans-serif;text-anchor:middle;fill:#1a1a1a}"
    "rect.box{fill:#fff;stroke:#0072b2;stroke-width:1.2}"
    "rect.row{fill:#eef4f9}"
)


def layers(pyproject: Path = ROOT / "pyproject.toml") -> list[list[str]]:
    """The layers of packages, highest first, as the first import contract of kind "layers" states them."""
    contracts = tomllib.loads(pyproject.read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
    stated = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    return [[name.strip(" ()") for name in layer.replace(":", "|").split("|")] for layer in stated]


def layers_picture() -> str:
    """The picture as SVG: one row of boxes for each layer; a package imports only from the rows below its own."""
    rows = layers()
    height = len(rows) * ROW
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        f"<style>{_STYLE}</style>",
    ]
    for i, names in enumerate(rows):
        top = i * ROW
        parts.append(f'<rect class="row" x="0" y="{top + 4}" width="{WIDTH}" height="{ROW - 8}" rx="6"/>')
        width = (WIDTH - GAP) / len(names) - GAP
        for j, name in enumerate(names):
            left = GAP + j * (width + GAP)
            box = f'x="{left:.1f}" y="{top + (ROW - BOX) / 2:.1f}" width="{width:.1f}" height="{BOX}" rx="4"'
            parts.append(f'<rect class="box" {box}/>')
            label = escape(name.removeprefix("analysis."))
            parts.append(f'<text x="{left + width / 2:.1f}" y="{top + ROW / 2 + 5:.1f}">{label}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"
