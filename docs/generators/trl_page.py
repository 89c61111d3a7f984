"""docs/trl_and_the_loop.md: whether TRL and our own loop train to the same curves, from docs/results/trl.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .compared_page import parts
from .results import read
from .templates import wrapped
from .trl_runs import TRL

__all__ = ["trl_page"]

_TRAINERS = {"GRPO": "`GRPOTrainer`", "NSR": '`ObjectiveTrainer`, `objective="nsr-ratio"`, `rows="drop"`'}

_PAGE = """\
# TRL and our own loop

Do `ObjectiveTrainer` and TRL's own `GRPOTrainer` train as our own loop does? Both sides start from the base `path` and
have the same training prompts, verifier, optimiser, clipping range, divisor, held-out prompts and exact evaluation.
Who samples, cuts minibatches, computes the loss and steps differs. {runs}

{statement}
An earlier measurement, in which the loop made
four updates of what NSR keeps and TRL three, kept the rule too, with TRL behind at every point; this one has the same
number of rows in an update on both sides, and new seeds.
Weights of single tokens are compared far more closely, to 2·10⁻⁶ of the largest, in
`tests/engines/test_objective_trainer.py`.

Made by `{command}` on {date} with torch {torch} and transformers {transformers}; the rule and the sizes are in
`docs/generators/compared_runs.py`. Tokens a second of both are in [Performance](performance.md).
"""


def trl_page(results: Mapping[str, Any] | None = None) -> str:
    """The page.

    Args:
        results: of `trl_runs.measure` with its provenance; those of docs/results/ by default.

    Raises:
        StatementError: an interval does not contain 0, or the control does not show that the rule can fail.
    """
    found = read("trl") if results is None else results
    text = _PAGE.format(
        **parts(found, TRL, _TRAINERS, "trl_and_the_loop"),
        torch=found["versions"]["torch"],
        transformers=found["versions"]["transformers"],
    )
    return wrapped(text)
