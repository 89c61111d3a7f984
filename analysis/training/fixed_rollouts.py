"""The rollouts of the first step, kept for every later one (`rollout.fixed`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from toy_models import Prompt, Verdict

from ..objectives import ResponseBatch
from .rollouts import RolloutBatch

__all__ = ["FixedRollouts"]


class FixedRollouts:
    """Responses, verdicts, noise and advantages of the first step; its state can be saved."""

    def __init__(self, prompts: Sequence[Prompt]) -> None:
        """`prompts` are those that the run trains on, of which the state names some by their index."""
        self._prompts = prompts
        self._indices: list[int] = []
        self._batch: RolloutBatch | None = None

    def at(self, step: int) -> RolloutBatch | None:
        """The rollouts as those of `step`; None before the first step."""
        return None if self._batch is None else replace(self._batch, step=step)

    def keep(self, indices: Sequence[int], batch: RolloutBatch) -> None:
        """Keep a batch, whose prompts are those of the indices."""
        self._indices, self._batch = list(indices), batch

    def state_dict(self) -> dict[str, Any]:
        if self._batch is None:
            return {"batch": None}
        return {"indices": self._indices, "batch": asdict(replace(self._batch, prompts=[]))}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["batch"] is None:
            return
        fields = dict(state["batch"])
        fields["verdicts"] = [Verdict(**verdict) for verdict in fields["verdicts"]]
        fields["judged"] = None if fields["judged"] is None else ResponseBatch(**fields["judged"])
        fields["prompts"] = [self._prompts[index] for index in state["indices"]]
        self.keep(state["indices"], RolloutBatch(**fields))
