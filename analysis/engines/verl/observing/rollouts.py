"""The rollouts of one batch of verl, as the minibatches of its updates bring them, and their numbers over all ranks.

The engine is handed one minibatch after the other and never the whole batch. What is known of a rollout is kept from
the first minibatch that holds it; when the batch has ended, all ranks meet once and number the rollouts of all of them
by dataset index, uid and session: the same numbers whatever the number of ranks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor

from toy_models.tasks.task import prompt_hash

from ....errors import UsageError
from ....records.rows import PromptRow, RolloutRow
from ...step_rows import step_row
from ..left_out import KEYS
from .response_rows import ResponseRows

__all__ = ["Numbered", "Rollout", "RolloutBatch", "global_step_of", "left_out_of", "read_rollouts"]

_PADDING = "pad"  # verl's padding rows have a uid that starts so; uuid4 has no such digits
_SAME_ADVANTAGE = 1e-6  # advantages of a response's tokens that differ by less are one


@dataclass(frozen=True)
class Rollout:
    """One response, as a minibatch brought it."""

    index: int  # of the prompt in its dataset, 0 where unknown
    uid: str
    session: int
    prompt: list[int]
    response: list[int]
    digest: str  # of prompt and response
    prompt_id: str
    reward: float | None
    advantage: float | None  # None where it differs between tokens
    sign: int
    length: int  # tokens that the policy sampled
    dropped: bool  # whether no token of it is in the loss
    answer: str | None
    entropy: tuple[float, int]  # Σ H of the policy that sampled, and over how many tokens

    @property
    def order(self) -> tuple[int, str, int, str]:
        """What rollouts are numbered by, and which two rows are the same rollout."""
        return self.index, self.uid, self.session, self.digest


def read_rollouts(data: TensorDict, rows: ResponseRows, mask: Tensor) -> list[Rollout | None]:
    """The rollouts of a minibatch; None for each padding row of verl.

    Args:
        data: the minibatch; or rows without advantages, which a sampler left out of the batch.
        rows: where its response tokens stand.
        mask: (B, C) bool, tokens in the loss.

    Raises:
        UsageError: the rows have no uid, or rewards that are not finite.
    """
    uids = _listed(data, "uid")
    if uids is None:
        raise UsageError(
            "trainer: expected rows with a uid, as verl's V1 trainer makes them, got rows without; set "
            "trainer.use_v1=True"
        )
    sampled = mask if data.get("loss_mask", None) is None else rows.of_responses(data["loss_mask"]).bool()
    count = len(uids)
    sessions, indices = (_whole_numbers(_listed(data, key), count) for key in ("session_id", "index"))
    rewards = None if data.get("rm_scores", None) is None else rows.of_responses(data["rm_scores"]).double().sum(1)
    if rewards is not None and not bool(rewards.isfinite().all()):
        row = int((~rewards.isfinite()).nonzero()[0, 0])
        raise UsageError(
            f"rewards: expected finite numbers, got {float(rewards[row])} for row {row}; advantages and weights of "
            "its group would be NaN"
        )
    left_out = data.get("advantages", None) is None
    advantages = torch.zeros(mask.shape) if left_out else rows.of_responses(data["advantages"]).double()
    entropies = None if data.get("entropy", None) is None else rows.of_responses(data["entropy"]).double() * sampled
    golds = _listed(data, "reward_model") or [None] * count
    prompts, responses = (
        [row.tolist() for row in data[key].detach().cpu().unbind()] for key in ("prompts", "responses")
    )
    lengths, kept = sampled.sum(1).tolist(), mask.any(1).tolist()
    found: list[Rollout | None] = []
    for row in range(count):
        if str(uids[row]).startswith(_PADDING) and not lengths[row]:
            found.append(None)
            continue
        of_tokens = advantages[row][mask[row]]
        largest = float(of_tokens[of_tokens.abs().argmax()]) if len(of_tokens) else 0.0
        single = not len(of_tokens) or float(of_tokens.max() - of_tokens.min()) <= _SAME_ADVANTAGE * abs(largest)
        gold = golds[row].get("ground_truth") if isinstance(golds[row], dict) else None
        found.append(
            Rollout(
                index=indices[row],
                uid=str(uids[row]),
                session=sessions[row],
                prompt=prompts[row],
                response=responses[row],
                digest=hashlib.sha256(repr((prompts[row], responses[row])).encode()).hexdigest(),
                prompt_id=prompt_hash(prompts[row]),
                reward=None if rewards is None else float(rewards[row]),
                advantage=largest if single and len(of_tokens) else None,
                sign=int(np.sign(largest)),
                length=lengths[row],
                dropped=left_out or not kept[row],
                answer=None if gold is None else str(gold),
                entropy=(0.0, 0) if entropies is None else (float(entropies[row].sum()), lengths[row]),
            )
        )
    return found


def left_out_of(data: TensorDict) -> list[list[str]]:
    """Of each row the keys of rows that a sampler left out and named on it."""
    return _listed(data, KEYS) or [[] for _ in range(len(data))]


def global_step_of(data: TensorDict) -> int | None:
    """verl's number of the step whose prompts these are, counted from 1; of several the last. None without one."""
    steps = _listed(data, "global_steps")
    return None if not steps else max(int(step) for step in steps)


@dataclass
class Numbered:
    """The rollouts of a batch over all ranks: arrays (N,) in the order of their numbers."""

    numbers: np.ndarray  # (n,) of this rank's rollouts
    groups: np.ndarray
    prompt_ids: list[str]
    rewards: np.ndarray
    signs: np.ndarray
    lengths: np.ndarray
    entropy: tuple[float, int]


