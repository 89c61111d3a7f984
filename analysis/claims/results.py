"""The files of the ledger: `ledger.json`, `ledger.md`, and where a decision is looked up."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ..errors import UsageError
from .claim import FAMILIES, Claim
from .ledger import Entry, Ledger, read_results, results
from .pages import claim_page
from .tables import verdict_table

__all__ = ["COMMITTED", "committed_or_made", "write_ledger"]

COMMITTED = Path(__file__).resolve().parents[2] / "figures" / "ledger.json"


def committed_or_made(claim: Claim, folder: Path) -> tuple[Entry | None, str]:
    """The decision of `folder` where there is one, else that of the committed ledger; and where it comes from."""
    file = Ledger(folder).decisions / f"{claim.id}.json"
    if file.exists():
        return Entry.from_json(json.loads(file.read_text(encoding="utf-8")), str(file)), f"from {file}"
    if COMMITTED.exists():
        for entry in read_results(COMMITTED):
            if entry.id == claim.id:
                return entry, f"from the committed ledger, {COMMITTED.name}"
    return None, ""


def write_ledger(claims: Sequence[Claim], entries: Sequence[Entry], command: str, folder: Path) -> list[Path]:
    """Write `ledger.json` and `ledger.md` into a folder; the files.

    Raises:
        UsageError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        data = json.dumps(results(entries, command), indent=1, ensure_ascii=False, allow_nan=False)
        (folder / "ledger.json").write_text(data + "\n", encoding="utf-8")
        (folder / "ledger.md").write_text(_page(claims, entries), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--figures: cannot write into {folder} ({error.strerror or error})") from error
    return [folder / "ledger.json", folder / "ledger.md"]


def _page(claims: Sequence[Claim], entries: Sequence[Entry]) -> str:
    by_id = {claim.id: claim for claim in claims}
    parts = ["# The ledger of claims\n", verdict_table(claims, entries).to_markdown()]
    for family, title in FAMILIES.items():
        of_family = [entry for entry in entries if by_id[entry.id].family == family]
        if of_family:
            parts.append(f"## {title}\n")
            parts += [claim_page(by_id[entry.id], entry, "--full").replace("\n#", "\n##") for entry in of_family]
    return "\n".join(parts) + "\n"
