"""docs/verl_and_the_loop.md: whether verl and our own loop train to the same curves, from docs/results/verl.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .compared_page import parts
from .results import read
from .templates import wrapped
from .verl_runs import VERL

__all__ = ["verl_page"]

_TRAINERS = {
    "GRPO": "`adv_estimator=grpo`, `loss_mode=vanilla`",
    "NSR": "`adv_estimator=nsr`, `loss_mode=nsr_ratio`, `DroppedRows`",
}

_PAGE = """\
# verl and our own loop

Does verl train as our own loop does, with its own GRPO and with this project's NSR? Both sides start from the base
`path` and have the same training prompts, verifier, optimiser, clipping range, divisor, held-out prompts and exact
evaluation. Who samples, cuts minibatches, computes the loss and steps differs: verl runs whole, `verl.trainer.main_ppo`
on the CPU that [the smoke run](how_to/watch_a_verl_run.md) has, with FSDP2 in float32. {runs}

{statement}

Weights of single tokens are compared far more closely in `tests/engines/verl`; the same with TRL is in
[TRL and our own loop](trl_and_the_loop.md).

Made by `{command}` on {date} with torch {torch}, transformers {transformers} and verl {verl}; the rule and the sizes
are in `docs/generators/compared_runs.py`, the settings of verl in `docs/generators/verl_runs.py`.
"""


def verl_page(results: Mapping[str, Any] | None = None) -> str:
    """The page.

    Args:
        results: of `verl_runs.measure` with its provenance; those of docs/results/ by default.

    Raises:
        StatementError: an interval does not contain 0, or the control does not show that the rule can fail.
    """
    found = read("verl") if results is None else results
    versions = found["versions"]
    text = _PAGE.format(
        **parts(found, VERL, _TRAINERS, "verl_and_the_loop"),
        torch=versions["torch"],
        transformers=versions["transformers"],
        verl=found["verl"],
    )
    return wrapped(text)
