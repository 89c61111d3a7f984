"""The settings of an offline trace, which identify it: a trace is resumed only with those that it was started with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import UsageError

__all__ = ["RECORD_COLUMNS", "TraceSettings", "check_batch_tokens"]

RECORD_COLUMNS = ("full", "core")


@dataclass(frozen=True)
class TraceSettings:
    """Everything that the records of a trace depend on besides model, tokenizer and file.

    `threshold`: a reward above it counts as 1, any other as 0; unset, rewards stay as they are. `on_policy`: the model
    itself sampled the rollouts, so its log-probs are the old ones. `verifier` is a name of `toy_models.verifiers`.
    `chat_template` is the name of a template where the tokenizer has several. `template_arguments` are variables of the
    template. `new_turn`: an assistant's message at the end of a prompt is complete. `bos`: each prompt begins with the
    tokenizer's start token. `responses_apart`: a response is a text of its own, for tokenizers that mark where one
    starts. `record_columns`: "core" leaves ranks, buckets and top tokens out. `record_tokens`: fraction of the prompts
    whose tokens are recorded; the others do not go through the model. `share`: NUMBER/COUNT of the file's groups.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    chat_template: bool | str = False
    eos: bool = False
    temperature: float = 1.0
    threshold: float | None = None
    on_policy: bool = False
    verifier: str | None = None
    skip_bad: bool = False
    top_k: int = 8
    template_arguments: Mapping[str, Any] = field(default_factory=dict)
    new_turn: bool = False
    bos: bool = False
    responses_apart: bool = False
    record_columns: str = "full"
    record_tokens: float = 1.0
    share: str | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise UsageError(f"temperature: expected a positive number, got {self.temperature}; greedy has no gradient")
        if (self.template_arguments or self.new_turn) and not self.chat_template:
            name = "template_arguments" if self.template_arguments else "new_turn"
            raise UsageError(f"{name}: only a chat template reads it; add chat_template (--chat-template)")
        if self.top_k < 0:
            raise UsageError(f"top_k: expected a number of tokens, 0 for none, got {self.top_k}")
        if self.record_columns not in RECORD_COLUMNS:
            raise UsageError(
                f"record_columns: expected one of {', '.join(RECORD_COLUMNS)}, got {self.record_columns!r}; "
                "core leaves ranks, buckets and top tokens out"
            )
        if not 0 < self.record_tokens <= 1:
            raise UsageError(
                f"record_tokens: expected a fraction above 0 and at most 1, got {self.record_tokens}; "
                "0.125 records the tokens of every eighth prompt"
            )
        if self.threshold is not None and not math.isfinite(self.threshold):
            raise UsageError(f"threshold: expected a finite number, got {self.threshold}")


def check_batch_tokens(batch_tokens: int) -> None:
    """UsageError for a number of tokens below 1."""
    if batch_tokens < 1:
        raise UsageError(f"batch_tokens: expected at least 1, got {batch_tokens}")
