"""How many parameters training changed, in float32 and after rounding to bfloat16.

Every parameter with a gradient other than 0 changes in float32. A change of less than about 1/512 of a weight is lost
where the weights are rounded to bfloat16, which has 8 bits of mantissa: that is the sparsity that trainers with
bfloat16 weights see.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from toy_models import ensure_base

from ...errors import UsageError
from ...records import Run

__all__ = ["Changed", "changed_in", "changed_parameters"]

_WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Changed:
    """Shares of the parameters.

    Attributes:
        float32: That differ at all.
        bfloat16: That differ after both are rounded to bfloat16.
        parameters: How many there are.
    """

    float32: float
    bfloat16: float
    parameters: int


def changed_parameters(before: Path, after: Path) -> Changed:
    """Between two Hugging Face folders of one architecture.

    Raises:
        UsageError: a folder without weights, or weights of other names or shapes.
    """
    for folder in (before, after):
        if not (folder / _WEIGHTS).exists():
            raise UsageError(f"{folder}: expected {_WEIGHTS}, got none; set record.checkpoint = true and train again")
    first, second = load_file(before / _WEIGHTS), load_file(after / _WEIGHTS)
    if {name: value.shape for name, value in first.items()} != {name: value.shape for name, value in second.items()}:
        raise UsageError(
            f"{after}: expected weights of the names and shapes of {before}, got others; compare a run with its base"
        )
    total = sum(value.numel() for value in first.values())

    def share(dtype: torch.dtype) -> float:
        return sum(int((first[name].to(dtype) != second[name].to(dtype)).sum()) for name in first) / total

    return Changed(share(torch.float32), share(torch.bfloat16), total)


def changed_in(run: Run) -> Changed:
    """Of a run, between its built-in base and its final policy."""
    recipe = run.recipe
    if recipe is None:
        raise UsageError(f"run {run.run_id}: expected a run with a recipe, got none; its base is not known")
    policy = recipe["policy"]
    return changed_parameters(ensure_base(policy["base"], policy["seed"]), run.folder / "checkpoints" / "final")
