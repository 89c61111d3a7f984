"""What identifies a trace: everything that its numbers depend on, part by part.

The token ids, texts and numbers of the rollouts as they were read are one part, so that whatever changes how they are
read is noticed, even where it has no part of its own (a template that writes today's date).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch

from toy_models.verifiers import Verifier

from ..common.identity import (
    code_of,
    model_configuration,
    numeric_versions,
    own_hooks,
    text_digest,
    tokenizer_digest,
)
from ..probes.output_heads import unwrap
from .reading import RolloutFile
from .tokenization import Encoded
from .trace_settings import TraceSettings

__all__ = ["identity_digest", "trace_digest", "trace_identity"]

_CODE = (
    "analysis/laws",
    "analysis/offline",
    "analysis/probes/output_heads.py",
    "analysis/records/encoding.py",
    "analysis/records/rows.py",
    "analysis/token_stats",
    "toy_models/batch_dependence.py",
    "toy_models/end_tokens.py",
    "toy_models/plain_values.py",
    "toy_models/table_files.py",
    "toy_models/table_formats.py",
    "toy_models/tasks/start_tokens.py",
    "toy_models/tasks/task.py",
    "toy_models/tasks/texts.py",
    "toy_models/torch_tables.py",
    "toy_models/user_functions.py",
    "toy_models/verifiers",
)


def trace_identity(
    model: Any,
    tokenizer: Any,
    file: RolloutFile,
    items: Sequence[Encoded],
    settings: TraceSettings,
    judge: Verifier | None,
    *,
    weights: str,
    ends: Sequence[int],
) -> dict[str, str]:
    """Name of each part -> its value or digest.

    Args:
        model: The causal language model.
        tokenizer: Its tokenizer.
        file: The rollouts as they were read.
        items: The rollouts as they were encoded.
        settings: Of the trace.
        judge: The verifier, if there is one.
        weights: `weights_hash` of the model.
        ends: The tokens that end a response.
    """
    inner: Any = unwrap(model)
    # a template is read for messages even where their ids are given: records show the text
    templated = settings.chat_template or any(isinstance(rollout.prompt, list) for rollout in file.rollouts)
    return {
        "weights": weights,
        "configuration of the model": model_configuration(inner),
        "attention implementation": str(getattr(inner.config, "_attn_implementation", None)),
        "dtype": str(inner.dtype).removeprefix("torch."),
        "precision of float32 products": torch.get_float32_matmul_precision(),
        "autocast": _autocast(inner.device.type),
        "forward hooks": own_hooks(inner),
        "tokenizer": tokenizer_digest(tokenizer),
        "chat template": text_digest(tokenizer.chat_template) if templated else "unused",
        "end tokens": ", ".join(map(str, ends)),
        "content of the rollouts": file.sha256,
        "rollouts as they were read": trace_digest(items),
        "verifier": "none" if judge is None else text_digest(judge.identity),
        **{f"setting {name}": _plain(value) for name, value in asdict(settings).items()},
        **numeric_versions(),
        "code that traces": code_of(*_CODE),
    }


def identity_digest(parts: Mapping[str, str]) -> str:
    """SHA-256 over all parts."""
    return text_digest(dict(parts))


def _autocast(device: str) -> str:
    if not torch.is_autocast_enabled(device):
        return "off"
    return str(torch.get_autocast_dtype(device)).removeprefix("torch.")


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def trace_digest(items: Sequence[Encoded]) -> str:
    """SHA-256 over the token ids, texts and numbers of the rollouts as they were read."""
    digest = hashlib.sha256()
    for item in items:
        parts = (item.rollout, item.prompt_text, item.response_text, item.judged_text, item.question, item.group)
        digest.update(repr((*parts, item.finished, len(item.prompt))).encode("utf-8", "surrogatepass"))
        digest.update(item.prompt.tobytes() + item.response.tobytes())
    return digest.hexdigest()
