"""Resuming a training by TRL from a checkpoint so that it ends as an uninterrupted one.

Two things of a run are in no checkpoint of TRL's. The order of the prompts comes from a generator that goes on from
epoch to epoch and begins anew on resuming; it is brought to the right epoch here. A generation batch is not stored, so
that a checkpoint within one can only be resumed with a new sample of it; this is warned of.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import torch
from transformers import TrainerCallback

__all__ = ["EpochSampler", "WarnOfResampling"]

_EPOCH_ROUNDING = 1e-6  # the state counts epochs as a float, the sum of fractions


class EpochSampler:
    """A sampler of TRL whose order in an epoch is the same whether or not the epochs before were iterated over.

    Args:
        sampler: a `RepeatSampler`, whose generator draws one permutation an epoch.
        trainer: the trainer, whose state knows the epoch.
    """

    def __init__(self, sampler: Any, trainer: Any) -> None:
        self._sampler, self._trainer, self._begun = sampler, trainer, 0

    @classmethod
    def of(cls, sampler: Any, trainer: Any) -> Any:
        """The sampler so wrapped, where it draws its order; any other as it is."""
        shuffles = getattr(sampler, "shuffle", False) and getattr(sampler, "generator", None) is not None
        return cls(sampler, trainer) if shuffles else sampler

    def __iter__(self) -> Iterator[int]:
        epoch = int((self._trainer.state.epoch or 0) + _EPOCH_ROUNDING)
        for _ in range(self._begun, epoch):
            torch.randperm(self._sampler.num_samples, generator=self._sampler.generator)
        self._begun = epoch + 1
        return iter(self._sampler)

    def __len__(self) -> int:
        return len(self._sampler)


class WarnOfResampling(TrainerCallback):
    """Warns where a training is resumed within a generation batch.

    Args:
        iterations: how often each generation batch is trained on.
    """

    def __init__(self, iterations: int) -> None:
        self._iterations = iterations

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        microbatches, accumulation = args.steps_per_generation * self._iterations, args.gradient_accumulation_steps
        if state.global_step * accumulation % microbatches:
            steps = microbatches / accumulation
            warnings.warn(
                f"resume_from_checkpoint: step {state.global_step} lies within a generation batch of {steps:g} "
                "optimiser steps; TRL samples this batch anew, so that the run differs from an uninterrupted one. "
                f"Save at a multiple of {steps:g} (save_steps)",
                stacklevel=2,
            )
