"""Rows of the record tables from watched passes: which prompts are recorded, the tables in memory, the run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor

from toy_models.end_tokens import end_tokens
from toy_models.tasks.task import prompt_hash

from ..common.provenance import machine_info
from ..errors import UsageError
from ..laws import TokenStatistics
from ..records.encoding import Columns, record_batch
from ..records.folders import RUN_FILE, TOKENIZER_FILE, read_commits, read_run_json
from ..records.frames import with_units
from ..records.reader import Run, to_pandas
from ..records.rows import (
    PromptRow,
    RolloutRow,
    TokenColumns,
    prompt_rows,
    rollout_rows,
    statistics_columns,
    token_rows,
)
from ..records.schema import TABLES, arrow_schema
from ..records.token_text import with_token_text
from ..records.writer import RunWriter
from .handed_values import group_keys, numbers, sequence_numbers
from .output_heads import OutputHead
from .process_ranks import process_ranks
from .record_spec import RecordSpec
from .token_alignment import LinedUp

__all__ = ["AttachedTables", "Decoder", "HandedUpdate", "PassRows"]

_TABLES = ("prompts", "rollouts", "tokens")


class Decoder(Protocol):
    """What is used of a tokenizer: the text of token ids."""

    def decode(self, token_ids: list[int], /) -> str:
        """The text."""


@dataclass(frozen=True)
class PassRows:
    """One forward pass whose gradient was caught: n recorded tokens at (row, column) of its S sequences."""

    lined: LinedUp
    chosen: Tensor  # (S,) bool, sequences that are recorded
    row: Tensor  # (n,)
    column: Tensor  # (n,) position among the logits
    stats: TokenStatistics  # (n,)
    weight: Tensor  # (n,)
    residual: Tensor | None  # (n,)
    entropy_weight: Tensor | None  # (n,)
    unmeasured: Tensor | None  # (n,) bool
    least_residual: Tensor | None = None  # (n,) where the logits that the residual needs were lost


@dataclass(frozen=True)
class HandedUpdate:
    """One update of this rank: its passes, and of each of its S sequences what was handed to `step`."""

    passes: list[PassRows]
    ids: list[str]
    prompts: list[list[int]]
    responses: list[list[int]]
    chosen: list[bool]
    rewards: np.ndarray | None  # (S,)
    advantages: np.ndarray | None  # (S,)
    old_log_probs: list[np.ndarray] | None
    groups: list[tuple[Any, str]]

    def share(self) -> tuple[int, list[tuple[Any, str]]]:
        """What other ranks need to know of it."""
        return len(self.ids), self.groups


class AttachedTables:
    """The tables of one `attach`; `open` before the first update, `add` for each, `close` at the end."""

    def __init__(
        self, head: OutputHead, spec: RecordSpec, temperature: float, tokenizer: Decoder | None, out: str | Path | None
    ) -> None:
        self._head, self._spec, self._temperature, self._tokenizer = head, spec, temperature, tokenizer
        self.ranks = process_ranks()
        self._folder = None if out is None else Path(out)
        self._writer: RunWriter | None = None
        self._rows: dict[str, list[pa.RecordBatch]] = {name: [] for name in _TABLES}  # not yet committed
        self._handed = dict.fromkeys(_TABLES, 0)  # how many of them the writer has been given
        self._seen: set[str] = set()
        self._chosen: set[str] = set()  # prompts of this update that are recorded
        self._update = 0
        self._tokens_seen, self._unmeasured = 0, 0
        self._eos = set(end_tokens(tokenizer, head.model))

    @property
    def updates(self) -> int:
        """Updates recorded so far."""
        return self._update

    @property
    def unmeasured(self) -> int:
        """Recorded tokens whose weight is missing, because the gradient does not tell it."""
        return self._unmeasured

    @property
    def folder(self) -> Path | None:
        """The run folder, of all ranks; None where records stay in memory."""
        return self._folder

    def open(self, resume: bool | int = False) -> None:
        """Make the run folder, where there is to be one, or open it again."""
        if self._folder is None:
            if resume is not False:
                raise UsageError("resume: expected out=, the folder of the run to resume, got None; give both")
            return
        run_json = self._run_json(self._folder.name)
        # rank 0 alone looks, since it also makes the folder
        folder, rank, given = self._folder, self.ranks.rank, resume
        resume = self.ranks.agree(lambda: given if rank else _checked_resume(folder, given, run_json))[0]
        self._writer = RunWriter(self._folder, run_json=run_json, resume=resume, ranks=self.ranks)
        if self._writer.committed_step:
            self._continue(Run(self._folder), self._writer.committed_step)
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is not None and not self.ranks.rank:  # so that readers of the folder know the text of tokens
            backend.save(str(self._folder / TOKENIZER_FILE))

    def _continue(self, run: Run, step: int) -> None:
        self._update = step
        self._seen = set(run.table("prompts", ["prompt_id"], as_="arrow").column("prompt_id").to_pylist())
        if not self.ranks.rank:  # counts of all ranks are added up
            weights = run.table("tokens", ["weight"], as_="arrow").column("weight")
            self._tokens_seen, self._unmeasured = len(weights), weights.null_count

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
        """(S,) bool, the sequences of a pass whose tokens are recorded: all of a prompt's or none of them."""
        ids = [None if i in lined.unknown else prompt_hash(prompt) for i, prompt in enumerate(lined.prompts)]
        if self._spec.tokens < 1:
            draws = {name: self._spec.draw(self._update, name) for name in ids if name is not None}
            self._chosen |= {name for name, draw in draws.items() if draw < self._spec.tokens}
            if not self._chosen and draws and self.ranks.count == 1:
                self._chosen.add(min(draws, key=lambda name: draws[name]))
            return torch.tensor([name in self._chosen for name in ids], dtype=torch.bool)
        return torch.tensor([name is not None for name in ids], dtype=torch.bool)

    def check(
        self,
        passes: list[PassRows],
        rewards: Tensor | Sequence[float] | None,
        advantages: Tensor | Sequence[float] | None,
        groups: Tensor | Sequence[Any] | None = None,
        old_log_probs: Sequence[Tensor | Sequence[float]] | None = None,
    ) -> HandedUpdate:
        """One update with what belongs to its sequences; UsageError where numbers do not fit them."""
        prompts = [prompt for watched in passes for prompt in watched.lined.prompts]
        responses = [response for watched in passes for response in watched.lined.responses]
        ids = [prompt_hash(prompt) for prompt in prompts]
        chosen = torch.cat([watched.chosen for watched in passes]).tolist()
        return HandedUpdate(
            passes,
            ids,
            prompts,
            responses,
            chosen,
            numbers("rewards", rewards, len(ids)),
            numbers("advantages", advantages, len(ids)),
            sequence_numbers(old_log_probs, [len(response) for response in responses]),
            group_keys(groups, ids, chosen),
        )

    def add(self, update: HandedUpdate, shares: Sequence[tuple[int, list[tuple[Any, str]]]]) -> None:
        """Record one update; where this fails nothing of it is kept, and it can be handed in again.

        Args:
            update: what `check` returned on this rank.
            shares: of every rank, how many sequences it has and their groups.
        """
        filed = {table: len(batches) for table, batches in self._rows.items()}
        before = set(self._seen), self._tokens_seen, self._unmeasured
        try:
            self._add(update, shares)
        except BaseException:
            for table, length in filed.items():
                del self._rows[table][length:]
            self._seen, self._tokens_seen, self._unmeasured = before
            raise
        self._update += 1
        self._chosen = set()

    def _add(self, update: HandedUpdate, shares: Sequence[tuple[int, list[tuple[Any, str]]]]) -> None:
        first = sum(count for count, _ in shares[: self.ranks.rank])
        order = {key: number for number, key in enumerate(dict.fromkeys(key for _, keys in shares for key in keys))}
        self._add_prompts(update)
        self._add_rollouts(update, first, [order[key] for key in update.groups])
        own = 0
        for watched in update.passes:
            self._append("tokens", token_rows(self._tokens(watched, own, first, update)))
            own += len(watched.lined)

    def commit_when_due(self) -> None:
        """Commit if a whole chunk of updates has been recorded since the last commit."""
        if self._writer is not None and self._update - (self._writer.committed_step or 0) >= self._spec.chunk:
            self.commit()

    def _add_prompts(self, update: HandedUpdate) -> None:
        named = zip(update.ids, update.prompts, update.chosen, strict=True)
        new = {name: prompt for name, prompt, keep in named if keep and name not in self._seen}
        self._seen |= new.keys()
        rows = [
            PromptRow(prompt_id=name, split="train", text=self._text(prompt), token_ids=prompt)
            for name, prompt in new.items()
        ]
        self._append("prompts", prompt_rows(rows))

    def _add_rollouts(self, update: HandedUpdate, first: int, groups: list[int]) -> None:
        reward, advantage = update.rewards, update.advantages
        rows = [
            RolloutRow(
                step=self._update,
                rollout=first + i,
                rank=self.ranks.rank,
                prompt_id=update.ids[i],
                group=groups[i],
                response_ids=update.responses[i],
                response_text=self._text(update.responses[i]),
                finished=bool(update.responses[i]) and update.responses[i][-1] in self._eos,
                reward=None if reward is None else float(reward[i]),
                advantage=None if advantage is None else float(advantage[i]),
            )
            for i, keep in enumerate(update.chosen)
            if keep
        ]
        self._append("rollouts", rollout_rows(rows))

    def _tokens(self, watched: PassRows, own: int, first: int, update: HandedUpdate) -> TokenColumns:
        """The recorded tokens of a pass whose first sequence is number `own` of this rank, whose first is `first`."""
        advantage, old = update.advantages, update.old_log_probs
        row, column = watched.row.cpu(), watched.column.cpu()
        sequence = (watched.lined.sequence.cpu()[row, column] + own).numpy()

        def array(values: Tensor | None) -> np.ndarray | None:
            return None if values is None else values.cpu().numpy()

        weight = watched.weight.cpu().numpy()
        self._tokens_seen += len(row)
        if watched.unmeasured is not None:
            weight = np.ma.masked_array(weight, watched.unmeasured.cpu().numpy())
            self._unmeasured += int(watched.unmeasured.sum())

        position = watched.lined.position.cpu()[row, column].numpy()
        statistics = statistics_columns(watched.stats)
        before = None
        if old is not None:
            before = np.array([old[i][j] for i, j in zip(sequence, position, strict=True)], dtype=np.float64)

        return TokenColumns(
            update=self._update,
            step=self._update,
            rollout=sequence + first,
            position=position,
            token=watched.lined.tokens.cpu()[row, column].numpy(),
            statistics=statistics,
            old_log_prob=before,
            ratio=None if before is None else np.exp(statistics["log_prob"] - before),
            advantage=None if advantage is None else advantage[sequence],
            weight=weight,
            residual=array(watched.residual),
            entropy_weight=array(watched.entropy_weight),
        )

    def _text(self, ids: list[int]) -> str:
        return "" if self._tokenizer is None else str(self._tokenizer.decode(ids))

    def _word(self, token: int) -> str | None:
        return None if self._tokenizer is None else self._text([token])

    def _append(self, table: str, columns: Columns) -> None:
        batch = record_batch(table, columns)
        if batch.num_rows:
            self._rows[table].append(batch)

    def commit(self) -> None:
        """Commit the updates so far; every rank calls it."""
        if self._writer is None:
            raise UsageError("commit: expected a run folder, got records that stay in memory; give out= to attach")
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
        self._writer.update_run_json(weights=self._counts())

    def _counts(self) -> dict[str, int]:
        counts = self.ranks.all((self._tokens_seen, self._unmeasured))
        return {"tokens": sum(tokens for tokens, _ in counts), "unmeasured": sum(missing for _, missing in counts)}

    def frames(self) -> dict[str, pd.DataFrame]:
        """The tables so far, committed or not."""
        run = None if self._folder is None or self._writer is None else Run(self._folder)
        out = {}
        for table, batches in self._rows.items():
            rows = pa.Table.from_batches(batches, schema=arrow_schema(table))
            if run is not None:
                rows = pa.concat_tables([run.table(table, as_="arrow"), rows])
            if "token" in rows.column_names:
                rows = with_token_text(rows, self._word)
            out[table] = with_units(to_pandas(rows), TABLES[table].columns)
        return out

    def close(self, status: str) -> None:
        """Commit what was recorded, and end the run with `status`.

        Of several ranks one that failed cannot commit, since the others may not come to meet it.
        """
        if self._writer is not None and self._writer.info["status"] == "running":
            if status == "complete" or self.ranks.count == 1:
                self.commit()
            self._writer.finish(status)


def _checked_resume(folder: Path, resume: bool | int, run_json: Mapping[str, Any]) -> bool | int:
    """`resume` as the writer takes it; UsageError where the folder holds a run that cannot be continued so."""
    if not (folder / RUN_FILE).exists():
        return resume
    if resume is False:
        raise UsageError(
            f"out: expected a new folder, got {folder}, which holds a run already; attach starts a new run each time: "
            "choose another folder, remove this one, or continue its run with resume="
        )
    _check_same(read_run_json(folder), run_json, folder)
    if resume is True:  # also a run that has ended, which the writer reopens at a number of steps alone
        commits = read_commits(folder)
        return commits[-1].step if commits else 0
    return resume


def _check_same(info: Mapping[str, Any], given: Mapping[str, Any], folder: Path) -> None:
    """UsageError where a run was recorded in another way than it is to be resumed."""
    for name in ("engine", "temperature", "record"):
        if info.get(name) != given[name]:
            raise UsageError(
                f"{name}: expected {info.get(name)!r}, as in {folder}, got {given[name]!r}; resume a run with what it "
                "was started with, or record in a new folder"
            )
