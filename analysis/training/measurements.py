"""What a run measures beside its updates: evaluations, gradient noise, and the time and memory of each phase.

Nothing here touches what is trained: evaluations and noise draw from streams of their own and change no parameter.
"""

from __future__ import annotations

import contextlib
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from toy_models import Policy, Prompt, Task

from ..evaluation import FixedPrefixes, evaluate
from ..evaluation.known_solutions import KnownSolutions
from ..recipes.fields import EvalFields, RecordFields, RolloutFields
from ..recipes.prompt_counts import check_split
from .noise_rows import check_enumerable, noise_rows
from .rollout_model import RolloutModel

__all__ = ["HeldOut", "Measurements", "Timings", "prompts_of"]

_RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, KiB elsewhere

Columns = dict[str, Any]


def prompts_of(task: Task, split: str, count: int, field: str) -> list[Prompt]:
    """The first `count` prompts of a split; UsageError that names the recipe's field where the task has fewer."""
    prompts = task.prompts(split)
    check_split(field, count, task.name, split, len(prompts))
    return list(prompts[:count])


@dataclass(frozen=True)
class HeldOut:
    """The prompts on which a run is evaluated and on which its gradient noise is measured."""

    validation: list[Prompt]
    test: list[Prompt]
    noise: list[Prompt]

    @classmethod
    def of(cls, task: Task, fields: EvalFields, record: RecordFields) -> HeldOut:
        """Those that the recipe asks for; UsageError where the task has too few, or cannot list their solutions."""
        most = max(fields.prompts, fields.final_prompts)
        validation = prompts_of(task, "validation", fields.prompts, "eval.prompts")
        test = prompts_of(task, "test", most, "eval.final_prompts" if most > fields.prompts else "eval.prompts")
        noise = []
        if record.noise_every:
            noise = prompts_of(task, "validation", record.noise_prompts, "record.noise_prompts")
            check_enumerable(task, noise)
        return cls(validation, test, noise)

    @property
    def evaluated(self) -> list[Prompt]:
        """All prompts that any evaluation uses: validation, then test."""
        return [*self.validation, *self.test]


class Measurements:
    """Evaluations and gradient noise of one run's policy, as columns of the record tables."""

    def __init__(
        self,
        policy: Policy,
        sampler: RolloutModel,
        task: Task,
        prompts: HeldOut,
        fixed: FixedPrefixes,
        fields: EvalFields,
        generator: torch.Generator,
        known: KnownSolutions,
        max_tokens: int | None = None,
    ) -> None:
        """`generator` supplies the samples of evaluations; `fixed` are the responses whose entropy is followed;
        `known` lists the correct responses of the task; `max_tokens` are sampled at a time."""
        self._max_tokens = max_tokens
        self._known = known
        self._policy, self._sampler, self._task = policy, sampler, task
        self._prompts, self._fixed, self._fields, self._generator = prompts, fixed, fields, generator

    def evaluation(self, step: int, update: int, *, final: bool) -> Columns:
        """Columns of the table `evals`; the base and the final policy get more test prompts than those between."""
        fields = self._fields
        count = fields.final_prompts if final else fields.prompts
        return evaluate(
            self._policy,
            self._task,
            [*self._prompts.validation, *self._prompts.test[:count]],
            fixed=self._fixed,
            temperatures=fields.temperatures,
            top_k=fields.top_k,
            top_p=fields.top_p,
            samples=fields.samples,
            generator=self._generator,
            step=step,
            update=update,
            max_tokens=self._max_tokens,
            batch_checked=True,
            known=self._known,
        )

    def noise(
        self,
        step: int,
        update: int,
        *,
        rollout: RolloutFields,
        replicates: int,
        lambda_: float | None,
        generator: torch.Generator,
    ) -> Columns:
        """Columns of the table `noise`, with rollouts drawn as the run draws its own."""
        columns = noise_rows(
            self._policy,
            self._sampler.current(step),
            self._task,
            self._prompts.noise,
            rollout,
            generator,
            replicates=replicates,
            lambda_=lambda_,
        )
        return {"step": step, "update": update, **columns}


class Timings:
    """Seconds, tokens and peak memory of each phase, as rows of the table `timings`."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._rows: list[Columns] = []

    @contextlib.contextmanager
    def phase(self, name: str, step: int) -> Iterator[Columns]:
        """Time what happens in the context; the row may be given its number of `tokens` there."""
        row: Columns = {"step": step, "phase": name, "tokens": None}
        start = time.perf_counter()
        yield row
        row["seconds"] = time.perf_counter() - start
        row["peak_rss_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT
        on_cuda = self._device.type == "cuda"
        row["peak_cuda_bytes"] = torch.cuda.max_memory_allocated(self._device) if on_cuda else None
        self._rows.append(row)

    def take(self) -> list[Columns]:
        """The rows since the last call."""
        rows, self._rows = self._rows, []
        return rows
