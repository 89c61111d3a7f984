"""The summary, the figures and the page of an experiment, kept in its folder and used again while nothing has changed.

`summary.json` holds the summary, the names of the figures, and a digest of what they were made from: the commits of all
runs (which hold the SHA-256 of every record file) and the source of this package, its page included.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..common.provenance import code_digest
from ..records.folders import EXPERIMENT_FILE, RUN_FILE, write_durably
from .page_assets import PAGE_FILE, page_assets
from .page_claims import CLAIMS_FILE
from .summary import Summary

if TYPE_CHECKING:
    from ..records import Experiment

__all__ = ["StoredReport"]

SUMMARY_FILE = "summary.json"


class StoredReport:
    """What was reported of an experiment, made anew where it is missing or something has changed."""

    def __init__(self, experiment: Experiment) -> None:
        self._experiment, self._folder = experiment, experiment.folder
        self._digest = _digest(self._folder)
        self._data = self._read()

    def __repr__(self) -> str:
        return f"StoredReport({str(self._folder)!r}, kept={sorted(self._data.keys() - {'digest'})})"

    def summary(self) -> Summary:
        """The tables and what they say."""
        if "summary" not in self._data:
            from .run_summary import summarize

            self._keep(summary=summarize(self._experiment).to_json())
        return Summary.from_json(self._data["summary"])

    def figures(self, *, each_run: bool = False, tell: Callable[[str], None] | None = None) -> list[Path]:
        """The files of the figures, drawn where they are missing.

        Args:
            each_run: Whether those of each run are wanted, too.
            tell: Receives a line before figures are drawn, and one for each figure that has no records.
        """
        known = self._data.get("figures")
        if known is not None and known["each_run"] >= each_run:
            paths = [self._folder / name for name in known["files"]]
            if all(path.exists() for path in paths):
                return [path for path in paths if each_run or path.parent == self._folder / "figures"]
        from .figure_files import write_figures

        if tell is not None:
            tell("drawing figures …")
        paths = write_figures(self._experiment, each_run=each_run, tell=tell)
        names = [str(path.relative_to(self._folder)) for path in paths]
        self._keep(figures={"each_run": each_run, "files": names})
        return paths

    def write_page(self) -> Path:
        """summary.md with the figures that are known; the path."""
        page = self._folder / "summary.md"
        figures = self._data.get("figures", {}).get("files", [])
        if self._data.get("page") != figures or not page.exists():
            from .figure_files import write_page

            write_page(self._folder, self.summary().to_markdown(), [self._folder / name for name in figures])
            self._keep(page=figures)
        return page

    def write_report_page(self) -> Path:
        """report.html; the path."""
        page = self._folder / PAGE_FILE
        if not self._data.get("report") or not page.exists():
            from .page_file import write_report_page

            write_report_page(self._experiment, page, summary=self.summary())
            self._keep(report=True)
        return page

    def _read(self) -> dict[str, Any]:
        try:
            data = json.loads((self._folder / SUMMARY_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return data if isinstance(data, dict) and data.get("digest") == self._digest else {}

    def _keep(self, **parts: Any) -> None:
        self._data = {**self._data, "digest": self._digest, **parts}
        text = json.dumps(self._data, indent=1, ensure_ascii=False, allow_nan=False)
        write_durably(self._folder / SUMMARY_FILE, text.encode())


def _digest(folder: Path) -> str:
    digest = hashlib.sha256(code_digest().encode())
    for name, text in page_assets().items():  # they are not Python, which is all that `code_digest` reads
        digest.update(name.encode() + b"\0" + text.encode() + b"\0")
    parts = (f"*/{RUN_FILE}", "*/commits/*.json", CLAIMS_FILE)
    files = [folder / EXPERIMENT_FILE, *(path for part in parts for path in sorted(folder.glob(part)))]
    for path in files:
        digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
