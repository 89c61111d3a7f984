"""The objectives by their names in verl, as text for a terminal."""

from __future__ import annotations

from collections import defaultdict

from ....objectives import names
from .estimators import ESTIMATORS
from .objective_settings import Named, Settings, lacks
from .policy_losses import LOSSES, read_from_micro_batch

__all__ = ["objective_listing"]

_COLUMNS = ("objective", "adv_estimator", "loss_mode", "read from the observing engine")


def objective_listing() -> str:
    """Each objective that verl can train on, its estimator, its losses, and what its loss reads of a micro batch.

    Returns:
        Lines in columns, then a line for each objective of this project that verl cannot train on, with the reason.

    Example:
        >>> objective_listing().splitlines()[1].split()
        ['psr-ratio', 'psr,', 'psr_ratio', 'psr_ratio']
    """
    estimators, losses = _by_objective(ESTIMATORS), _by_objective(LOSSES)
    rows = [_COLUMNS]
    for objective in dict.fromkeys((*names(), *losses)):
        if objective in losses:
            read = read_from_micro_batch(LOSSES[losses[objective][0]].for_loss(Settings({})))
            rows.append((objective, ", ".join(estimators[objective]), ", ".join(losses[objective]), ", ".join(read)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    refused = [f"{objective} {reason}" for objective in names() if (reason := lacks(objective)) is not None]
    return "\n".join([*lines, "", "Not in verl:", *refused])


def _by_objective(table: dict[str, Named]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for name, named in table.items():
        found[named.objective].append(name)
    return found