@dataclass
class RolloutBatch:
    """One batch of rollouts while its updates are made."""

    step: int
    rollouts: list[Rollout] = field(default_factory=list)  # of this process
    updates: int = 0  # made from it, skipped ones not counted
    epoch: int = 0
    minibatch: int = -1  # within the epoch
    left_out: dict[int, list[str]] = field(default_factory=dict)  # keys of rows named on a rollout of this process
    _places: dict[tuple[int, str, int, str], int] = field(default_factory=dict)
    _seen: set[int] = field(default_factory=set)  # in this epoch

    def add(self, rollouts: Sequence[Rollout | None]) -> Tensor:
        """Begin the next minibatch; a rollout that comes again begins a new epoch.

        Returns:
            (B,) numbers among the rollouts of this process, −1 for padding rows.
        """
        places = []
        for rollout in rollouts:
            place = -1
            if rollout is not None:
                place = self._places.setdefault(rollout.order, len(self.rollouts))
                if place == len(self.rollouts):
                    self.rollouts.append(rollout)
            places.append(place)
        own = {place for place in places if place >= 0}
        if own & self._seen:
            self.epoch, self.minibatch, self._seen = self.epoch + 1, -1, set()
        self._seen |= own
        self.minibatch += 1
        return torch.tensor(places, dtype=torch.long)

    def name_left_out(self, places: Tensor, keys: Sequence[Sequence[str]]) -> None:
        """Remember the rows that a sampler left out and named on the rollouts at `places` (B,)."""
        for place, names in zip(places.tolist(), keys, strict=True):
            if place >= 0 and names:
                self.left_out[place] = list(names)

    def add_left_out(self, fetch: Callable[[Sequence[str]], TensorDict]) -> None:
        """Add the rows that a sampler left out, after the last update."""
        keys = [key for names in self.left_out.values() for key in names]
        self.left_out = {}
        if keys:
            data = fetch(keys)
            rows = ResponseRows.of(data)
            rollouts = read_rollouts(data, rows, rows.of_responses(data["response_mask"]).bool())
            self.rollouts += [rollout for rollout in rollouts if rollout is not None]

    def number(self, gather: Callable[[Any], list[Any]]) -> Numbered:
        """The numbers of all rollouts; every rank calls it once, when the batch has ended.

        Args:
            gather: takes a value of this rank and returns those of all ranks.
        """
        facts = [(r.order, r.prompt_id, r.reward, r.sign, r.length, r.entropy) for r in self.rollouts]
        everyone = sorted((fact for rank in gather(facts) for fact in rank), key=lambda fact: fact[0])
        place = {fact[0]: number for number, fact in enumerate(everyone)}
        uids = list(dict.fromkeys(fact[0][:2] for fact in everyone))
        group = {uid: number for number, uid in enumerate(uids)}
        return Numbered(
            numbers=np.array([place[rollout.order] for rollout in self.rollouts], dtype=np.int64),
            groups=np.array([group[fact[0][:2]] for fact in everyone], dtype=np.int64),
            prompt_ids=[fact[1] for fact in everyone],
            rewards=np.array([np.nan if fact[2] is None else fact[2] for fact in everyone], dtype=float),
            signs=np.array([fact[3] for fact in everyone], dtype=float),
            lengths=np.array([fact[4] for fact in everyone], dtype=float),
            entropy=(sum(fact[5][0] for fact in everyone), sum(fact[5][1] for fact in everyone)),
        )

    def prompt_rows(self, known: set[str], decode: Callable[[list[int]], str]) -> list[PromptRow]:
        """Prompts of this process that are not `known`; they become known."""
        rows = []
        for rollout in self.rollouts:
            if rollout.prompt_id not in known:
                known.add(rollout.prompt_id)
                rows.append(
                    PromptRow(
                        prompt_id=rollout.prompt_id,
                        split="train",
                        text=decode(rollout.prompt),
                        token_ids=rollout.prompt,
                        answer=rollout.answer,
                    )
                )
        return rows

    def rollout_rows(
        self, numbered: Numbered, rank: int, correct: float, ends: frozenset[int], decode: Callable[[list[int]], str]
    ) -> list[RolloutRow]:
        """Rows of the table `rollouts` of this process."""
        return [
            RolloutRow(
                step=self.step,
                rollout=int(number),
                rank=rank,
                prompt_id=rollout.prompt_id,
                group=int(numbered.groups[number]),
                response_ids=rollout.response,
                response_text=decode(rollout.response),
                length=rollout.length,
                finished=bool(rollout.response) and rollout.response[-1] in ends,
                reward=rollout.reward,
                correct=None if rollout.reward is None else rollout.reward > correct,
                advantage=rollout.advantage,
                dropped=rollout.dropped,
            )
            for number, rollout in zip(numbered.numbers, self.rollouts, strict=True)
        ]

    def step_row(self, numbered: Numbered, correct: float) -> dict[str, Any]:
        """The row of the table `steps`, of all processes."""
        total, count = numbered.entropy
        return step_row(
            self.step,
            rewards=numbered.rewards,
            correct=None if np.isnan(numbered.rewards).all() else numbered.rewards > correct,
            signs=numbered.signs,
            lengths=numbered.lengths,
            groups=numbered.groups,
            updates=self.updates,
            entropy=total / count if count else None,
        )


def _listed(data: TensorDict, key: str) -> list[Any] | None:
    """A value of each row, whatever verl keeps them in; None where there are none."""
    values: Any = data.get(key, None)
    if values is None:
        return None
    values = values.tolist() if hasattr(values, "tolist") else getattr(values, "data", values)
    return values if isinstance(values, list) else [values] * len(data)


def _whole_numbers(values: list[Any] | None, count: int) -> list[int]:
    """The values where each is a whole number, else zeros."""
    if values is None or not all(isinstance(value, int) and not isinstance(value, bool) for value in values):
        return [0] * count
    return values
