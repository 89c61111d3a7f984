"""Verdicts of many conditions in few words."""

from __future__ import annotations

from typing import cast

from analysis.claims.conditions import combined, verdicts_by_part
from analysis.claims.decision import Decision, Verdict

_OPEN = Decision("undecided", "The interval is wide.", missing="more seeds")


def _named(verdicts: dict[str, str]) -> dict[str, Verdict]:
    return cast(dict[str, Verdict], verdicts)


def test_verdicts_are_counted_by_the_part_that_tells_them_apart() -> None:
    regimes, matchings = ("regime A", "regime B"), ("equal steps", "equal updates", "equal Pass@1")
    verdicts = {
        f"{task}, {regime}, {matching}": "fails" if matching == "equal Pass@1" else "holds"
        for task in ("path", "countdown")
        for regime in regimes
        for matching in matchings
    }
    verdicts["path, regime A, equal Pass@1"] = "undecided"
    assert verdicts_by_part(_named(verdicts)) == (
        "equal steps, equal updates: holds in 8 of 8; equal Pass@1: fails in 3 of 4, is undecided in 1"
    )
    by_regime = {name: "holds" if "regime A" in name else "fails" for name in verdicts}
    assert verdicts_by_part(_named(by_regime)) == "regime A: holds in 6 of 6; regime B: fails in 6 of 6"


def test_of_parts_that_tell_nothing_apart_the_last_is_told() -> None:
    verdicts = {f"{task}, {what}": "holds" for task in ("path", "countdown") for what in ("T = 1", "T = 0.6")}
    assert verdicts_by_part(_named(verdicts)) == "T = 1, T = 0.6: holds in 4 of 4"


def test_few_conditions_and_those_of_different_form_are_listed() -> None:
    assert verdicts_by_part(_named({"path, A": "holds", "path, B": "holds", "path, C": "fails"})) == (
        "holds: path, A and path, B; fails: path, C"
    )
    mixed = {"path, A": "holds", "path, B": "holds", "countdown": "fails", "path, C, D": "undecided"}
    assert verdicts_by_part(_named(mixed)) == ("holds: path, A and path, B; fails: countdown; undecided: path, C, D")


def test_every_condition_is_in_the_table() -> None:
    parts = {"A": Decision("holds", "a."), "B": Decision("fails", "b."), "C": _OPEN, "D": _OPEN}
    found = combined(parts)
    assert found.tables["conditions"] == {
        "where": ["A", "B", "C", "D"],
        "verdict": ["holds", "fails", "undecided", "undecided"],
        "missing": ["", "", "more seeds", "more seeds"],
    }
    assert found.verdict == "depends"
    assert found.reason == (
        "Holds in 1 of 4 conditions, such as A: a. Fails in 1 of 4 conditions, such as B: b. "
        "Is undecided in 2 of 4 conditions, such as C: The interval is wide."
    )


def test_what_is_missing_in_many_conditions_is_counted() -> None:
    parts = dict.fromkeys("ABCDE", _OPEN)
    assert combined(parts).missing == "A: more seeds. 4 more conditions are open"
    assert combined(dict.fromkeys("AB", _OPEN)).missing == "A: more seeds; B: more seeds"
