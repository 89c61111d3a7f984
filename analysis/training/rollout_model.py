"""Which model samples the rollouts: the policy of the step, or that of an earlier step, in the dtype of rollouts.

With `rollout.refresh_every = n` the policy that samples is a copy of the trained one, renewed before the steps 0, n,
2n, …; rollouts of a step are then 0 to n − 1 steps old. With 0 the base samples throughout. Old log-probs are those of
the copy, in the policy's own dtype, so that ratios correct for its age.
"""

from __future__ import annotations

import copy
from typing import Any

import torch

from toy_models.adapters import TrainedWeights, frozen_copy

__all__ = ["RolloutModel"]


class RolloutModel:
    """The model that samples in each step, and the one that old log-probs are of; its state can be saved."""

    def __init__(self, model: torch.nn.Module, dtype: torch.dtype, refresh_every: int = 1) -> None:
        """`model` is the one that is trained; `dtype` that of rollouts; `refresh_every` as in the recipe."""
        self._source, self._every, self._refreshed = model, refresh_every, 0
        self._held = None if refresh_every == 1 else frozen_copy(model)
        self._changing = TrainedWeights(model)
        same = next(model.parameters()).dtype == dtype
        self._copy = None if same else copy.deepcopy(model).requires_grad_(False).to(dtype)

    @property
    def lags(self) -> bool:
        """Whether rollouts can be older than the policy, so that there is a state to save."""
        return self._held is not None

    def age(self, step: int) -> int | None:
        """Steps since the policy that samples in `step`; None where it is always that of the step."""
        if self._held is None:
            return None
        return step % self._every if self._every else step

    def earlier(self, step: int) -> torch.nn.Module | None:
        """The policy that samples in `step`, in the dtype of the trained one; None where it is the policy itself."""
        return self._held if self.age(step) else None

    @torch.no_grad()
    def current(self, step: int = 0) -> torch.nn.Module:
        """The model that samples in `step`, from the policy's present parameters where they are due."""
        policy = self._source
        if self._held is not None:
            if self.age(step) == 0 and self._refreshed != step:
                _follow(self._held, self._source)
                self._refreshed = step
            policy = self._held
        if self._copy is None:
            return policy
        _follow(self._copy, policy)
        return self._copy

    def state_dict(self) -> dict[str, Any]:
        assert self._held is not None
        return {"model": self._changing.of(self._held.state_dict()), "refreshed": self._refreshed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert self._held is not None
        self._changing.load_into(self._held, state["model"])
        self._refreshed = state["refreshed"]


def _follow(copied: torch.nn.Module, source: torch.nn.Module) -> None:
    for target, value in zip(copied.state_dict().values(), source.state_dict().values(), strict=True):
        target.copy_(value)
