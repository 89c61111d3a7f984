"""Whether there was a signal to learn from: verdicts, groups, duplicates, truncation, clips, updates without weight."""

from __future__ import annotations

import numpy as np
import pandas as pd

from .evidence import Evidence
from .finding import Finding, missing
from .thresholds import THRESHOLDS

__all__ = ["clipping", "dead_groups", "duplicates", "skipped_updates", "truncation", "verifier"]

_FEW_RESPONSES = 32  # that a verdict on the verifier needs
_FEW_TOKENS = 50  # of a sign, that a verdict on its clip needs
_GROUP = ["step", "group"]


def verifier(evidence: Evidence) -> Finding:
    """The fraction of responses that were rewarded."""
    rewards = evidence.rollouts["reward"].to_numpy(float)
    known = np.isfinite(rewards)
    if not known.any():
        return missing("verifier", "no rewards")
    rewarded = float((evidence.rollouts["sign"].to_numpy(float)[known] > 0).mean())
    rarer = min(rewarded, 1 - rewarded)
    unjudged = 1 - float(known.mean())
    constant = bool(np.ptp(rewards[known]) == 0)
    severity, sentence = "fine", f"The verifier rewarded {rewarded:.1%} of {known.sum():,} responses."
    if constant:
        word = "no response" if rewarded == 0 else "every response"
        sentence = (
            f"The verifier rewarded {word} of {known.sum():,}: each has the reward {rewards[known][0]:g}, from which "
            "nothing can be learnt about right and wrong."
        )
    if known.sum() >= _FEW_RESPONSES:
        severity = "alarm" if constant else "notice" if rarer < THRESHOLDS["verifier"].notice else "fine"
    if unjudged > 0:
        sentence += f" {unjudged:.1%} of the responses have no reward."
        severity = "notice" if severity == "fine" else severity
    flipped = _flipped(evidence.rollouts)
    sentence += f" {flipped:.1%} of the rewards contradict the true verdict." if flipped else ""
    details = {"responses": int(known.sum()), "unjudged": unjudged, "constant": constant, "flipped": flipped}
    return Finding("verifier", rewarded, "fraction", sentence, severity, details)


def _flipped(rollouts: pd.DataFrame) -> float:
    return float(rollouts["noise_flipped"].mean()) if "noise_flipped" in rollouts else 0.0


def dead_groups(evidence: Evidence) -> Finding:
    """The fraction of groups whose responses had no gradient: advantages that are all 0, else equal rewards."""
    rollouts = evidence.rollouts
    by_advantage = bool(rollouts["advantage"].notna().any())
    if not by_advantage and not rollouts["reward"].notna().any():
        return missing("dead-groups", "neither advantages nor rewards")
    groups = rollouts.groupby(_GROUP)
    size = groups.size()
    if by_advantage:
        dead = groups["advantage"].agg(lambda values: bool((values.abs() < 1e-8).all()))
        what = "had only advantages of 0"
    else:
        dead = groups["reward"].agg(lambda values: bool(values.nunique(dropna=False) == 1))
        what = "had equal rewards, from which an advantage within the group is 0"
    judged = size > 1
    if not judged.any():
        return missing("dead-groups", "no group with more than one response")
    dead = dead[judged].astype(bool)
    sign = groups["sign"].mean()[judged]
    value = float(dead.mean())
    failed, solved = (float((dead & (sign == which)).mean()) for which in (-1, 1))
    severity = THRESHOLDS["dead-groups"].severity(value)
    sentence = (
        f"{value:.0%} of {len(dead):,} groups {what} and carried nothing: {failed:.0%} because every response failed, "
        f"{solved:.0%} because every response succeeded."
    )
    details = {
        "groups": len(dead),
        "all_failed": failed,
        "all_succeeded": solved,
        "by": "advantage" if by_advantage else "reward",
    }
    return Finding("dead-groups", value, "fraction", sentence, severity, details)


def duplicates(evidence: Evidence) -> Finding:
    """The fraction of responses that repeat another one of their group, of all that could."""
    rollouts = evidence.rollouts
    content = [
        (step, group, tuple(ids) if len(ids) else text)
        for step, group, ids, text in zip(
            rollouts["step"], rollouts["group"], rollouts["response_ids"], rollouts["response_text"], strict=True
        )
    ]
    groups = len(set(zip(rollouts["step"], rollouts["group"], strict=True)))
    if len(content) <= groups:
        return missing("duplicates", "no group with more than one response")
    repeated = len(content) - len(set(content))
    value = repeated / (len(content) - groups)
    sentence = (
        f"{value:.0%} of the responses that could repeat an earlier one of their group do so, token for token "
        f"({repeated:,} of {len(content) - groups:,})."
    )
    return Finding("duplicates", value, "fraction", sentence, THRESHOLDS["duplicates"].severity(value))


