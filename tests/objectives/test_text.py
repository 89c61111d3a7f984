"""Objectives as text read back as they were."""

from __future__ import annotations

from typing import Any

import pytest

from analysis import UsageError
from analysis.objectives import get, objective_text, parse_objective


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("nsr-log", {}),
        ("w-reinforce-ratio", {"lambda_": 0.1, "clip_low": 0.2, "advantage": "group_mean"}),
        ("grpo", {"form": "log"}),
        ("asymre", {"baseline": 0.25}),
        ("nft", {"prompt_weight": "sqrt"}),
    ],
)
def test_there_and_back(name: str, parameters: dict[str, Any]) -> None:
    objective = get(name, **parameters)
    again = parse_objective(objective_text(objective))
    assert (again.entry, again.parameters) == (objective.entry, objective.parameters)
    assert parse_objective(" , ".join(objective_text(objective).split(","))).parameters == objective.parameters


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nsr-log,clip", r"objective: expected NAME,PARAMETER=VALUE such as w-reinforce-log,lambda=0.1, got 'nsr"),
        ("w-reinforce-log", r"objective.lambda: w-reinforce-log needs it"),
        ("grpo,clip_low=two", r"objective.clip_low: expected a number in \[0, 1\], got 'two'"),
    ],
)
def test_what_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        objective_text(text)
