"""Weights that an objective would have given to recorded tokens: computed from its formula, not measured.

They are before any normaliser of the loss, at the recorded log-probs and rewards. A training run records a fraction of
the tokens, so that there an objective must weight each token independently. An offline trace records all of them, and
may have groups of several sizes, rewards other than 0 and 1, or advantages in place of rewards.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..errors import UsageError
from .rewarded import rewarded, sign_column, trained_on_scores

if TYPE_CHECKING:
    from ..objectives import Objective
    from .recorded import Recorded

__all__ = ["assumed_weights", "needs_rewards", "needs_verdicts", "takes_advantages", "tensor_of"]

_OFFLINE = "offline"
_KEY = ["step", "rollout"]
_PADDED = 1 << 20  # positions of a padded batch at a time


def assumed_weights(run: Recorded, rows: pd.DataFrame, objective: str | Objective) -> Tensor:
    """w of recorded tokens under an objective.

    Advantages are the objective's own, from the rewards. An offline trace without rewards whose file has advantages
    uses those, for an objective that would normalise rewards anyhow (`takes_advantages`).

    Args:
        run: the run that the rows are of.
        rows: rows of `tokens`, with step, rollout, position, log_prob, old_log_prob and advantage.
        objective: a name, or an `Objective`.

    Returns:
        (n,), float64, in the order of `rows`.

    Raises:
        UsageError: the trace lacks what the objective needs: rewards, groups to compare in, old log-probs (offline; a
            training run without them made one update per batch, whose ratio is 1), whole responses or rollouts.
    """
    from ..objectives import TokenBatch, get

    if isinstance(objective, str):
        objective = get(objective)
    objective.check_use("a trace")
    offline = run.info["engine"] == _OFFLINE
    coupled = objective.coupling != "token" or "mean_log_probs" in objective.reads()
    if coupled and not offline:
        raise UsageError(
            f"objective: expected one that weights each token independently, got {objective.name}, which needs whole "
            "responses, of which a training run records a fraction of the tokens; choose another objective"
        )
    old = rows["old_log_prob"]
    if offline and "old_log_probs" in objective.needs() and old.isna().any():
        raise UsageError(
            f"objective: expected old log-probs for {objective.name}, got a trace without them; give the column "
            "old_log_probs, set on_policy (--on-policy) if the model itself sampled the rollouts, or choose an "
            "objective of the form log or probability"
        )
    if run.info["engine"] not in (_OFFLINE, "small") and "old_log_probs" in objective.needs() and old.isna().any():
        raise UsageError(
            f"objective: expected old log-probs for {objective.name}, got a run of {run.info['engine']} without them, "
            "whose ratio is not known; pass them to trace.step(old_log_probs=…), or choose an objective of the form "
            "log or probability"
        )
    rollouts = _rollouts(run, rows, objective, offline=offline, whole=coupled)
    if rollouts is None:  # without rewards, with advantages
        batch = TokenBatch(
            tensor_of(rows["log_prob"])[:, None],
            tensor_of(old.fillna(rows["log_prob"]))[:, None],
            tensor_of(rows["advantage"])[:, None],
        )
        return objective.weights(batch).weight[:, 0]
    rollout = rows[_KEY].merge(rollouts, how="left")
    if rollout["advantage"].isna().any():
        raise UsageError(
            "objective: expected the rollout of every token among the recorded rollouts, got tokens without one; "
            "record all rollouts (record.rollouts = 1)"
        )
    log_probs = tensor_of(rows["log_prob"])
    # one update per batch records no old log-probs: the ratio is 1
    columns = [log_probs, tensor_of(old.fillna(rows["log_prob"]))]
    columns += [tensor_of(rollout[name]) for name in ("advantage", "reward", "accuracy")]
    if not coupled:
        return objective.weights(
            TokenBatch(log_probs[:, None], columns[1][:, None], columns[2], None, *columns[3:])
        ).weight[:, 0]
    weight = torch.empty_like(log_probs)
    for places, mask in _padded(rows):
        padded = [values[places] for values in columns]
        batch = TokenBatch(padded[0], padded[1], padded[2][:, 0], mask, padded[3][:, 0], padded[4][:, 0])
        weight[places[mask]] = objective.weights(batch).weight[mask]
    return weight


def needs_rewards(objective: Objective) -> bool:
    """Whether rewards enter the objective at all; supervised fine-tuning counts every response 1."""
    return objective.entry.value != "1" or bool({"rewards", "accuracy"} & set(objective.needs()))


def needs_verdicts(objective: Objective) -> bool:
    """Whether the objective is defined for rewards 0 and 1 only, rather than for any numbers that it normalises."""
    if objective.entry.graded:
        return False
    return objective.entry.value not in ("r", "1") or objective.advantage in ("none", "constant")


def takes_advantages(objective: Objective) -> bool:
    """Whether given advantages may replace the objective's own: it uses the rewards for nothing else, token by token,
    and leaves out no response by its sign."""
    plain = set(objective.needs()) <= {"advantages", "old_log_probs"} and objective.coupling == "token"
    whitened = objective.parameters.get("whiten", "none") != "none"
    return plain and not whitened and objective.entry.value == "r" and objective.advantage not in ("none", "constant")


def tensor_of(values: pd.Series) -> Tensor:
    """A column as float64, NaN where it is missing."""
    return torch.tensor(values.to_numpy(dtype=np.float64))


def _rollouts(
    run: Recorded, rows: pd.DataFrame, objective: Objective, *, offline: bool, whole: bool
) -> pd.DataFrame | None:
    """step, rollout, advantage, reward and accuracy of every recorded rollout; None where recorded advantages replace
    the objective's own."""
    names = list(dict.fromkeys([*_KEY, "group", "reward", "length", sign_column(run.info)]))
    rollouts = run.table("rollouts", names).sort_values(["step", "group", "rollout"], ignore_index=True)
    given = offline and rollouts["reward"].isna().all() and not rows["advantage"].isna().any()
    if given and takes_advantages(objective):
        return None
    if trained_on_scores(run.info) and needs_verdicts(objective):
        rollouts["reward"] = rewarded(rollouts, run.info).astype(np.float64)  # what this objective would have seen
    if not needs_rewards(objective):
        rollouts["reward"] = rollouts["reward"].fillna(0.0)
    _check_rewards(rollouts, objective, offline=offline)
    if "batch" in objective.compares() and not offline:
        sampled = run.table("steps", ["n_rollouts"])["n_rollouts"].sum()
        if len(rollouts) != sampled:
            raise UsageError(
                f"objective: expected every rollout of a step for {_over_batch(objective)}, got {len(rollouts)} of "
                f"{sampled}; record all of them (record.rollouts = 1)"
            )
    mean_log_prob = None
    if whole:
        responses = rows.groupby(_KEY)["log_prob"].agg(["size", "mean"]).reset_index()
        known = rollouts.merge(responses, how="left")
        if (known["size"].fillna(known["length"]) != known["length"]).any():
            raise UsageError(
                f"objective: expected whole responses for {objective.name}, got some of their tokens; leave out where"
            )
        mean_log_prob = known["mean"]
    parts = [_advantages(batch, objective, mean_log_prob, offline=offline) for _, batch in rollouts.groupby("step")]
    empty = pd.DataFrame({name: [] for name in (*_KEY, "advantage", "reward", "accuracy")})
    return pd.concat(parts) if parts else empty


