r"""The task of the smoke run: sums of two small numbers, in verl's Parquet format.

A prompt is `3 + 4 =`; a response ends with `\boxed{ 7 }`. Prompts are chat messages, as verl wants them; the
tokenizer's chat template writes their contents alone.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

__all__ = ["LARGEST", "SOURCE", "VALIDATION_PROMPTS", "questions", "write_data"]

SOURCE = "sums"
"""verl's `data_source`, by which a reward function can tell tasks apart."""

LARGEST = 9
"""The largest of the two numbers."""

VALIDATION_PROMPTS = 32
_SEED = 20261129  # independent of the seed of a run: which prompts are held out depends on no experiment


def questions() -> list[tuple[str, str]]:
    """Every prompt with its answer.

    Example:
        >>> questions()[12]
        ('1 + 2 =', '3')
    """
    numbers = range(LARGEST + 1)
    return [(f"{first} + {second} =", str(first + second)) for first in numbers for second in numbers]


def write_data(folder: Path) -> tuple[Path, Path]:
    """Write `train.parquet` and `validation.parquet`, which share no prompt; return their paths."""
    import pandas as pd

    asked = questions()
    random.Random(_SEED).shuffle(asked)
    splits = {"validation": asked[:VALIDATION_PROMPTS], "train": asked[VALIDATION_PROMPTS:]}
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for split, rows in splits.items():
        paths[split] = folder / f"{split}.parquet"
        pd.DataFrame([_row(split, *row, index) for index, row in enumerate(rows)]).to_parquet(paths[split])
    return paths["train"], paths["validation"]


def _row(split: str, prompt: str, answer: str, index: int) -> dict[str, Any]:
    return {
        "data_source": SOURCE,
        "prompt": [{"role": "user", "content": prompt}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": answer},
        "extra_info": {"split": split, "index": index},
    }
