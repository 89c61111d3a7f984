"""Pages that are written by hand except for their numbers, which come from the committed results.

A template of docs/templates/ takes every measured number from docs/results/, and `require` states what its sentences
assume of these numbers: a page whose words no longer fit cannot be written.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from analysis.common.tables import Cell, Table
from analysis.diagnosis import THRESHOLDS
from analysis.evaluation.intervals import over_replicates
from analysis.probes import weight_accuracy
from analysis.recipes.cost import duration_text
from analysis.recipes.devices import GPUS
from toy_models.bases.recipes import BASES

from .full_scale import QUERIES
from .full_scale_estimates import MODELS, hours_table, memory_table, updates_table
from .real_models import real_models_table
from .results import read

__all__ = ["FOLDER", "RESULTS", "StatementError", "render", "wrapped"]

FOLDER = Path(__file__).parents[1] / "templates"
RESULTS = (
    "main_job",
    "factorial",
    "noise",
    "bases",
    "performance",
    "false_alarms",
    "real_models",
    "offline",
    "full_scale",
)


class StatementError(Exception):
    """A sentence of a template that the results contradict."""


def render(name: str, results: Mapping[str, Mapping[str, Any]] | None = None) -> str:
    """The page of a template of docs/templates/.

    Args:
        name: of the template, such as `README.md`.
        results: by name; those of docs/results/ by default.

    Raises:
        StatementError: the results contradict a sentence of the template.
    """
    results = {name: read(name) for name in RESULTS} if results is None else results
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        undefined=StrictUndefined,
        extensions=["jinja2.ext.do"],
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters |= {
        "number": _number,
        "interval": _interval,
        "ends": _ends,
        "reach": _reach,
        "percent": _percent,
        "wrapped": wrapped,
        "duration": duration_text,
        "time": lambda seconds: duration_text(seconds).removeprefix("about "),
        "size": _size,
        "taken": _taken,
        "power": _power,
    }
    environment.globals |= {"require": _require, "table": _table, "at": _at, "cell": _cell, "noise_table": _noise_table}
    environment.globals |= {"largest": _largest, "above_base": _above_base, "shapley": _shapley}
    environment.globals |= {
        "one_machine": _one_machine,
        "accuracy": weight_accuracy,
        "real_models_table": real_models_table,
        "updates": _updates,
        "updates_table": updates_table,
        "memory_table": memory_table,
        "hours_table": hours_table,
        "models": MODELS,
        "gpus": GPUS,
        "queries": QUERIES,
        "recipes": BASES,
        "thresholds": THRESHOLDS,
        "verdicts": _verdicts,
        "verdict_counts": _verdict_counts,
        "decided": _decided,
    }
    return environment.get_template(name).render(results)


def _require(true: bool, statement: str) -> str:
    if not true:
        raise StatementError(f"the results no longer say: {statement}; write this sentence of docs/templates/ anew")
    return ""


def _number(value: float | Mapping[str, Any], decimals: int = 3) -> str:
    """The value alone, with a true minus sign."""
    value = value["value"] if isinstance(value, Mapping) else value
    return f"{float(value):.{decimals}f}".replace("-", "−")


def _interval(cell: Mapping[str, Any], decimals: int = 3, size: bool = False) -> str:
    """The value ± half of its interval; with `size` without its sign."""
    value = abs(cell["value"]) if size else cell["value"]
    return f"{_number(value, decimals)} ± {(cell['high'] - cell['low']) / 2:.{decimals}f}"


def _ends(cell: Mapping[str, Any], decimals: int = 3, size: bool = False) -> str:
    """Both ends of the interval; with `size` those of the size of a number whose sign the words say."""
    ends = sorted(abs(end) for end in (cell["low"], cell["high"])) if size else (cell["low"], cell["high"])
    return ", ".join(_number(end, decimals) for end in ends)


def _reach(cell: Mapping[str, Any], decimals: int = 3) -> str:
    """Both ends of an interval of which one may lie beyond what was measured."""
    return " to ".join("beyond" if cell[end] is None else _number(cell[end], decimals) for end in ("low", "high"))


def _percent(value: float) -> str:
    return f"{100 * value:.0f}%"


def _size(count: float) -> str:
    """Bytes in their largest decimal unit.

    >>> _size(1_253_000_000), _size(26_400_000)
    ('1.3 GB', '26 MB')
    """
    size, unit = next(((size, unit) for size, unit in ((1e9, "GB"), (1e6, "MB")) if count >= size), (1e3, "kB"))
    return f"{count / size:.{1 if count < 10 * size else 0}f} {unit}"


def _taken(share: float | None) -> str:
    return "unknown" if share is None else _percent(share)


def _power(value: float) -> str:
    """A number as a multiple of a power of ten.

    >>> _power(1e-37), _power(5e-4)
    ('10⁻³⁷', '5·10⁻⁴')
    """
    mantissa, exponent = f"{value:.0e}".split("e")
    power = "10" + str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return power if mantissa == "1" else f"{mantissa}·{power}"


def _one_machine(performance: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The processor, cores and dates of all entries; StatementError where they come from several machines."""
    entries = [entry for part in performance.values() for entry in part.values()]
    machines = {(entry["processor"], entry["cores"]) for entry in entries}
    _require(len(machines) == 1, "all times are of one machine")
    ((processor, cores),) = machines
    first, last = (choose(entry["date"] for entry in entries) for choose in (min, max))
    return {
        "processor": f"an {processor}" if processor[0] in "AEIO" else f"a {processor}",
        "cores": str(cores),
        "dates": f"on {last}" if first == last else f"between {first} and {last}",
    }


