"""What updates of a transformer do to whole next-token distributions, from the recorded contexts of a run.

A row is one context of the update's own minibatch with a weight: the token y was trained on there. For each of its
recorded tokens v, π_v before and after the update and the step Δz_v of its logit are known; with `record.top_k` at
least as large as the vocabulary these are all tokens. The *alternatives* are the tokens other than y.

The null of every statistic is a step that has nothing to do with π: the same steps, shuffled between the alternatives
of a context.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ...errors import UsageError
from ...records import Run

__all__ = [
    "Alternatives",
    "ContextSteps",
    "context_steps",
    "fall_statistics",
    "flow_statistics",
    "order_statistics",
    "proportion_statistics",
    "protection_slopes",
]

_LEAST = 3  # alternatives of a context that a correlation is taken over
_HEAD = 10  # alternatives that count as the head
_PLAUSIBLE = 1e-3  # probability from which the order of two alternatives is looked at
_CONFIDENT = 1e-6  # 1 − π_y below which float32 records do not resolve the step
_SHUFFLES = 4


@dataclass(frozen=True)
class Alternatives:
    """The tokens of one context other than y, the most probable first.

    Attributes:
        probs: π_v before the update, (m,).
        flow: π'_v − π_v, (m,).
        dlogit: Δz_v, (m,), known up to a constant of the context.
    """

    probs: np.ndarray
    flow: np.ndarray
    dlogit: np.ndarray


@dataclass(frozen=True)
class ContextSteps:
    """The contexts of a run that were trained on.

    Attributes:
        update: Update of each row, (n,).
        weight: w of y, (n,): positive where y was pulled up.
        rest: 1 − π_y before, (n,).
        collision: Σ π² before, (n,).
        rest_entropy: Entropy of the alternatives before and after, in nats, (n, 2).
        log_odds: Change of log(π_y / (1 − π_y)), (n,).
        prob: Change of π_y, (n,).
        dlogit: Δz_y less the mean Δz of the alternatives, (n,).
        alternatives: Of each row.
    """

    update: np.ndarray
    weight: np.ndarray
    rest: np.ndarray
    collision: np.ndarray
    rest_entropy: np.ndarray
    log_odds: np.ndarray
    prob: np.ndarray
    dlogit: np.ndarray
    alternatives: tuple[Alternatives, ...]


def context_steps(run: Run) -> ContextSteps:
    """Read them.

    Raises:
        UsageError: the run followed no context that was trained on, or recorded no top tokens there.
    """
    flows = run.table("flows").merge(run.table("contexts")[["context", "kind", "token"]], on="context")
    flows = flows[(flows["kind"] == "batch") & (flows["weight"].fillna(0.0) != 0)].reset_index(drop=True)
    if flows.empty or flows["top_ids"].map(len).max() <= _LEAST:
        raise UsageError(
            f"run {run.run_id}: expected contexts with a weight and their most probable tokens, got none; set "
            "record.contexts above 0 and record.top_k to the size of the vocabulary"
        )
    log_probs = flows[["log_prob_before", "log_prob_after"]].to_numpy(dtype=float)
    rest = np.stack([flows["one_minus_prob_before"].to_numpy(dtype=float), -np.expm1(log_probs[:, 1])], 1)
    rest = np.maximum(rest, np.finfo(float).tiny)
    entropy = flows[["entropy_before", "entropy_after"]].to_numpy(dtype=float)
    binary = -np.exp(log_probs) * log_probs - rest * np.log(rest)
    alternatives, own = [], []
    for row in flows.itertuples():
        ids = np.asarray(row.top_ids)
        columns = [np.asarray(c, dtype=float) for c in (row.top_prob_before, row.top_prob_after, row.top_dlogit)]
        other = ids != row.token
        before, after, dlogit = (column[other] for column in columns)
        order = np.argsort(-before, kind="stable")
        alternatives.append(Alternatives(before[order], (after - before)[order], dlogit[order]))
        own.append(columns[2][~other][0] - dlogit.mean())
    return ContextSteps(
        flows["update"].to_numpy(),
        flows["weight"].to_numpy(dtype=float),
        rest[:, 0],
        flows["collision_before"].to_numpy(dtype=float),
        (entropy - binary) / rest,
        np.diff(log_probs - np.log(rest), axis=1)[:, 0],
        np.diff(np.exp(log_probs), axis=1)[:, 0],
        np.array(own),
        tuple(alternatives),
    )


def proportion_statistics(steps: ContextSteps) -> dict[str, float]:
    """How much of Δz_v among the alternatives follows −w·π_v, with an intercept: mean of R², signed by the slope.

    Returns:
        "all", "head" (the ten most probable alternatives) and "tail" (the others). A shuffled step gives about 0.
    """
    found = {}
    for name, part in (("all", slice(None)), ("head", slice(_HEAD)), ("tail", slice(_HEAD, None))):
        values = [
            -np.sign(weight) * np.sign(r) * r**2
            for weight, row in zip(steps.weight, steps.alternatives, strict=True)
            if np.isfinite(r := _correlation(row.probs[part], row.dlogit[part]))
        ]
        found[name] = float(np.mean(values)) if values else float("nan")
    return found


def flow_statistics(steps: ContextSteps, seed: int = 0) -> dict[str, float]:
    """Where mass goes among the alternatives.

    Returns:
        gain: Of the mass that moves at alternatives, the fraction that arrives there; 0.5 for a step without relation.
        toward_plausible: Mean correlation of π'_v − π_v with π_v; 0 where steps are shuffled.
        boundary: The fraction of moving mass whose sign is that of −w·(π_v + π_y − c), less the same with shuffled π_v.
        rest_entropy: Mean change of the entropy of the alternatives, in nats.
    """
    rng = np.random.default_rng(seed)
    gained = moved = agreed = agreed_shuffled = 0.0
    correlations = []
    for i, row in enumerate(steps.alternatives):
        size = np.abs(row.flow)
        gained += row.flow.clip(min=0).sum()
        moved += size.sum()
        signs = -np.sign(steps.weight[i]) * np.sign(row.flow)
        distance = 1 - steps.rest[i] - steps.collision[i]
        agreed += size[signs * (row.probs + distance) > 0].sum()
        for shuffled in _shuffled(row.probs, rng):
            agreed_shuffled += size[signs * (shuffled + distance) > 0].sum() / _SHUFFLES
        correlations.append(_correlation(row.probs, row.flow))
    moved = max(moved, np.finfo(float).tiny)
    known = np.isfinite(steps.rest_entropy).all(axis=1) & (steps.rest > _CONFIDENT)
    return {
        "gain": float(gained / moved),
        "toward_plausible": float(np.nanmean(correlations)),
        "boundary": float((agreed - agreed_shuffled) / moved),
        "rest_entropy": float(np.diff(steps.rest_entropy[known], axis=1).mean()),
    }


def fall_statistics(steps: ContextSteps) -> dict[str, float]:
    """Which alternatives become less probable.

    Returns:
        falling: Mean over contexts of the fraction of alternatives that fall.
        lost: Of the mass that moves at alternatives, the fraction that leaves them.
        falling_above: The fraction that falls among alternatives above the boundary π_v > c − π_y.
        falling_below: The same below it, where the token's own step raises them.
    """
    falling = [(row.flow < 0).mean() for row in steps.alternatives]
    above: list[bool] = []
    below: list[bool] = []
    for i, row in enumerate(steps.alternatives):
        over = row.probs > steps.collision[i] - 1 + steps.rest[i]
        above += list(row.flow[over] < 0)
        below += list(row.flow[~over] < 0)
    return {
        "falling": float(np.mean(falling)),
        "lost": 1 - flow_statistics(steps)["gain"],
        "falling_above": float(np.mean(above)) if above else float("nan"),
        "falling_below": float(np.mean(below)) if below else float("nan"),
    }


def protection_slopes(steps: ContextSteps) -> dict[str, float]:
    """Slope of log |change| on log(1 − π_y) over contexts, each update with an intercept of its own.

    The token's own step gives a slope near 1 for logit and log-odds and near 2 for the probability at high confidence;
    a change that does not depend on π_y gives 0 for the logit and the log-odds and about 1 for the probability.

    Returns:
        "log_odds", "logit" (Δz_y less the mean of the alternatives) and "probability".
    """
    confident = steps.rest > _CONFIDENT
    x = np.log(steps.rest)
    found = {}
    for name, values in (("log_odds", steps.log_odds), ("logit", steps.dlogit), ("probability", steps.prob)):
        rows = confident & (values != 0) & np.isfinite(values)
        centred = [_centred(column[rows], steps.update[rows]) for column in (x, np.log(np.abs(values) + (values == 0)))]
        spread = (centred[0] ** 2).sum()
        found[name] = float((centred[0] * centred[1]).sum() / spread) if spread > 0 else float("nan")
    return found


def order_statistics(steps: ContextSteps, seed: int = 0) -> dict[str, float]:
    """What becomes of the order of plausible alternatives (π_v of at least 0.001), over pairs.

    Returns:
        sharpened: Fraction of pairs in which the log-ratio moves towards the more probable one.
        reordered: Fraction of pairs that change their order.
        reordered_excess: The same less that with the steps shuffled between the alternatives of a context.
    """
    rng = np.random.default_rng(seed)
    sharpened: list[np.ndarray] = []
    reordered: list[np.ndarray] = []
    null: list[np.ndarray] = []
    for row in steps.alternatives:
        many = row.probs >= _PLAUSIBLE
        if many.sum() < 2:
            continue
        first, second = np.triu_indices(int(many.sum()), 1)
        lead = np.log(row.probs[many])[first] - np.log(row.probs[many])[second]
        for index, dlogit in enumerate((row.dlogit[many], *_shuffled(row.dlogit[many], rng))):
            change = dlogit[first] - dlogit[second]
            if index:
                null.append(lead + change < 0)
            else:
                sharpened.append(change[lead > 0] > 0)
                reordered.append(lead + change < 0)
    if not reordered:
        return dict.fromkeys(("sharpened", "reordered", "reordered_excess"), float("nan"))
    share = float(np.concatenate(reordered).mean())
    return {
        "sharpened": float(np.concatenate(sharpened).mean()),
        "reordered": share,
        "reordered_excess": share - float(np.concatenate(null).mean()),
    }


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    if len(x) < _LEAST or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])


def _shuffled(values: np.ndarray, rng: np.random.Generator) -> Iterator[np.ndarray]:
    return (rng.permutation(values) for _ in range(_SHUFFLES))


def _centred(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    _, index = np.unique(groups, return_inverse=True)
    means = np.bincount(index, values) / np.bincount(index)
    return values - means[index]
