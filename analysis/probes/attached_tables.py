"""Rows of the record tables from watched passes: which prompts are recorded, the tables in memory, the run folder."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor

from toy_models.tasks.task import prompt_hash

from ..common.provenance import machine_info
from ..errors import UsageError
from ..laws import TokenStatistics
from ..records.encoding import record_batch
from ..records.reader import Run, to_pandas
from ..records.schema import arrow_schema
from ..records.writer import RunWriter
from .output_heads import OutputHead
from .record_spec import RecordSpec
from .token_alignment import LinedUp

__all__ = ["AttachedTables", "PassRows"]

_TABLES = ("prompts", "rollouts", "tokens")
_STATISTICS = (
    "log_prob",
    "one_minus_prob",
    "entropy",
    "collision",
    "collision_log_prob",
    "direction_norm",
    "argmax_token",
    "argmax_prob",
    "token_rank",
    "top_ids",
    "top_probs",
)


@dataclass(frozen=True)
class PassRows:
    """One forward pass whose gradient was caught: n tokens at (row, column) of its B sequences."""

    lined: LinedUp
    chosen: Tensor  # (B,) bool, rows that are recorded
    row: Tensor  # (n,)
    column: Tensor  # (n,) position among the logits
    stats: TokenStatistics  # (n,)
    weight: Tensor  # (n,)
    residual: Tensor | None  # (n,)
    entropy_weight: Tensor | None  # (n,)


class AttachedTables:
    """The tables of one `attach`; `open` before the first update, `add` for each, `close` at the end."""

    def __init__(
        self, head: OutputHead, spec: RecordSpec, temperature: float, tokenizer: Any, out: str | Path | None
    ) -> None:
        self._head, self._spec, self._temperature, self._tokenizer = head, spec, temperature, tokenizer
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        self._rank = torch.distributed.get_rank() if distributed else 0
        several = distributed and torch.distributed.get_world_size() > 1
        self._folder = None if out is None else Path(out) / f"r{self._rank}" if several else Path(out)
        self._writer: RunWriter | None = None
        self._rows: dict[str, list[pa.RecordBatch]] = {name: [] for name in _TABLES}  # not yet committed
        self._handed = dict.fromkeys(_TABLES, 0)  # how many of them the writer has been given
        self._seen: set[str] = set()
        self._chosen: set[str] = set()  # prompts of this update that are recorded
        self._update = 0
        eos = getattr(getattr(head.model, "generation_config", None), "eos_token_id", None)
        self._eos = set(eos) if isinstance(eos, list | tuple) else {eos} - {None}

    def open(self) -> None:
        if self._folder is not None:
            self._writer = RunWriter(self._folder, run_json=self._run_json(self._folder.name))

    def _run_json(self, run_id: str) -> dict[str, Any]:
        made_with = machine_info()
        parameter = next(self._head.model.parameters())
        return {
            "run_id": run_id,
            "label": run_id,
            "engine": "attach",
            "recipe": None,
            "hash": None,
            "seed": None,
            "temperature": self._temperature,
            "versions": made_with["versions"],
            "git_commit": made_with["commit"],
            "machine": made_with["machine"],
            "threads": torch.get_num_threads(),
            "device": str(parameter.device),
            "dtype": str(parameter.dtype).removeprefix("torch."),
            "record": asdict(self._spec) | {"head": self._head.description},
        }

    def choose(self, lined: LinedUp) -> Tensor:
        """(B,) bool, the rows of a pass whose tokens are recorded: all of a prompt's or none of them."""
        ids = [prompt_hash(prompt) for prompt in lined.prompts]
        if self._spec.tokens < 1:
            draws = {name: self._draw(name) for name in ids}
            self._chosen |= {name for name, draw in draws.items() if draw < self._spec.tokens}
            if not self._chosen and draws:
                self._chosen.add(min(draws, key=lambda name: draws[name]))
            return torch.tensor([name in self._chosen for name in ids], dtype=torch.bool)
        return torch.ones(len(ids), dtype=torch.bool)

    def _draw(self, prompt_id: str) -> float:
        """Uniform on [0, 1), the same for every pass of this update."""
        digest = hashlib.sha256(f"{self._spec.seed}:{self._update}:{prompt_id}".encode()).digest()
        return int.from_bytes(digest[:8], "big") / 2**64

    def add(
        self,
        passes: list[PassRows],
        rewards: Tensor | Sequence[float] | None,
        advantages: Tensor | Sequence[float] | None,
    ) -> None:
        """File one update."""
        n = sum(len(one.lined) for one in passes)
        reward, advantage = _numbers("rewards", rewards, n), _numbers("advantages", advantages, n)
        prompts = [prompt for one in passes for prompt in one.lined.prompts]
        ids = [prompt_hash(prompt) for prompt in prompts]
        chosen = torch.cat([one.chosen for one in passes]).tolist()
        self._add_prompts(ids, prompts, chosen)
        self._append("rollouts", self._rollouts(passes, ids, chosen, reward, advantage))
        first = 0
        for one in passes:
            self._append("tokens", self._tokens(one, first, advantage))
            first += len(one.lined)
        self._update += 1
        self._chosen = set()

    def commit_when_due(self) -> None:
        """Commit if a whole chunk of updates has been filed since the last commit."""
        if self._writer is not None and self._update - (self._writer.committed_step or 0) >= self._spec.chunk:
            self._commit()

    def _add_prompts(self, ids: list[str], prompts: list[list[int]], chosen: list[bool]) -> None:
        new = {name: prompt for name, prompt, keep in zip(ids, prompts, chosen, strict=True) if keep}
        new = {name: prompt for name, prompt in new.items() if name not in self._seen}
        self._seen |= new.keys()
        self._append(
            "prompts",
            {
                "prompt_id": list(new),
                "split": ["train"] * len(new),
                "text": [self._text(p) for p in new.values()],
                "token_ids": list(new.values()),
            },
        )

    def _rollouts(
        self,
        passes: list[PassRows],
        ids: list[str],
        chosen: list[bool],
        reward: np.ndarray | None,
        advantage: np.ndarray | None,
    ) -> dict[str, Any]:
        responses = [response for one in passes for response in one.lined.responses]
        groups = {name: number for number, name in enumerate(dict.fromkeys(ids))}
        at = [i for i, keep in enumerate(chosen) if keep]
        return {
            "step": [self._update] * len(at),
            "rollout": at,
            "rank": self._rank,
            "prompt_id": [ids[i] for i in at],
            "group": [groups[ids[i]] for i in at],
            "response_ids": [responses[i] for i in at],
            "response_text": [self._text(responses[i]) for i in at],
            "length": [len(responses[i]) for i in at],
            "finished": [bool(responses[i]) and responses[i][-1] in self._eos for i in at],
            "reward": None if reward is None else reward[at],
            "noise_flipped": False,
            "advantage": None if advantage is None else advantage[at],
            "dropped": False,
        }

    def _tokens(self, one: PassRows, first: int, advantage: np.ndarray | None) -> dict[str, Any]:
        row, column = one.row.cpu(), one.column.cpu()
        found = {name: getattr(one.stats, name) for name in _STATISTICS}
        return {
            "update": self._update,
            "step": self._update,
            "rollout": (row + first).numpy(),
            "position": one.lined.position.cpu()[row, column].numpy(),
            "epoch": 0,
            "minibatch": 0,
            "token": one.lined.tokens.cpu()[row, column].numpy(),
            "advantage": None if advantage is None else advantage[(row + first).numpy()],
            "weight": one.weight.cpu().numpy(),
            "residual": _masked(one.residual),
            "entropy_weight": None if one.entropy_weight is None else one.entropy_weight.cpu().numpy(),
        } | {name: None if values is None else values.cpu().numpy() for name, values in found.items()}

    def _text(self, ids: list[int]) -> str:
        return "" if self._tokenizer is None else str(self._tokenizer.decode(ids))

    def _append(self, table: str, columns: dict[str, Any]) -> None:
        batch = record_batch(table, columns)
        if batch.num_rows:
            self._rows[table].append(batch)

    def _commit(self) -> None:
        assert self._writer is not None
        if self._update == (self._writer.committed_step or 0):
            return
        for table, batches in self._rows.items():
            for batch in batches[self._handed[table] :]:
                self._writer.append(table, {name: batch.column(name) for name in batch.schema.names})
            self._handed[table] = len(batches)
        self._writer.commit(self._update, {})  # keeps what it was handed where this fails
        for table, batches in self._rows.items():
            batches.clear()
            self._handed[table] = 0

    def frames(self) -> dict[str, pd.DataFrame]:
        """The tables so far, committed or not."""
        run = None if self._folder is None or self._writer is None else Run(self._folder)
        out = {}
        for table, batches in self._rows.items():
            rows = pa.Table.from_batches(batches, schema=arrow_schema(table))
            if run is not None:
                rows = pa.concat_tables([run.table(table, as_="arrow"), rows])
            out[table] = to_pandas(rows)
        return out

    def close(self, status: str) -> None:
        """Commit what was filed, with `status`."""
        if self._writer is not None and self._writer.info["status"] == "running":
            self._commit()
            self._writer.finish(status)


def _numbers(name: str, values: Any, n: int) -> np.ndarray | None:
    if values is None:
        return None
    values = values.detach().cpu().double().numpy() if isinstance(values, Tensor) else values
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{name}: expected {n} numbers, one for each sequence, got {values!r}") from error
    if array.size != n or array.ndim > 2:
        raise UsageError(
            f"{name}: expected {n} numbers, one for each sequence of this update in the order of its "
            f"forward passes, got shape {array.shape}"
        )
    array = array.reshape(-1)
    if not np.isfinite(array).all():
        at = int(np.flatnonzero(~np.isfinite(array))[0])
        raise UsageError(f"{name}: expected finite numbers, got {array[at]} at index {at}")
    return array


def _masked(values: Tensor | None) -> Any:
    """NaN, a residual of nothing, as missing."""
    if values is None:
        return None
    array = values.cpu().numpy()
    return np.ma.masked_array(array, np.isnan(array))
