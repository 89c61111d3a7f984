"""The studies that several entries share, above all the main one: five methods, two tasks, two regimes, eight seeds.

Regime B has 1024 training prompts and a small learning rate, regime A 256 prompts and 2.7 times the rate. All methods
of a study have the same fields but those of `METHODS`: nothing is tuned for one of them, and no regime is chosen by its
outcome. Seeds 0 to 7 each have a base of their own.
"""

from __future__ import annotations

from typing import Any

from .study import GRPO, METHODS, NSR, PSR, W_REINFORCE, Study

__all__ = [
    "COUNTDOWN_A",
    "COUNTDOWN_B",
    "LONG",
    "MAIN",
    "ONE_SGD_UPDATE",
    "PATH_A",
    "PATH_B",
    "REGIME_A",
    "RELEASED_BATCHES",
    "TWO_MODES",
]

# Regime A where a recipe is of regime B.
REGIME_A: dict[str, Any] = {"steps": 50, "task.train_prompts": 256, "optimizer.lr": 4e-4}
_EVALUATED: dict[str, Any] = {"eval.every": 5}

PATH_B = Study("path, regime B", "default", METHODS, _EVALUATED)
PATH_A = Study("path, regime A", "regime-a", METHODS, _EVALUATED)
COUNTDOWN_B = Study("countdown, regime B", "countdown", METHODS, _EVALUATED)
COUNTDOWN_A = COUNTDOWN_B.with_("countdown, regime A", values=REGIME_A)
# The conditions of every headline claim.
MAIN = (PATH_B, PATH_A, COUNTDOWN_B, COUNTDOWN_A)

# A way of answering that works and is rare: two-modes, three methods, settings of regime B.
TWO_MODES = Study("two-modes", "two-modes", {name: METHODS[name] for name in (PSR, NSR, GRPO)}, _EVALUATED)

# Long runs, to three times the step at which accuracy peaks.
_LONG_METHODS = {
    **{name: METHODS[name] for name in (PSR, NSR, W_REINFORCE, GRPO)},
    "WAPO": {"objective.name": "wapo", "objective.clip_low": "unset"},
    "RAFT++": {"objective.name": "raft-plus-plus", "objective.clip_low": "unset"},
}
LONG = Study("path, regime A, 120 steps", "regime-a", _LONG_METHODS, {**_EVALUATED, "steps": 120}, seeds=4)

# Minibatches of a fixed number of rows, as in the released code: methods that drop rows make fewer updates.
RELEASED_BATCHES = Study(
    "path-p60, minibatches of 256 rows",
    "default",
    {name: METHODS[name] for name in (PSR, NSR, GRPO)},
    {**_EVALUATED, "policy.base": "path-p60", "update.minibatches": "unset", "update.minibatch_size": 256, "steps": 20},
    seeds=4,
)

# Fields of plain SGD with one update for each batch: no clip binds, and the step is linear in the gradient.
ONE_SGD_UPDATE: dict[str, Any] = {
    "optimizer.name": "sgd",
    "optimizer.max_grad_norm": "unset",
    "update.minibatches": 1,
}
