"""Which objectives exist and which of their settings go together; no torch, so that recipes are checked in a blink.

Field names in the messages are those of a recipe (`objective.lambda`), the arguments those of `objectives.get`.
"""

from __future__ import annotations

import math

from ..errors import UsageError, nearest

__all__ = ["ADVANTAGES", "FORMS", "NAMES", "check", "default_advantage", "names"]

NAMES = ("psr", "nsr", "w-reinforce", "reinforce", "grpo")
FORMS = ("ratio", "probability", "log")
ADVANTAGES = ("none", "group_mean", "group_mean_std", "batch_mean_std")


def names() -> tuple[str, ...]:
    """Names of the objectives.

    >>> names()
    ('psr', 'nsr', 'w-reinforce', 'reinforce', 'grpo')
    """
    return NAMES


def default_advantage(name: str) -> str:
    """The normalisation of rewards that an objective has when `advantage` is left unset."""
    return "group_mean_std" if name == "grpo" else "none"


def check(
    *,
    name: str,
    form: str = "ratio",
    lambda_: float | None = None,
    clip_low: float | None = None,
    clip_high: float | None = None,
    dual_clip: float | None = None,
    advantage: str | None = None,
    group_size: int | None = None,
) -> None:
    """Raise UsageError for an unknown name or value, a number out of range or settings that contradict each other.

    `group_size` is left out where it is not known yet.

    >>> check(name="w-reinforce", lambda_=0.1, clip_low=0.2, clip_high=0.28)
    >>> check(name="psr", lambda_=0.1)
    Traceback (most recent call last):
    analysis.errors.UsageError: objective.lambda: only w-reinforce has it, got 0.1 with psr; leave it unset
    """
    _one_of("objective.name", name, NAMES)
    _one_of("objective.form", form, FORMS)
    if advantage is not None:
        _one_of("objective.advantage", advantage, ADVANTAGES)
    _number("objective.lambda", lambda_, "a number ≥ 0", low=0)
    _number("objective.clip_low", clip_low, "a number in [0, 1]", low=0, high=1)
    _number("objective.clip_high", clip_high, "a number ≥ 0", low=0)
    _number("objective.dual_clip", dual_clip, "a number > 1", above=1)

    if name == "w-reinforce" and lambda_ is None:
        raise UsageError("objective.lambda: w-reinforce needs it, the weight of correct samples; the paper uses 0.1")
    if name != "w-reinforce" and lambda_ is not None:
        raise UsageError(f"objective.lambda: only w-reinforce has it, got {lambda_} with {name}; leave it unset")
    if form == "log":
        for field, value in (("clip_low", clip_low), ("clip_high", clip_high), ("dual_clip", dual_clip)):
            if value is not None:
                raise UsageError(
                    f"objective.{field}: the form log has no ratio to clip, got {value}; leave it unset or use the "
                    "form ratio or probability"
                )
    if name == "grpo" and advantage == "none":
        raise UsageError(
            "objective.advantage: grpo is defined by its group normalisation, got none; use group_mean_std (or unset), "
            "group_mean or batch_mean_std, or the objective reinforce or psr"
        )
    normalisation = advantage or default_advantage(name)
    if group_size == 1 and (name == "grpo" or normalisation.startswith("group_")):
        raise UsageError(
            f"rollout.group_size: {name} with advantage {normalisation} compares the responses of one prompt, so it "
            "needs a group of at least 2, got 1"
        )


def _one_of(field: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        hint = nearest(value, known) if isinstance(value, str) else f"known: {', '.join(known)}"
        raise UsageError(f"{field}: unknown value {value!r}; {hint}")


def _number(
    field: str,
    value: float | None,
    expected: str,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    above: float = -math.inf,
) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UsageError(f"{field}: expected {expected}, got {value!r} ({type(value).__name__})")
    if not (math.isfinite(value) and low <= value <= high and value > above):
        raise UsageError(f"{field}: expected {expected}, got {value}")
