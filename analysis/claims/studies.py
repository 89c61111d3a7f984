"""The studies that several entries share: five methods, two tasks, two regimes, eight seeds.

Regime B has 1024 training prompts and a small learning rate, regime A 256 prompts and 2.7 times the rate. All methods
of a study have the same fields but those of `METHODS`: nothing is tuned for one of them, and no regime is chosen by its
outcome. Seeds 0 to 7 each have a base of their own.
"""

from __future__ import annotations

from typing import Any

from .study import METHODS, Study

__all__ = ["COUNTDOWN_A", "COUNTDOWN_B", "MAIN", "PATH_A", "PATH_B", "REGIME_A"]

# Regime A where a recipe is of regime B.
REGIME_A: dict[str, Any] = {"steps": 50, "task.train_prompts": 256, "optimizer.lr": 4e-4}
_EVALUATED: dict[str, Any] = {"eval.every": 5}

PATH_B = Study("path, regime B", "default", METHODS, _EVALUATED)
PATH_A = Study("path, regime A", "regime-a", METHODS, _EVALUATED)
COUNTDOWN_B = Study("countdown, regime B", "countdown", METHODS, _EVALUATED)
COUNTDOWN_A = COUNTDOWN_B.with_("countdown, regime A", values=REGIME_A)
# The conditions of every headline claim.
MAIN = (PATH_B, PATH_A, COUNTDOWN_B, COUNTDOWN_A)
