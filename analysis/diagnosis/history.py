"""Early warnings: quantities of each step against their own history.

A jump is judged by the median and the median absolute deviation of the ten steps before, so that a slow trend, which is
what learning looks like, is none. It must last for two steps.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from .drift import entropy_by_step
from .evidence import Evidence
from .finding import Finding, missing
from .thresholds import THRESHOLDS

__all__ = ["jumps", "reward_drop"]

_WINDOW = 10
_LASTING = 2
_SCALE = 1.4826  # of a median absolute deviation to a standard deviation of normal noise
_FLOOR = 0.05  # of the median: a deviation that is smaller is no scale
_LEAST = 1e-4  # nats: smaller log ratios are rounding
_FIFTHS = 5
_LEAST_RESPONSES = 100
_ERRORS = 4.0


def jumps(evidence: Evidence) -> Finding:
    """The largest jump of any quantity, in robust standard deviations of its ten steps before."""
    worst: tuple[float, str, int] | None = None
    largest: dict[str, float] = {}
    for name, (series, noise) in _series(evidence).items():
        scores = _scores(series[np.isfinite(series)], noise)
        if len(scores):
            step, score = int(scores.index[int(scores.to_numpy().argmax())]), float(scores.max())
            largest[name] = score
            worst = max(worst or (score, name, step), (score, name, step))
    if worst is None:
        return missing("history", f"too few steps; it needs {_WINDOW + _LASTING}")
    score, name, step = worst
    severity = THRESHOLDS["history"].severity(score)
    verb = "jumped" if severity != "fine" else "moved most"
    sentence = (
        f"Of {len(largest)} quantities {name} {verb}: from step {step} on it lay {score:.1f} robust standard "
        f"deviations from its {_WINDOW} steps before."
    )
    return Finding("history", score, "standard deviations", sentence, severity, {"largest": largest, "step": step})


def _series(evidence: Evidence) -> Mapping[str, tuple[pd.Series, float]]:
    """Quantity in words -> its value at each step, and the least that counts as its standard deviation."""
    updates, rollouts, tokens = evidence.updates, evidence.rollouts, evidence.tokens
    series = {"the entropy": (entropy_by_step(evidence), 0.0)}
    for column, name in (("reward", "the mean reward"), ("length", "the mean length"), ("finished", "completion")):
        if column in rollouts:
            series[name] = _means(rollouts[column].astype(float), rollouts["step"])
    for column, name, least in (
        ("grad_norm_total", "the gradient norm", 0.0),
        ("param_step_norm", "the size of the parameter step", 0.0),
        ("kl", "the KL to the reference", _LEAST),
    ):
        if len(updates):
            series[name] = updates.groupby("step")[column].mean().astype(float), least
    if len(tokens):
        with np.errstate(divide="ignore"):  # a ratio that underflowed: its step has no mean
            sizes = np.abs(np.log(tokens["ratio"].to_numpy(float)))
        ratios = pd.Series(sizes, index=tokens.index)
        series["the size of log ratios"] = ratios.groupby(tokens["step"]).mean(), _LEAST
        if evidence.measured:
            series["the logit gradient"] = tokens.groupby("step")["carried"].mean().astype(float), 0.0
    return series


def _means(values: pd.Series, step: pd.Series) -> tuple[pd.Series, float]:
    """The mean of each step, and the standard error that such a mean has in the median step."""
    groups = values.groupby(step)
    within = float(np.sqrt((values - groups.transform("mean")).pow(2).mean()))
    return groups.mean(), within / float(np.sqrt(groups.size().median()))


def _scores(series: pd.Series, noise: float) -> pd.Series:
    """At each step with enough history, the smaller of its distance and that of the next step from the median of the
    ten steps before, in robust standard deviations; 0 where they lie on different sides."""
    values = series.to_numpy(float)
    scores = {}
    for at in range(_WINDOW, len(values) - _LASTING + 1):
        past = values[at - _WINDOW : at]
        center = float(np.median(past))
        deviation = _SCALE * float(np.median(np.abs(past - center)))
        scale = max(deviation, noise, _FLOOR * abs(center), np.finfo(float).tiny)
        distances = (values[at : at + _LASTING] - center) / scale
        same_side = bool((distances > 0).all() or (distances < 0).all())
        scores[series.index[at]] = float(np.abs(distances).min()) if same_side else 0.0
    return pd.Series(scores, dtype=float)


def reward_drop(evidence: Evidence) -> Finding:
    """The fraction of the best mean reward that was lost at the end; rewards are counted from their least value."""
    rollouts = evidence.rollouts[evidence.rollouts["reward"].notna()]
    steps = np.unique(rollouts["step"])
    if len(steps) < _FIFTHS or len(rollouts) < _LEAST_RESPONSES:
        return missing(
            "reward-drop", f"too little; it needs rewards of {_FIFTHS} steps and {_LEAST_RESPONSES} responses"
        )
    fifth = np.searchsorted(steps, rollouts["step"]) * _FIFTHS // len(steps)
    parts = [rollouts["reward"].to_numpy(float)[fifth == i] for i in range(_FIFTHS)]
    least = min(float(part.min()) for part in parts)
    means = [float(part.mean()) - least for part in parts]
    errors = [float(part.std() / np.sqrt(len(part))) for part in parts]
    best = int(np.argmax(means))
    drop = 1 - means[-1] / means[best] if means[best] > 0 else 0.0
    certain = means[best] - means[-1] > _ERRORS * float(np.hypot(errors[best], errors[-1]))
    severity = THRESHOLDS["reward-drop"].severity(drop) if certain else "fine"
    sentence = (
        f"The mean reward of the last fifth of the run is {means[-1] + least:.3f}; that of the best fifth, number "
        f"{best + 1}, was {means[best] + least:.3f}."
    )
    return Finding("reward-drop", drop, "fraction", sentence, severity, {"fifths": [mean + least for mean in means]})
