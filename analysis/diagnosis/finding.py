"""A finding, and all findings of a run as a table, as data and as a page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from toy_models.messages import nearest

from ..common.notebook_html import html_table
from ..common.tables import Column, Table
from ..errors import UsageError

__all__ = ["SEVERITIES", "Diagnosis", "Finding"]

SEVERITIES = ("fine", "notice", "alarm")
_CONTEXT = 16  # characters of context in a table
PAGE = "docs/how_to/diagnose.md"


@dataclass(frozen=True)
class Finding:
    """One thing that the records say.

    Attributes:
        name: such as `dead-groups`; one of `CHECKS`.
        value: the number; None where it is not recorded.
        unit: of the number.
        sentence: what it says, in plain words; where the number is not recorded, what is missing.
        severity: fine, notice or alarm.
        details: further numbers, plain data.
    """

    name: str
    value: float | None
    unit: str
    sentence: str
    severity: str = "fine"
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def page(self) -> str:
        """The section of the docs that explains it."""
        return f"{PAGE}#{self.name}"

    @property
    def recorded(self) -> bool:
        """Whether the records hold what the finding needs."""
        return self.value is not None

    def to_json(self) -> dict[str, Any]:
        """Plain data; null for a number that is not finite, since JSON has none."""
        return {
            "name": self.name,
            "severity": self.severity,
            "value": _plain(self.value),
            "unit": self.unit,
            "sentence": self.sentence,
            "page": self.page,
            "details": _plain(self.details),
        }


def missing(name: str, what: str) -> Finding:
    """A finding whose number cannot be had: `what` says why."""
    return Finding(name, None, "", f"Not recorded: {what}.")


@dataclass(frozen=True)
class Diagnosis:
    """All findings of one run.

    Attributes:
        source: the run, its folder or the file.
        findings: in the order of `CHECKS`.
    """

    source: str
    findings: tuple[Finding, ...]

    def __getitem__(self, name: str) -> Finding:
        by_name = {finding.name: finding for finding in self.findings}
        if name not in by_name:
            raise KeyError(f"{name}: {nearest(name, by_name)}")
        return by_name[name]

    def __repr__(self) -> str:
        counts = {severity: len(self.of(severity)) for severity in SEVERITIES[::-1]}
        named = ", ".join(f.name for severity in ("alarm", "notice") for f in self.of(severity))
        return f"Diagnosis({self.source!r}, {counts['alarm']} alarms, {counts['notice']} notices: {named or 'none'})"

    def _repr_html_(self) -> str:
        """For notebooks: all findings, the worst first."""
        rows = [(f.name, f.severity, _number(f), f.sentence) for f in self.sorted()]
        return html_table("Diagnosis", self.source, rows, columns=("finding", "severity", "value", "what it says"))

    def of(self, severity: str) -> list[Finding]:
        """The findings of one severity that are recorded."""
        return [finding for finding in self.findings if finding.severity == severity and finding.recorded]

    def sorted(self) -> list[Finding]:
        """The findings, alarms first, those that are not recorded last."""
        return sorted(self.findings, key=lambda f: (not f.recorded, -SEVERITIES.index(f.severity)))

    def failing(self, conditions: Sequence[str]) -> list[Finding]:
        """The findings that meet a condition of `--fail-on`.

        Args:
            conditions: "notice" (notices and alarms), "alarm", or names of findings, which count unless they are fine.

        Raises:
            UsageError: an unknown condition, or a named finding that is not recorded and so cannot be judged.
        """
        found = []
        by_name = {finding.name: finding for finding in self.findings}
        for condition in conditions:
            if condition in ("notice", "alarm"):
                found += [f for f in self.findings if SEVERITIES.index(f.severity) >= SEVERITIES.index(condition)]
            elif condition not in by_name:
                raise UsageError(
                    f"--fail-on: expected notice, alarm or names of findings, got {condition!r}; "
                    f"{nearest(condition, ('notice', 'alarm', *by_name))}"
                )
            elif not by_name[condition].recorded:
                raise UsageError(
                    f"--fail-on: expected a finding that {self.source} has records for, got {condition}: "
                    f"{by_name[condition].sentence} Leave it out, or record what it needs"
                )
            elif by_name[condition].severity != "fine":
                found.append(by_name[condition])
        return [finding for finding in self.findings if finding in found]

    def table(self) -> Table:
        """Names, severities and numbers, the worst first, without what is not recorded."""
        rows = tuple((f.name, f.severity, _number(f)) for f in self.sorted() if f.recorded)
        columns = (Column("finding", "name"), Column("severity", "severity"), Column("value", "value"))
        return Table(f"Diagnosis of {self.source}", columns, rows, key="diagnosis")

    def token_table(self) -> Table | None:
        """The tokens that carried most, each in its context; None where no token has a weight."""
        finding = self["top-tokens"]
        if not finding.recorded:
            return None
        rows = tuple(
            (
                f"{_shown(entry['before'][-_CONTEXT:])}▸{_shown(entry['token'])}◂{_shown(entry['after'][:_CONTEXT])}",
                f"{entry['probability']:.2g}",
                f"{entry['weight']:.2g}",
                f"{entry['share']:.2%}",
                f"{entry['step']}/{entry['rollout']}/{entry['position']}",
            )
            for entry in finding.details["tokens"]
        )
        columns = ("▸token◂ in its context", "probability", "weight", "share", "step/rollout/position")
        return Table("Tokens that carried most of the update", columns, rows, key="top_tokens")

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"source": self.source, "findings": [finding.to_json() for finding in self.findings]}

    def to_text(self) -> str:
        """A line for each finding, the worst first, with the page that explains it; what is not recorded last."""
        lines = [f"{f.severity:<6}  {f.name}: {f.sentence} ({f.page})" for f in self.sorted() if f.recorded]
        lines += [f"–       {f.name}: {f.sentence}" for f in self.findings if not f.recorded]
        return "\n".join(lines)


def _shown(text: str) -> str:
    """Text with white space and control characters as escapes, without quotes."""
    return repr(text)[1:-1]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _number(finding: Finding) -> str:
    if finding.value is None:
        return "–"
    if not math.isfinite(finding.value):
        return str(finding.value)
    text = f"{100 * finding.value:.1f}%" if finding.unit == "fraction" else f"{finding.value:.3g} {finding.unit}"
    return text.strip()
