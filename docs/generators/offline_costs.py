"""What traces of recorded rollouts cost: bytes a token by what is recorded, and seconds for reading and encoding.

Sizes are those of the tables of a trace with all columns, written again without some of them. Texts and token ids of
its rollouts are read and encoded from files of JSON Lines, a few times over, so that fixed costs do not count.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from analysis import Run
from analysis.errors import UsageError
from analysis.offline import TraceSettings, read_rollouts
from analysis.offline.tokenization import ModelLimits, encode_rollouts
from analysis.offline.trace_identity import trace_digest
from analysis.records.encoding import parquet_bytes
from analysis.records.folders import TOKENIZER_FILE

__all__ = ["offline_costs"]

_TOP = ("top_ids", "top_probs")
_RANKS = ("token_rank", "bucket_mass", "bucket_mass_sq")
_ROLLOUTS = 2000  # that are read


def offline_costs(folder: Path) -> dict[str, Any]:
    """Bytes and CPU seconds a response token, from the folder of a trace with all columns.

    Raises:
        UsageError: a folder of something else.
    """
    run = Run(folder)
    tokens = run.table("tokens", as_="arrow")
    if run.info["engine"] != "offline" or not len(tokens) or tokens.column("bucket_mass").null_count:
        raise UsageError(f"offline: expected the folder of an offline trace with all columns, got {folder}")
    sizes = {
        "full": tokens,
        "without_top": _without(tokens, _TOP),
        "core": _without(tokens, (*_TOP, *_RANKS)),
    }
    rollouts = run.table("rollouts", as_="arrow")
    response_tokens = sum(rollouts.column("length").to_pylist())
    beside = sum(part.stat().st_size for name in ("rollouts", "prompts") for part in (folder / name).iterdir())
    return {
        "label": run.label,
        "vocab": run.info["trace"]["vocab"],
        "tokens": len(tokens),
        "mean_response": response_tokens / len(rollouts),
        "bytes": {name: len(parquet_bytes(table)) / len(tokens) for name, table in sizes.items()},
        "bytes_beside": beside / response_tokens,
        "reading_seconds": {kind: _reading(run, kind) for kind in ("ids", "texts")},
    }


def _without(tokens: pa.Table, names: Sequence[str]) -> pa.Table:
    for name in names:
        place = tokens.schema.get_field_index(name)
        field = tokens.schema.field(place)
        tokens = tokens.set_column(place, field, pa.nulls(len(tokens), field.type))
    return tokens


def _reading(run: Run, kind: str) -> float:
    """CPU seconds a response token to read, encode and digest."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(run.folder / TOKENIZER_FILE))
    rollouts = run.table("rollouts", as_="arrow").to_pylist()
    prompts = {row["prompt_id"]: row for row in run.table("prompts", as_="arrow").to_pylist()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rollouts.jsonl"
        with path.open("w", encoding="utf-8") as file:
            for place in range(_ROLLOUTS):
                row = rollouts[place % len(rollouts)]
                prompt = prompts[row["prompt_id"]]
                values = {
                    "ids": {"prompt_ids": prompt["token_ids"], "response_ids": row["response_ids"]},
                    "texts": {"prompt": prompt["text"], "response": row["response_text"]},
                }
                file.write(json.dumps(values[kind] | {"reward": float(place % 2), "group": place // 4}) + "\n")
        start = time.process_time()
        read = read_rollouts(path, columns={"group": "-"})
        limits = ModelLimits(run.info["trace"]["vocab"], None)
        settings = TraceSettings(read.columns)
        items = encode_rollouts(read.rollouts, tokenizer, limits, settings, read.columns, read.bad, ends=())
        trace_digest(items)
        return (time.process_time() - start) / sum(len(item.response) for item in items)
