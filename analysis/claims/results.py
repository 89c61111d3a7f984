"""The files of the ledger: `ledger.json`, `ledger.md` and the figures; and where a decision is looked up."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError
from .claim import FAMILIES, Claim
from .ledger import Entry, Ledger, read_results, results
from .pages import claim_page
from .tables import by_family, verdict_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["COMMITTED", "committed", "committed_or_made", "draw_claim", "verdicts_of", "write_ledger"]

COMMITTED = Path(__file__).resolve().parents[2] / "figures" / "ledger.json"
_COMMITTED_TEXT = "from the committed ledger, figures/ledger.json"


def committed() -> list[Entry]:
    """The entries of the committed ledger; none where there is no such file."""
    return read_results(COMMITTED) if COMMITTED.exists() else []


def committed_or_made(claim: Claim, folder: Path) -> tuple[Entry | None, str]:
    """The decision of `folder` where there is one, else that of the committed ledger; and where it comes from.

    Raises:
        UsageError: the file of the decision is damaged or of another version.
    """
    file = Ledger(folder).decisions / f"{claim.id}.json"
    if file.exists():
        try:
            return Entry.from_json(json.loads(file.read_text(encoding="utf-8")), str(file)), f"from {file}"
        except (OSError, ValueError, KeyError) as error:
            if isinstance(error, UsageError):
                raise
            raise UsageError(
                f"expected a decision in {file}, got a damaged file ({error}); make it again with "
                f"python -m analysis.claims --run {claim.id}"
            ) from error
    entry = next((entry for entry in committed() if entry.id == claim.id), None)
    return entry, _COMMITTED_TEXT if entry else ""


def verdicts_of(claims: Sequence[Claim], folder: Path) -> dict[str, str]:
    """id -> verdict of the claims that were decided; "unreadable" where the file of the decision is."""
    verdicts = {}
    for claim in claims:
        try:
            entry, _ = committed_or_made(claim, folder)
        except UsageError:
            verdicts[claim.id] = "unreadable"
        else:
            if entry is not None:
                verdicts[claim.id] = str(entry.decision.verdict)
    return verdicts


def draw_claim(claim: Claim, entry: Entry, folder: Path) -> list[Path]:
    """Draw the figure of one claim into a folder; the files, none where the decision has no effect.

    Raises:
        UsageError: the folder cannot be written.
    """
    from .figures import claim_figure

    figure = claim_figure(claim, entry)
    return [] if figure is None else _write_figures({f"{claim.id}.png": figure}, folder)


def write_ledger(claims: Sequence[Claim], entries: Sequence[Entry], command: str, folder: Path) -> list[Path]:
    """Write the ledger into a folder: `ledger.json`, `ledger.md` and the figures.

    The figures are `ledger.png`, one row a claim, `ledger_<family>.png` with the effects of each family, and
    `ledger_S2.png`, the shares of the decomposition. A family without an effect has none.

    Args:
        claims: All claims; those without an entry are shown as not yet decided.
        entries: What was decided.
        command: The command that made it.
        folder: Where the files go; it is made if it does not exist.

    Returns:
        The files.

    Raises:
        UsageError: the folder cannot be written.
    """
    from .figures import ledger_figures

    data = json.dumps(results(entries, command, claims), indent=1, ensure_ascii=False, allow_nan=False)
    figures = ledger_figures(claims, entries)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "ledger.json").write_text(data + "\n", encoding="utf-8")
        (folder / "ledger.md").write_text(_page(claims, entries, list(figures)), encoding="utf-8")
    except OSError as error:
        raise _unwritable(folder, error) from error
    return [folder / "ledger.json", folder / "ledger.md", *_write_figures(figures, folder)]


def _write_figures(figures: dict[str, Figure], folder: Path) -> list[Path]:
    from ..plots import style
    from ..report.png import save_figure

    paths = []
    try:
        for name, figure in figures.items():
            with style():
                save_figure(figure, folder / name)
            paths.append(folder / name)
    except OSError as error:
        raise _unwritable(folder, error) from error
    return paths


def _unwritable(folder: Path, error: OSError) -> UsageError:
    return UsageError(f"--figures: cannot write into {folder} ({error.strerror or error}); choose another folder")


def _page(claims: Sequence[Claim], entries: Sequence[Entry], figures: Sequence[str]) -> str:
    by_id = {entry.id: entry for entry in entries}
    parts = ["# The ledger of claims\n", verdict_table(claims, entries).to_markdown()]
    if "ledger.png" in figures:
        parts.append("![The first effect of every claim, with its interval and its verdict](ledger.png)\n")
    shown = ""
    for claim in by_family(claims):
        if claim.family != shown:
            shown = claim.family
            parts.append(f"## {FAMILIES[shown]}\n")
            if (name := f"ledger_{shown}.png") in figures:
                parts.append(f"![Effects of the claims of this family, with their intervals]({name})\n")
        parts.append(claim_page(claim, by_id.get(claim.id), "committed with this page", level=3) + "\n")
    return "\n".join(parts)