def truncation(evidence: Evidence) -> Finding:
    """The fraction of responses that did not end with an end token."""
    rollouts = evidence.rollouts
    if "finished" not in rollouts or rollouts.empty:
        return missing("truncation", "whether responses ended with an end token")
    finished = rollouts["finished"].to_numpy(bool)
    if evidence.info.get("engine") == "attach" and not finished.any():
        return missing("truncation", "no response ends with an end token; attach(tokenizer=…) tells which they are")
    value = float(1 - finished.mean())
    sentence = f"{value:.1%} of {len(rollouts):,} responses were cut off before an end token"
    rewarded = rollouts["sign"].to_numpy(float) > 0
    if 0 < value < 1 and rollouts["sign"].notna().any():
        sentence += (
            f"; {rewarded[~finished].mean():.0%} of them were rewarded, against {rewarded[finished].mean():.0%} of the "
            "others"
        )
    return Finding("truncation", value, "fraction", sentence + ".", THRESHOLDS["truncation"].severity(value))


def clipping(evidence: Evidence) -> Finding:
    """The fraction of the tokens of each sign that lost their weight to the clip."""
    fractions = _clip_fractions(evidence)
    if isinstance(fractions, str):
        return missing("clip", fractions)
    silenced = {sign: sum(sides.values()) for sign, sides in fractions.items()}
    value = max(silenced.values())
    worst = max(silenced, key=lambda sign: silenced[sign])
    others = [fraction for sign, fraction in silenced.items() if sign != worst]
    threshold = THRESHOLDS["clip"]
    one_sided = not others or value >= 2 * others[0]
    severity = threshold.severity(value)
    severity = "notice" if severity == "alarm" and not one_sided else severity
    names = {"pos": "rewarded", "neg": "unrewarded"}
    parts = []
    for sign, sides in fractions.items():
        where = " and ".join(f"{fraction:.1%} {side}" for side, fraction in sides.items())
        parts.append(f"{silenced[sign]:.1%} of the tokens of {names[sign]} responses ({where})")
    sentence = f"The clip took the weight of {' and of '.join(parts)}."
    if severity == "alarm":
        sentence += f" Most of what {names[worst]} responses would teach is lost."
    return Finding("clip", value, "fraction", sentence, severity, fractions)


def _clip_fractions(evidence: Evidence) -> dict[str, dict[str, float]] | str:
    """sign -> side -> fraction of its tokens; or what is missing.

    By the table `updates`, over all tokens; else by the clip of recorded tokens; else by tokens with an advantage and
    a weight of exactly 0, which have no side.
    """
    updates = evidence.updates
    fractions: dict[str, dict[str, float]] = {}
    for sign in ("pos", "neg"):
        counts = updates[f"tokens_{sign}"].to_numpy(float) if len(updates) else np.zeros(0)
        if counts.sum() < _FEW_TOKENS:
            continue
        columns = {side: updates[f"clip_{side}_{sign}"].to_numpy(float) for side in ("low", "high")}
        known = np.isfinite(columns["low"]) & (counts > 0)
        if known.any():
            names = {"low": "below", "high": "above"}
            fractions[sign] = {
                names[side]: float((values * counts)[known].sum() / counts[known].sum())
                for side, values in columns.items()
            }
    if fractions:
        return fractions
    tokens = evidence.tokens
    advantage = tokens["advantage"].to_numpy(float)
    for sign, which in (("pos", 1), ("neg", -1)):
        chosen = tokens[np.sign(advantage) == which]
        if len(chosen) < _FEW_TOKENS:
            continue
        if chosen["clip"].notna().any():
            clip = chosen["clip"].dropna().to_numpy(float)
            fractions[sign] = {"below": float((clip < 0).mean()), "above": float((clip > 0).mean())}
        elif evidence.measured and chosen["weight"].notna().any():
            fractions[sign] = {"on either side": float((chosen["weight"].dropna() == 0).mean())}
    return fractions or f"no clips of {_FEW_TOKENS} tokens of a sign, nor their advantages and measured weights"


def skipped_updates(evidence: Evidence) -> Finding:
    """The fraction of updates in which no token had a weight."""
    if len(evidence.updates):
        skipped = evidence.updates["skipped"].to_numpy(bool)
    elif evidence.measured:
        skipped = evidence.weighted.groupby("update")["carried"].max().to_numpy(float) == 0
    else:
        return missing("skipped-updates", "no updates")
    value = float(skipped.mean())
    sentence = (
        f"{value:.0%} of {len(skipped):,} updates had no token with a weight, so that nothing was learnt in them."
    )
    return Finding("skipped-updates", value, "fraction", sentence, THRESHOLDS["skipped-updates"].severity(value))
