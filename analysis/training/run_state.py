"""The resume state of a run: where it stands, and the state of everything in it that changes.

A run folder that was written before must resume, so the keys below stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from ..errors import UsageError
from ..evaluation import FixedPrefixes

__all__ = ["Position", "Stateful", "check_reference", "fixed_prefixes", "restore", "resume_state"]


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


def check_reference(
    reference: Stateful | None,
    state: Mapping[str, Any],
    stored: Mapping[str, Any],
    resumed: Mapping[str, Any],
    *,
    frozen: bool = False,
) -> None:
    """What a resumed run has of its base, as it was loaded again, must be that of its start: reference, frozen weights.

    They are not part of the resume state, being as large as the model; a reference in states of before is loaded.

    Args:
        reference: the reference model; None where the run has none.
        state: the resume state.
        stored, resumed: run.json as it stands in the folder, and as the resumed run would begin it.
        frozen: weights of the base are part of the policy and are not trained.

    Raises:
        UsageError: the weights of the base are others than at the start.
    """
    if reference is None and not frozen:
        return
    if reference is not None and state.get("reference") is not None:
        reference.load_state_dict(state["reference"])
    elif stored.get("base_sha256") != resumed["base_sha256"]:
        use = "part of the policy" if frozen else "the reference of its KL"
        raise UsageError(
            f"policy.base: expected the weights that the run started from (sha256 {stored.get('base_sha256')}), since "
            f"they are {use}, got others ({resumed['base_sha256']}); restore the base, or start anew"
        )