def _verdicts() -> str:
    """The verdict table of the ledger, for a page at the root of the repository."""
    from analysis.claims.registry import all_claims
    from analysis.claims.results import committed

    from .claims_pages import markdown_rows

    return markdown_rows(list(all_claims().values()), committed(), "docs/claims/{family}.md")


def _verdict_counts() -> str:
    from analysis.claims.registry import all_claims
    from analysis.claims.results import committed
    from analysis.claims.tables import counts

    return counts(committed(), list(all_claims().values()))


def _decided(claim: str) -> str:
    """The verdict on a claim with its reason, from the committed ledger."""
    from analysis.claims.results import committed

    found = [f"{entry.decision.verdict}. {entry.decision.reason}" for entry in committed() if entry.id == claim]
    return found[0] if found else "not yet decided."


def _updates() -> int:
    """Optimiser updates of a run of the default recipe."""
    from analysis.recipes import Recipe

    config = Recipe.load("default").expand()[0].config
    if config.update.minibatches is None:
        raise StatementError(
            "the default recipe no longer says how many minibatches it has; count its updates otherwise"
        )
    return config.steps * config.update.epochs * config.update.minibatches


def _cell(tables: list[Mapping[str, Any]], table: str, row: str, column: str) -> Mapping[str, Any]:
    """A cell of a table of a summary, by the table's key, the first column of the row and the column's key."""
    (rows,) = (entry["rows"] for entry in tables if entry["key"] == table)
    (found,) = (entry for entry in rows if next(iter(entry.values())) == row)
    cell: Mapping[str, Any] = found[column]
    return cell


def _at(rows: list[Mapping[str, Any]], **values: Any) -> Mapping[str, Any]:
    """The one row that has these values."""
    (row,) = (row for row in rows if all(row[name] == value for name, value in values.items()))
    return row


def _table(tables: list[Mapping[str, Any]], key: str) -> str:
    """A table of a summary as Markdown, without its title, with its note."""
    (data,) = (entry for entry in tables if entry["key"] == key)
    _, _, text = Table.from_json(data).to_markdown().partition("\n\n")
    return wrapped(text.strip())


def _shapley(shares: list[Mapping[str, Any]], factor: str) -> Mapping[str, Any]:
    return _at(shares, kind="Shapley", factor=factor)


def _largest(differences: list[Mapping[str, Any]], k: int) -> float:
    """The largest |difference| from k on."""
    return max(abs(row["value"]) for row in differences if row["k"] >= k)


def _above_base(curves: list[Mapping[str, Any]], sampling: str) -> bool:
    """Whether every method's Pass@k is above the base's at every k."""
    rows = [row for row in curves if row["quantity"] == "value" and row["sampling"] == sampling]
    base = {row["k"]: row["value"] for row in rows if row["label"] == "base"}
    return all(row["value"] > base[row["k"]] for row in rows if row["label"] != "base")


def _noise_table(measurements: list[Mapping[str, Any]]) -> str:
    """The variance of NSR over that of PSR on each base."""
    rows = tuple(
        (
            f"`{row['base']}`",
            Cell(row["p"]),
            Cell.of(over_replicates(row["noise_ratio"], row["noise_ratio_se"], row["replicates"])),
        )
        for row in sorted(measurements, key=lambda row: (row["task"], row["p"]))
    )
    lines = ["| base | success probability p | variance of NSR / variance of PSR |", "|:--|--:|--:|"]
    lines += [f"| {base} | {p.text(2)} | {ratio} |" for base, p, ratio in rows]
    return "\n".join(lines)


def wrapped(text: str) -> str:
    """Markdown whose paragraphs are broken at 120 columns; tables are left alone, and so is the newline at the end."""
    end = "\n" if text.endswith("\n") else ""
    parts = (
        part if part.startswith("|") else textwrap.fill(part, 120, break_on_hyphens=False, break_long_words=False)
        for part in text.strip().split("\n\n")
    )
    return "\n\n".join(parts) + end
