"""Verdicts of many conditions in few words: by the one thing that tells most of them apart.

A condition is named by its parts, such as "path, regime A, T = 0.6". Where the verdicts differ a reader asks which part
it depends on, so that the parts are compared, and the verdicts are counted by the values of the one that tells them
apart best.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from .decision import VERDICTS, Decision, Verdict

__all__ = ["FEW", "combined", "verdicts_by_part"]

FEW = 3  # conditions that are all named
_TEXT: dict[Verdict, str] = {
    "holds": "holds",
    "fails": "fails",
    "depends": "depends",
    "undecided": "is undecided",
}


def verdicts_by_part(verdicts: Mapping[str, Verdict]) -> str:
    """The conditions by verdict; many of them are counted by the part of their names that tells verdicts apart best.

    That is the part with the most conditions of the commonest verdict of their value; of equal ones the last, which is
    what is held equal in a comparison. Up to three conditions, and those whose names have different numbers of parts,
    are listed.

    Args:
        verdicts: condition -> its verdict.

    Example:
        >>> verdicts_by_part({"path": "holds", "countdown": "fails"})
        'holds: path; fails: countdown'
        >>> many = {f"{task}, equal {what}": "holds" for task in ("path", "countdown") for what in ("steps", "updates")}
        >>> verdicts_by_part(many | {"path, equal Pass@1": "fails", "countdown, equal Pass@1": "fails"})
        'equal steps, equal updates: holds in 4 of 4; equal Pass@1: fails in 2 of 2'
    """
    parts = {name: tuple(name.split(", ")) for name in verdicts}
    lengths = {len(part) for part in parts.values()}
    if len(verdicts) <= FEW or len(lengths) > 1 or lengths == {1}:
        return _listed(verdicts)
    counts = [_counts(verdicts, parts, position) for position in range(lengths.pop())]
    best = max(range(len(counts)), key=lambda i: (sum(max(found.values()) for found in counts[i].values()), i))
    return "; ".join(_told(values, found) for values, found in _merged(counts[best]))


def combined(parts: Mapping[str, Decision], *, depends_on: str = "") -> Decision:
    """One decision from those of several conditions.

    All hold: holds. All fail: fails. Some hold and others fail, or one depends: depends. Otherwise undecided. With more
    than three conditions the reason counts them by verdict and gives the first of each in full. The table `conditions`
    has the verdict of every condition and what was missing there.

    Args:
        parts: condition -> its decision.
        depends_on: What differs between the conditions, in words; unset: `verdicts_by_part`.

    Example:
        >>> yes, no = Decision("holds", "a"), Decision("fails", "b")
        >>> combined({"SGD": yes, "Adam": no}).depends_on
        'holds: SGD; fails: Adam'
    """
    if not parts:
        raise ValueError("parts: expected at least one condition")
    verdicts = {name: part.verdict for name, part in parts.items()}
    effects = tuple(effect for part in parts.values() for effect in part.effects)
    tables = {f"{name}: {table}": values for name, part in parts.items() for table, values in part.tables.items()}
    tables["conditions"] = {
        "where": list(parts),
        "verdict": [str(verdict) for verdict in verdicts.values()],
        "missing": [part.missing for part in parts.values()],
    }
    found = set(verdicts.values())
    if len(found) == 1 and found <= {"holds", "fails"}:
        return Decision(found.pop(), _reason(parts), effects, tables=tables)
    if "depends" in found or {"holds", "fails"} <= found:
        on = depends_on or verdicts_by_part(verdicts)
        return Decision("depends", _reason(parts), effects, depends_on=on, tables=tables)
    return Decision("undecided", _reason(parts), effects, missing=_missing(parts), tables=tables)


def _reason(parts: Mapping[str, Decision]) -> str:
    """The reasons of all conditions; of many the first of each verdict, with how many have that verdict."""
    if len(parts) <= FEW:
        return " ".join(f"{name}: {part.reason}" for name, part in parts.items())
    by_verdict: dict[Verdict, list[str]] = {}
    for name, part in parts.items():
        by_verdict.setdefault(part.verdict, []).append(name)
    return " ".join(
        f"{_TEXT[verdict].capitalize()} in {len(names)} of {len(parts)} conditions, such as {names[0]}: "
        f"{parts[names[0]].reason}"
        for verdict, names in by_verdict.items()
    )


def _missing(parts: Mapping[str, Decision]) -> str:
    """What was missing in each open condition; of many the first, with how many more there are."""
    lacking = [f"{name}: {part.missing}" for name, part in parts.items() if part.verdict == "undecided"]
    if len(lacking) <= FEW:
        return "; ".join(lacking)
    return f"{lacking[0]}. {len(lacking) - 1} more conditions are open"


def _listed(verdicts: Mapping[str, Verdict]) -> str:
    by_verdict = {verdict: [name for name, found in verdicts.items() if found == verdict] for verdict in VERDICTS}
    between = " and " if any(", " in name for name in verdicts) else ", "
    return "; ".join(f"{verdict}: {between.join(names)}" for verdict, names in by_verdict.items() if names)


def _counts(
    verdicts: Mapping[str, Verdict], parts: Mapping[str, Sequence[str]], position: int
) -> dict[str, Counter[Verdict]]:
    """Value of the part -> how many conditions with it have each verdict."""
    found: dict[str, Counter[Verdict]] = {}
    for name, verdict in verdicts.items():
        found.setdefault(parts[name][position], Counter())[verdict] += 1
    return found


def _merged(counts: Mapping[str, Counter[Verdict]]) -> list[tuple[list[str], Counter[Verdict]]]:
    """Values with the same counts together."""
    merged: list[tuple[list[str], Counter[Verdict]]] = []
    for value, found in counts.items():
        for values, others in merged:
            if others == found:
                values.append(value)
                break
        else:
            merged.append(([value], found))
    return merged


def _told(values: Sequence[str], found: Counter[Verdict]) -> str:
    times, total = len(values), len(values) * found.total()
    first, *others = [verdict for verdict, _ in found.most_common()]
    rest = "".join(f", {_TEXT[verdict]} in {times * found[verdict]}" for verdict in others)
    return f"{', '.join(values)}: {_TEXT[first]} in {times * found[first]} of {total}{rest}"