def _check_rewards(rollouts: pd.DataFrame, objective: Objective, *, offline: bool) -> None:
    if rollouts["reward"].isna().any():
        cure = "give their column (reward), or name a verifier" if offline else "pass them to trace.step(rewards=…)"
        raise UsageError(f"objective: expected rewards for {objective.name}, got rollouts without them; {cure}")
    other = rollouts.loc[~rollouts["reward"].isin([0.0, 1.0]), "reward"]
    if len(other) and needs_verdicts(objective):
        cure = "give a threshold (--threshold X: a reward above X counts as 1)" if offline else "choose grpo or rloo"
        raise UsageError(f"objective: expected rewards 0 and 1 for {objective.name}, got {other.iloc[0]:g}; {cure}")


def _advantages(
    batch: pd.DataFrame, objective: Objective, mean_log_prob: pd.Series | None, *, offline: bool
) -> pd.DataFrame:
    """The rollouts of one step with their advantages, computed for the groups of each size separately."""
    from ..objectives import ResponseBatch, accuracy_of

    step, size = batch["step"].iloc[0], batch.groupby("group")["rollout"].transform("size")
    sizes = sorted(size.unique().tolist())
    if len(sizes) > 1 and not offline:
        raise UsageError(
            f"objective: expected groups of one size, got groups of {sizes} in step {step}; record all rollouts "
            "(record.rollouts = 1)"
        )
    if offline and sizes[0] == 1:
        _check_singles(objective, batch, int((size == 1).sum()))
    groups = [batch[size == group_size] for group_size in sizes]
    parts = [
        ResponseBatch(
            tensor_of(rollouts["reward"]),
            group_size,
            None if mean_log_prob is None else tensor_of(mean_log_prob[rollouts.index]),
            torch.tensor(rollouts["length"].to_numpy(dtype=np.int64)) if "lengths" in objective.reads() else None,
        )
        for rollouts, group_size in zip(groups, sizes, strict=True)
    ]
    return pd.concat(
        rollouts[_KEY].assign(
            advantage=advantages.numpy(),
            reward=part.rewards.numpy(),
            accuracy=accuracy_of(part.rewards, part.group_size).numpy(),
        )
        for rollouts, part, advantages in zip(groups, parts, objective.advantages_of(parts), strict=True)
    )


def _over_batch(objective: Objective) -> str:
    how = objective.advantage
    return how if how.startswith("batch_") or how.endswith("_batch_std") else objective.name


def _check_singles(objective: Objective, batch: pd.DataFrame, single: int) -> None:
    try:
        objective.check_group_size(1)
    except UsageError:
        groups = batch["group"].nunique()
        raise UsageError(
            f"objective: expected several responses in each group for {objective.name}, got one in {single} of "
            f"{groups} groups; give the column of groups (group), or prompts that occur several times, or leave such "
            "rollouts out"
        ) from None


def _padded(rows: pd.DataFrame) -> Iterator[tuple[Tensor, Tensor]]:
    """Indices of rows (B, T) and the mask of real tokens, some responses at a time; padding repeats the first token."""
    order = rows.reset_index(drop=True).sort_values([*_KEY, "position"], kind="stable")
    groups = order.groupby(_KEY, sort=False).indices
    places = order.index.to_numpy()
    lists = sorted((places[at] for at in groups.values()), key=len)
    while lists:
        count = max(1, min(len(lists), _PADDED // len(lists[-1])))
        lists, chosen = lists[:-count], lists[-count:]
        width = len(chosen[-1])
        lengths = torch.tensor([len(row) for row in chosen])
        padded = np.stack([np.concatenate([row, np.full(width - len(row), row[0])]) for row in chosen])
        yield torch.tensor(padded), torch.arange(width) < lengths[:, None]
