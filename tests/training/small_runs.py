"""Small runs looked at stage by stage, in the order in which a step makes them; equal settings run once."""

from __future__ import annotations

import functools
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from analysis.recipes import Recipe, RunConfig
from analysis.records import load_trace
from analysis.records.schema import TABLES
from analysis.training import loop as loop_module

STAGES = (
    "base",
    "prompts",
    "responses",
    "rewards",
    "advantages",
    "minibatches",
    "weights",
    "regularisers",
    "step",
    "run",
    "evaluations",
    "records",
    "files",
)

# Both signs carry a weight; SGD in float64, so that steps can be divided by the learning rate to give gradients.
BASE = {
    "grid": "unset",
    "steps": 2,
    "policy.dtype": "float64",
    "objective.name": "reinforce",
    "objective.clip_low": "unset",
    "objective.clip_high": "unset",
    "optimizer.name": "sgd",
    "optimizer.lr": 0.5,
    "optimizer.max_grad_norm": "unset",
    "rollout.prompts": 8,
    "update.rows": "keep",
    "update.minibatches": 2,
    "eval.every": 10,
    "eval.prompts": 1,
    "eval.final_prompts": 1,
    "eval.samples": 0,
    "record.tokens": 0.0,
    "record.contexts": 0,
    "record.checkpoint": False,
}


@dataclass
class Update:
    """One update as it was made; the weights of each rollout by its number."""

    rows: list[int]
    lr: float
    skipped: bool
    grad_norm: dict[str, float]
    value_loss: float | None
    theta: torch.Tensor
    tokens: dict[int, dict[str, Any]]


@dataclass
class Seen:
    """A small run: its stages and what they were made of."""

    config: RunConfig
    theta: torch.Tensor
    updates: list[Update]
    batches: list[Any]
    targets: list[Any]
    tables: dict[str, pd.DataFrame]
    files: list[str]
    stages: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        batch, first = self.batches[0], next((u for u in self.updates if u.tokens), None)
        each = {} if first is None else first.tokens
        self.stages = {
            "base": self.theta,
            "prompts": [p.prompt_id for p in batch.prompts],
            "responses": [batch.responses, batch.sampling_log_probs, batch.entropy],
            "rewards": [batch.correct, batch.flipped, batch.rewards],
            "advantages": [self.targets[0].advantages, self.targets[0].token_advantages]
            if self.targets
            else [batch.advantages, None],
            "minibatches": [(u.rows, u.skipped) for u in self.updates[: self.per_step()]],
            "weights": {i: one["weights"] for i, one in each.items()},
            "regularisers": {i: [one["kl_weights"], one["entropy_weights"]] for i, one in each.items()},
            "step": self.updates[0].theta if self.updates else None,
            "run": [[u.theta for u in self.updates], [u.lr for u in self.updates]],
            "evaluations": self.tables["evals"],
            "records": [self.tables[name] for name in self.tables if name != "evals"],
            "files": self.files,
        }

    def per_step(self) -> int:
        return len(self.updates) // self.config.steps

    def step(self, update: int) -> torch.Tensor:
        """Δθ of one update."""
        return self.updates[update].theta - (self.updates[update - 1].theta if update else self.theta)

    def first(self, name: str) -> torch.Tensor:
        """A quantity of the tokens of the first update that has any, one rollout after the other."""
        each = next(u for u in self.updates if u.tokens).tokens
        return torch.cat([each[i][name] for i in sorted(each)])


@functools.cache
def look(settings: tuple[tuple[str, Any], ...]) -> Seen:
    (planned,) = Recipe.load("tiny").set(**BASE).set(**dict(settings)).expand()
    updates: list[Update] = []
    batches: list[Any] = []
    targets_of: dict[int, Any] = {}  # of each step

    def flat() -> torch.Tensor:
        return torch.cat([p.detach().flatten() for p in loop.policy.model.parameters()])

    def watch(index: Any, batch: Any, targets: Any, result: Any) -> None:
        targets_of.setdefault(index.step, targets)
        tokens = {}
        for one in result.passes:
            for b, i in enumerate(one.rows.tolist()):
                real = one.mask[b]
                names = (
                    "weights",
                    "kl_weights",
                    "entropy_weights",
                    "ratio",
                    "clip",
                    "advantages",
                    "log_probs",
                    "old_log_probs",
                    "ref_log_probs",
                    "logits",
                )
                values = {name: getattr(one, name) for name in names}
                tokens[i] = {k: v if v is None else v[b][real] if v.ndim > 1 else v[b] for k, v in values.items()}
        updates.append(
            Update(
                sorted(tokens),
                loop.optimizer.param_groups[0]["lr"],
                result.skipped,
                result.grad_norm,
                result.value_loss,
                flat(),
                tokens,
            )
        )

    collect = loop_module.collect_rollouts

    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:

        def kept(*arguments: Any, **named: Any) -> Any:
            batches.append(collect(*arguments, **named))
            return batches[-1]

        patch.setattr(loop_module, "collect_rollouts", kept)
        loop = loop_module.Loop(planned.config, Path(name) / "run", run_id="r", label="L")
        loop.on_update = watch
        theta = flat()
        assert loop.run() == "complete"
        trace = load_trace(Path(name) / "run")
        tables = {table: trace.table(table) for table in TABLES if table != "timings"}
        files = sorted(str(p.relative_to(name)) for p in Path(name).rglob("*") if p.is_file())
    return Seen(planned.config, theta, updates, batches, list(targets_of.values()), tables, files)


def same(a: Any, b: Any) -> bool:
    """Equal bit for bit, dtypes and missing values included."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, pd.DataFrame):
        return repr(a.to_dict("list")) == repr(b.to_dict("list"))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b
