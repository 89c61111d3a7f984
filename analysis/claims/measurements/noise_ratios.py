"""The gradient noise of NSR against that of PSR, base by base and seed by seed, before anything is trained.

The ratio of the two variances per sample, each around the exact gradient of success (`analysis.gradient_noise`), on the
validation prompts, with the sampler that training uses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import torch

from toy_models import BASES, ensure_base, get_task, load_policy

from ...gradient_noise import gradient_noise
from ..evidence import Progress

__all__ = ["noise_ratios"]

_SEED = 17  # of the rollouts of the first base seed


def noise_ratios(
    bases: Mapping[str, Sequence[int]],
    progress: Progress,
    *,
    prompts: int = 32,
    group_size: int = 8,
    replicates: int = 6,
) -> pd.DataFrame:
    """Rows (base, seed) with task, p, noise_ratio and noise_ratio_se of NSR, PSR and the others.

    Args:
        bases: base -> seeds of its pretraining.
        progress: What is measured, done, of how many.
        prompts: Validation prompts.
        group_size: Responses to each prompt.
        replicates: Independent batches.
    """
    rows: list[pd.DataFrame] = []
    total = sum(map(len, bases.values()))
    for base, seeds in bases.items():
        task = get_task(BASES[base].task)
        for seed in seeds:
            progress("gradient noise of bases", len(rows), total)
            ensure_base(base, seed)
            noise = gradient_noise(
                load_policy(base, seed=seed),
                task,
                task.prompts("validation")[:prompts],
                generator=torch.Generator().manual_seed(_SEED + seed),
                group_size=group_size,
                replicates=replicates,
            )
            rows.append(noise.frame().assign(base=base, seed=seed, task=task.name))
    progress("gradient noise of bases", total, total)
    return pd.concat(rows, ignore_index=True)
