"""The resume state of a run: where it stands, and the state of everything in it that changes.

A run folder that was written before must resume, so the keys below stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from ..evaluation import FixedPrefixes

__all__ = ["Position", "Stateful", "fixed_prefixes", "restore", "resume_state"]


class Stateful(Protocol):
    """Anything whose state can be saved and loaded: a model, an optimiser, random streams, a critic."""

    def state_dict(self) -> Any: ...

    def load_state_dict(self, state: Any, /) -> Any: ...


@dataclass
class Position:
    """Where a run stands: its steps, its planned updates and those that were made, and why it diverged if it did."""

    step: int = 0
    update: int = 0
    updates_made: int = 0
    diverged: str | None = None


def resume_state(parts: Mapping[str, Stateful | None], position: Position, fixed: FixedPrefixes) -> dict[str, Any]:
    """The state of the named parts (None where a run has none), its position and the fixed responses of the base."""
    states = {name: None if part is None else part.state_dict() for name, part in parts.items()}
    return states | asdict(position) | {"fixed": asdict(fixed)}


def fixed_prefixes(state: Mapping[str, Any]) -> FixedPrefixes:
    """The fixed responses of the base from a resume state."""
    return FixedPrefixes(**state["fixed"])


def restore(state: Mapping[str, Any], parts: Mapping[str, Stateful | None]) -> Position:
    """Load the parts' states and return the position."""
    for name, part in parts.items():
        if part is not None:
            part.load_state_dict(state[name])
    return Position(state["step"], state["update"], state["updates_made"], state["diverged"])
