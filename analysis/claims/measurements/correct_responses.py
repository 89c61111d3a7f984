"""What training does to the distribution over correct responses, q(y) = π(y)/p_x, by enumeration; exact on a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from toy_models import load_policy
from toy_models.exact import Bandit

from ...errors import UsageError
from ...evaluation.enumeration import tree_log_probs
from ...evaluation.known_solutions import KnownSolutions
from ...objectives import get
from ...tabular import TableSettings, train_table
from .responses import base_and_task

__all__ = ["TOLERANCE", "Shift", "check_conservation", "shift_of", "shift_of_run"]

TOLERANCE = 1e-4  # nats; Adam's ε = 1e-8 leaves about 1e-6
_ROWS = 2048
_SEEDS, _ARMS, _CORRECT, _STEPS = 8, 12, 4, 60


@dataclass(frozen=True)
class Shift:
    """Of all prompts together.

    Attributes:
        kl: Mean KL(q ‖ q_0) in nats.
        slope: Of Δlog π(y) on log π_0(y) among the correct responses to a prompt, weighed by q_0: above 0 where the
            probable ones gain most.
    """

    kl: float
    slope: float


def shift_of(before: Sequence[Tensor], after: Sequence[Tensor]) -> Shift:
    """From log π of the correct responses to each prompt, before and after.

    Example:
        >>> old = torch.tensor([0.3, 0.1], dtype=torch.float64).log()
        >>> found = shift_of([old], [2 * old])
        >>> round(found.slope, 6), found.kl > 0
        (1.0, True)
    """
    divergence = covered = spread = 0.0
    for old, new in zip(before, after, strict=True):
        log_old, log_new = old.log_softmax(-1), new.log_softmax(-1)
        divergence += float((log_new.exp() * (log_new - log_old)).sum())
        weight, change = log_old.exp(), new - old
        centred = old - (weight * old).sum()
        covered += float((weight * centred * change).sum())
        spread += float((weight * centred**2).sum())
    if not before or spread == 0:
        raise UsageError("prompts: expected a prompt with two correct responses of unequal probability, got none")
    return Shift(divergence / len(before), covered / spread)


def shift_of_run(folder: Path, base: str, seed: int, *, prompts: int = 64) -> Shift:
    """The saved policy of a run beside the base of its seed, on test prompts.

    Raises:
        UsageError: the run saved no policy.
    """
    saved = folder / "checkpoints" / "final"
    if not saved.is_dir():
        raise UsageError(f"run {folder.name}: expected its final policy in {saved}, got none; set record.checkpoint")
    start, task = base_and_task(base, seed)
    trees = KnownSolutions(task).trees(task.prompts("test")[:prompts], _ROWS)
    with torch.no_grad():
        before, after = (
            [row[0] for row in tree_log_probs(policy.model, trees, [1.0])] for policy in (start, load_policy(saved))
        )
    return shift_of(before, after)


def check_conservation(seed: int = 0) -> dict[str, list[float | str]]:
    """NSR on random tables with Adam and with SGD: the change of H(Y | correct), which Adam conserves.

    Returns:
        Columns optimizer, greatest (|change| over tables), mean (change), success (mean p at the end); in nats.

    Raises:
        ArithmeticError: Adam changes it by more than the tolerance, or SGD does not lower it.
    """
    table: dict[str, list[float | str]] = {name: [] for name in ("optimizer", "greatest", "mean", "success")}
    correct = torch.arange(_ARMS) < _CORRECT
    for optimizer, rate in (("adam", 0.03), ("sgd", 1.0)):
        generator = torch.Generator().manual_seed(seed)
        logits = torch.randn(_SEEDS, 1, _ARMS, dtype=torch.float64, generator=generator)
        settings = TableSettings(
            get("nsr", form="ratio"), optimizer=optimizer, lr=rate, steps=_STEPS, eval_every=_STEPS
        )
        history = train_table(Bandit(logits), correct, settings, generator)
        change = history.entropy_correct[-1] - history.entropy_correct[0]
        greatest, mean = float(change.abs().max()), float(change.mean())
        if (optimizer == "adam" and greatest > TOLERANCE) or (optimizer == "sgd" and mean > -TOLERANCE):
            raise ArithmeticError(
                f"tables, NSR with {optimizer}: H(Y | correct) changes by {mean:.3g} nats on average and by up to "
                f"{greatest:.3g}; expected no change beyond {TOLERANCE:g} with adam and a fall with sgd"
            )
        row: tuple[float | str, ...] = (optimizer, greatest, mean, float(history.success[-1].mean()))
        for column, value in zip(table, row, strict=True):
            table[column].append(value)
    return table
