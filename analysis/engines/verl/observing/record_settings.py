"""What the observing engine records: the field `record` of `actor_rollout_ref.actor.fsdp_config`, read and checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from verl.workers.config import FSDPEngineConfig

from ....errors import UsageError
from ....probes.record_spec import RecordSpec

__all__ = ["ON_ERROR", "ObservedEngineConfig", "RecordSettings", "read_record"]

KEY = "actor_rollout_ref.actor.fsdp_config.record"
ON_ERROR = ("stop", "warn")
_OF_SPEC = ("tokens", "top_k", "rank", "chunk", "seed")


@dataclass(frozen=True)
class RecordSettings:
    """What is recorded, and where.

    Attributes:
        out: the run folder, seen by the workers of all nodes.
        spec: which tokens, how many of the most probable ones, and how many updates are in a commit.
        correct: a response whose reward is above this counts as correct.
        on_error: what an error of recording does: "stop" ends training, "warn" ends recording.
        label: name of the method in tables and figures; None names the policy loss.
    """

    out: Path
    spec: RecordSpec
    correct: float = 0.5
    on_error: str = "stop"
    label: str | None = None


def read_record(record: Mapping[str, Any]) -> RecordSettings:
    """The settings of a mapping, as it stands in verl's configuration.

    Args:
        record: `out`, and as needed `tokens`, `top_k`, `rank`, `chunk` and `seed` as in `RecordSpec`, `correct`,
            `on_error` and `label`.

    Returns:
        The settings, checked.

    Raises:
        UsageError: `out` is missing, a key is unknown or a value is out of range.

    >>> read_record({"out": "runs/mine", "tokens": 1}).spec.tokens
    1
    """
    known = ("out", *_OF_SPEC, "correct", "on_error", "label")
    if unknown := [name for name in record if name not in known]:
        raise UsageError(f"{KEY}: expected the keys {', '.join(known)}, got {', '.join(map(str, unknown))}; remove it")
    out = record.get("out")
    if not isinstance(out, str | Path) or not str(out):
        raise UsageError(f"{KEY}.out: expected a folder that all nodes share, got {out!r}; add +{KEY}.out=runs/mine")
    correct = record.get("correct", 0.5)
    if isinstance(correct, bool) or not isinstance(correct, int | float) or not math.isfinite(correct):
        raise UsageError(f"{KEY}.correct: expected a finite number, got {correct!r}; a reward above it is correct")
    on_error = record.get("on_error", "stop")
    if on_error not in ON_ERROR:
        raise UsageError(f"{KEY}.on_error: expected one of {', '.join(ON_ERROR)}, got {on_error!r}")
    label = record.get("label")
    if label is not None and (not isinstance(label, str) or not label):
        raise UsageError(f"{KEY}.label: expected a text, got {label!r}; it names the method in tables and figures")
    tokens = record.get("tokens", RecordSpec.tokens)
    if isinstance(tokens, bool) or not isinstance(tokens, int | float):
        raise UsageError(f"{KEY}.tokens: expected a fraction above 0 and at most 1, got {tokens!r}")
    spec = RecordSpec(**{name: record[name] for name in _OF_SPEC if name in record})
    return RecordSettings(Path(out).expanduser(), spec, float(correct), on_error, label)


@dataclass
class ObservedEngineConfig(FSDPEngineConfig):
    """verl's configuration of an FSDP engine, and what is to be recorded of it.

    Set `actor_rollout_ref.actor.fsdp_config._target_=analysis.engines.verl.ObservedEngineConfig`, and below it
    `+record.out=…`; `read_record` names the other keys.

    Raises:
        UsageError: an invalid record.
    """

    record: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.settings()

    def settings(self) -> RecordSettings:
        """The record as settings."""
        return read_record(dict(self.record))
