"""Statistics of rollouts as further columns of a batch: a callable class for `map_batches` of Ray Data.

A trace writes a run folder; a scorer gives what it measures back to the pipeline that called it, row by row. Reading,
encoding and statistics are those of traces. Rows depend on nothing but themselves, up to the rounding of batches.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch

from toy_models import load_policy
from toy_models.end_tokens import end_tokens
from toy_models.policy import evaluation_mode

from ..common.devices import pick_device
from ..errors import UsageError
from ..probes.output_heads import find_head, unwrap
from ..records.schema import TABLES
from .columns import COLUMNS
from .forward import Forward
from .reading import read_rollouts
from .tokenization import WARNING, Encoded, ModelLimits, encode_rollouts
from .trace_settings import TraceSettings, check_batch_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["RolloutScorer"]

_READ = ("prompt", "response", "prompt_ids", "response_ids", "response_mask", "tools", "template_arguments")
_SUMMARIES = ("length", "sum_log_prob", "mean_entropy")


class RolloutScorer:
    """Statistics of each response token under a model, batch by batch.

    Calling it with a batch of rollouts, one a row, gives the batch with these columns besides:

        position, token        of each token that the policy sampled: lists
        log_prob, entropy, …   one list a row for each of the `statistics`, columns of the table `tokens`
        length                 how many tokens these are
        sum_log_prob           Σ log π_y over them, nats: the log-prob of the response
        mean_entropy           mean H over them, nats; null where there is none

    Each process makes one scorer, which loads the model once.

    Args:
        model: What `load_policy` takes (a folder with a Hugging Face causal LM and its tokenizer, an id of the Hub, a
            GGUF file, a built-in base), or a loaded model.
        tokenizer: Of a loaded model; the others have their own.
        columns: Role -> column, as for `trace_rollouts`; which columns there are must not depend on the batch.
        statistics: Which columns of the table `tokens` to give.
        prefix: Put before the name of each new column.
        chat_template: As for `trace_rollouts`, and so are all that follow.
        template_arguments: Variables of the template.
        new_turn: An assistant's message at the end of a prompt is complete.
        bos: Begin each prompt with the start token.
        eos: End each response with the end token.
        responses_apart: Read each response as a text of its own.
        temperature: T of softmax(logits / T).
        top_k: How many tokens `top_ids` and `top_probs` have.
        skip_bad: Give null for rows that cannot be used, instead of refusing the first.
        batch_tokens: Tokens that go through the model together.
        dtype: Of the weights of a model that is loaded here: float32, bfloat16, float16 or float64.
        device: Of a model that is loaded here: auto, cpu, cuda or cuda:N.

    Raises:
        UsageError: A model that cannot be loaded or has no head that is known, or a setting out of range. When called:
            rows that cannot be read or encoded, several responses in a row, or a new column that is there already.

    Example:
        >>> scored = ray.data.read_json("rollouts.jsonl", lines=True).map_batches(  # doctest: +SKIP
        ...     RolloutScorer, fn_constructor_kwargs={"model": "checkpoint/"}, batch_format="pyarrow", concurrency=8
        ... )
    """

    def __init__(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        columns: Mapping[str, str] | None = None,
        statistics: Sequence[str] = ("log_prob", "entropy", "one_minus_prob", "collision", "collision_log_prob"),
        prefix: str = "",
        chat_template: bool | str = False,
        template_arguments: Mapping[str, Any] | None = None,
        new_turn: bool = False,
        bos: bool = False,
        eos: bool = False,
        responses_apart: bool = False,
        temperature: float = 1.0,
        top_k: int = 8,
        skip_bad: bool = False,
        batch_tokens: int = 8192,
        dtype: str = "float32",
        device: str = "auto",
    ) -> None:
        core = _check_statistics(statistics)
        self._statistics, self._prefix, self._skip_bad = tuple(statistics), prefix, skip_bad
        self._columns = dict.fromkeys((role for role in COLUMNS if role not in _READ), "-") | dict(columns or {})
        if other := [role for role in columns or {} if role not in _READ]:
            raise UsageError(
                f"columns: expected roles among {', '.join(_READ)}, got {other[0]!r}, which a scorer ignores"
            )
        self._settings = TraceSettings(
            {},
            chat_template,
            eos,
            temperature,
            skip_bad=skip_bad,
            top_k=top_k,
            template_arguments=dict(template_arguments or {}),
            new_turn=new_turn,
            bos=bos,
            responses_apart=responses_apart,
            record_columns="core" if core else "full",
        )
        check_batch_tokens(batch_tokens)
        if isinstance(model, str | Path):
            model, tokenizer = _loaded(model, tokenizer, dtype, device)
        elif tokenizer is None:
            raise UsageError(
                "tokenizer: expected that of the loaded model, got None; give it, or a folder as the model"
            )
        self._model, self._tokenizer = model, tokenizer
        self._limits = ModelLimits.of(model)
        self._ends = end_tokens(tokenizer, unwrap(model))
        self._warned = False
        self._forward = Forward(model, find_head(model), self._settings, batch_tokens)

    def __repr__(self) -> str:
        return f"RolloutScorer({type(unwrap(self._model)).__name__}, statistics={self._statistics})"

    def __call__(self, batch: Any) -> pa.Table:
        """The batch with the columns of its tokens.

        Args:
            batch: A dict of columns, an Arrow table or a data frame.

        Returns:
            An Arrow table with the same rows in the same order.
        """
        table = _as_table(batch)
        new = [self._prefix + name for name in ("position", "token", *self._statistics, *_SUMMARIES)]
        if there := [name for name in new if name in table.column_names]:
            raise UsageError(
                f"batch: expected no column {there[0]!r}, which the scorer adds, got one; rename it, or choose "
                "other names with prefix"
            )
        columns = self._scored(self._encoded(table))
        rows = [columns.get(row) for row in range(table.num_rows)]
        for name in new:
            plain = name.removeprefix(self._prefix)
            table = table.append_column(name, pa.array([row and row[plain] for row in rows], _type(plain)))
        return table

    def _encoded(self, table: pa.Table) -> Sequence[Encoded]:
        if not table.num_rows:
            return []
        file = read_rollouts(table, columns=self._columns, skip_bad=self._skip_bad)
        rows = Counter(rollout.row for rollout in file.rollouts)
        if several := next((rollout for rollout in file.rollouts if rows[rollout.row] > 1), None):
            raise UsageError(
                f"{several.where}: expected one response a row, got more responses than rows; give each a row "
                "of its own (flat_map of Ray Data, explode of pandas)"
            )
        settings, notes = replace(self._settings, columns=file.columns), list[str]()
        items = encode_rollouts(
            *(file.rollouts, self._tokenizer, self._limits, settings, file.columns, file.bad),
            ends=self._ends,
            notes=notes,
            inexact=file.inexact,
        )
        if not self._warned and notes and notes[0].startswith(WARNING):
            self._warned = True  # a batch is one of many
            warnings.warn(f"batch: {notes[0].removeprefix(WARNING)}", stacklevel=3)
        return items

    def _scored(self, items: Sequence[Encoded]) -> dict[int, dict[str, Any]]:
        """Number of each row -> the values of its new columns; rows that are not read have none."""
        with evaluation_mode(self._model), torch.no_grad():
            measured = self._forward(self._forward.batches(items), lambda tokens: None, lambda: False, print)
        assert measured is not None  # nothing asked it to stop
        return {item.rollout.row: self._values(item, measured[item.rollout.index]) for item in items}

    def _values(self, item: Encoded, measured: Mapping[str, np.ndarray]) -> dict[str, Any]:
        own = {name: measured[name][item.policy] for name in {*self._statistics, "log_prob", "entropy"}}
        length = item.own_length
        return {
            "position": np.flatnonzero(item.policy),
            "token": item.response[item.policy],
            **{name: list(own[name]) for name in self._statistics},
            "length": length,
            "sum_log_prob": float(own["log_prob"].sum(dtype=np.float64)),
            "mean_entropy": float(own["entropy"].mean(dtype=np.float64)) if length else None,
        }


def _check_statistics(names: Sequence[str]) -> bool:
    """Whether the core columns are enough for these; UsageError for a name that is none."""
    full = {"token_rank", "bucket_mass", "bucket_mass_sq", "top_ids", "top_probs"}
    core = ("log_prob", "one_minus_prob", "entropy", "collision", "collision_log_prob", "direction_norm")
    known = (*core, "argmax_token", "argmax_prob", *sorted(full))
    for name in names:
        if name not in known:
            raise UsageError(f"statistics: expected some of {', '.join(known)}, got {name!r}")
    return not full & set(names)


def _loaded(base: str | Path, tokenizer: Any, dtype: str, device: str) -> tuple[Any, Any]:
    names = ("float32", "bfloat16", "float16", "float64")
    if dtype not in names:
        raise UsageError(f"dtype: expected one of {', '.join(names)}, got {dtype!r}")
    try:
        policy = load_policy(base, dtype=getattr(torch, dtype), device=pick_device(device))
    except ValueError as error:
        raise UsageError(f"model: {str(error).removeprefix('base: ')}") from error
    return policy.model, tokenizer if tokenizer is not None else policy.tokenizer


def _as_table(batch: Any) -> pa.Table:
    if isinstance(batch, pa.Table):
        return batch
    if isinstance(batch, Mapping):
        plain = {name: column.tolist() if hasattr(column, "tolist") else list(column) for name, column in batch.items()}
        return pa.table(plain)
    if hasattr(batch, "columns"):
        return pa.Table.from_pandas(batch, preserve_index=False)
    raise UsageError(f"batch: expected a dict of columns, an Arrow table or a data frame, got {type(batch).__name__}")


def _type(name: str) -> pa.DataType:
    """Arrow's type of a new column."""
    if name in _SUMMARIES:
        return pa.int32() if name == "length" else pa.float64()
    kind = next(column.kind for column in TABLES["tokens"].columns if column.name == name)
    inner = {"float32": pa.float32(), "floats": pa.list_(pa.float32()), "ints": pa.list_(pa.int32())}
    return pa.list_(inner.get(kind, pa.int32()))
