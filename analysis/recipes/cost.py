"""About how long an experiment takes, from its recipe.

The model has two terms, calibrated on what the built-in recipes take on two cores: the start and the pictures of a run,
and the rollouts, each sampled once and used in every epoch. It holds within a factor of two for the built-in bases and
says nothing of other models.
"""

from __future__ import annotations

from collections.abc import Sequence

from toy_models.bases.recipes import BASES

from .fields import RunConfig

__all__ = ["duration_text", "estimated_seconds"]

# Core seconds, by the built-in recipes default (180 in all), regime-a and ppo on two cores.
_SECONDS_PER_RUN = 8.0
_SECONDS_PER_ROLLOUT = 0.2e-3
_SECONDS_PER_USE = 0.7e-3  # of a rollout in one epoch, records and evaluations included
_UNITS = ((365.25 * 86400, "year"), (86400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))


def estimated_seconds(configs: Sequence[RunConfig], *, at_a_time: int) -> float | None:
    """Seconds on a machine that trains `at_a_time` runs at once; None where a base is not built in.

    Pretraining of a base that is not cached comes on top.
    """
    if any(config.policy.base not in BASES for config in configs):
        return None
    total = 0.0
    for config in configs:
        rollouts = config.steps * config.rollout.prompts * config.rollout.group_size
        total += _SECONDS_PER_RUN + rollouts * (_SECONDS_PER_ROLLOUT + config.update.epochs * _SECONDS_PER_USE)
    return total / max(1, min(at_a_time, len(configs)))


def duration_text(seconds: float) -> str:
    """A duration in its largest unit.

    >>> duration_text(95), duration_text(5400), duration_text(20)
    ('about 1.6 minutes', 'about 1.5 hours', 'about 20 seconds')
    """
    size, unit = next(((size, unit) for size, unit in _UNITS if seconds >= size), _UNITS[-1])
    count = f"{seconds / size:.2g}" if seconds < 100 * size else f"{seconds / size:,.0f}"
    return f"about {count} {unit}{'' if count == '1' else 's'}"
