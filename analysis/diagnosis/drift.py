"""How far the policy has moved: its entropy with what moved it, and sampler against trainer."""

from __future__ import annotations

import numpy as np
import pandas as pd

from .evidence import Evidence
from .finding import SEVERITIES, Finding, missing
from .thresholds import THRESHOLDS

__all__ = ["entropy_by_step", "entropy_drift", "sampler_mismatch"]

_FIFTH = 5  # the drift is between the means of the first and the last fifth of the steps
_LEAST_ENTROPY = 0.02  # nats at the start, below which a ratio says little
_FEW_TOKENS = 100
_EXPLAINED = 0.5  # of the squared differences, from where on a temperature is named


def entropy_by_step(evidence: Evidence) -> pd.Series:
    """Mean entropy of the sampled tokens at each step, nats."""
    if len(evidence.steps):
        return evidence.steps.set_index("step")["entropy_own"].astype(float)
    if evidence.tokens.empty:
        return pd.Series(dtype=float)
    return evidence.tokens.groupby("step")["entropy"].mean().astype(float)


def entropy_drift(evidence: Evidence) -> Finding:
    """The change of the mean entropy, and the parts that the first order gives to each cause."""
    series = entropy_by_step(evidence).dropna()
    if len(series) < 2:
        return missing("entropy-drift", "the entropy of two steps")
    width = max(1, len(series) // _FIFTH)
    start, end = float(series.iloc[:width].mean()), float(series.iloc[-width:].mean())
    change = end - start
    causes, view = _causes(evidence)
    sentence = f"The mean entropy went from {start:.3f} to {end:.3f} nats in {len(series)} steps."
    if causes:
        listed = ", ".join(f"{name} {value:+.2g}" for name, value in causes.items())
        sentence += f" By cause, {view}: {listed}."
    size = abs(np.log(max(end, 1e-12) / start)) if start > _LEAST_ENTROPY else 0.0
    severity = THRESHOLDS["entropy-drift"].severity(float(size))
    if severity == "alarm":
        sentence += " The policy has collapsed." if change < 0 else " The policy has flattened."
    details = {"start": start, "end": end, "causes": causes, "causes_are": view}
    return Finding("entropy-drift", change, "nats", sentence, severity, details)


def _causes(evidence: Evidence) -> tuple[dict[str, float], str]:
    """Cause -> first-order change of entropy, and what the numbers are.

    From the recorded JVP by part of the step at contexts of the panel where it is there (nats per update); else from
    the weights, each on its own context at a unit logit step: then only signs and proportions count.
    """
    if evidence.run is not None and evidence.measured:
        from ..records import step_shares

        summary = step_shares.shares_summary(evidence.run)
        summary = summary[(summary["quantity"] == "entropy") & (summary["view"] == "source")]
        panel = summary[summary["kind"] == "panel"]
        rows = panel if len(panel) else summary
        if len(rows):
            weights = rows["n"].to_numpy(float)
            total = (rows["mean"].astype(float) * weights).groupby(rows["part"]).sum() / rows.groupby("part")["n"].sum()
            words = {
                "pos": "rewarded responses",
                "neg": "unrewarded responses",
                "reg": "regularisers",
                "decay": "decay",
            }
            causes = {words[part]: float(total[part]) for part in words if abs(total.get(part, 0.0)) > 0}
            kind = "held-out contexts" if len(panel) else "contexts of the batch"
            return causes, f"in nats per update at {kind} by the first order of the actual step"
    tokens = evidence.tokens
    if "dentropy" not in tokens or not tokens["dentropy"].notna().any():
        return {}, ""
    change = tokens["dentropy"].to_numpy(float)
    weight = tokens["weight"].to_numpy(float)
    total = float(np.nansum(np.abs(change)))
    if not total:
        return {}, ""
    causes = {
        "weights up": float(np.nansum(change[weight > 0]) / total),
        "weights down": float(np.nansum(change[weight < 0]) / total),
    }
    return causes, "as a fraction of all that was pushed, each token on its own context by the law"


def sampler_mismatch(evidence: Evidence) -> Finding:
    """Mean log q − log π over sampled tokens, q the sampler's distribution and π the trainer's: KL(q ‖ π).

    With a truncated sampler q is that of before truncation (its kept mass is added). Where the recorded distribution of
    the sampler is tempered, log q − log π is near (1/τ − 1)·(log π_y + H), τ the sampler's temperature over the
    trainer's, so that the slope of the one on the other tells τ.
    """
    tokens = evidence.tokens
    pairs = _sampler_and_trainer(tokens)
    if pairs is None:
        return missing("sampler-mismatch", "no log-probabilities of the sampler beside those of the trainer")
    sampler, trainer, chosen, names = pairs
    difference = sampler - trainer
    if len(difference) < _FEW_TOKENS:
        return missing(
            "sampler-mismatch", f"too little; it needs {_FEW_TOKENS} tokens with both log-probs, got {len(difference)}"
        )
    mean, size = float(difference.mean()), float(np.abs(difference).mean())
    per_response = pd.Series(difference).groupby([chosen["step"].to_numpy(), chosen["rollout"].to_numpy()])
    error = _cluster_error(per_response.sum().to_numpy(), per_response.size().to_numpy())
    threshold = THRESHOLDS["sampler-mismatch"]
    severity = threshold.severity(max(0.0, abs(mean) - 2 * error))
    sentence = (
        f"{names} differ by {mean:.2g} ± {error:.1g} nats per token in the mean (KL of the sampler's distribution to "
        f"the trainer's) and by {size:.2g} in size."
    )
    surprise = trainer + chosen["entropy"].to_numpy(float)
    slope = float((difference * surprise).sum() / (surprise**2).sum()) if (surprise**2).sum() else 0.0
    left = float(((difference - slope * surprise) ** 2).sum())
    explained = 1 - left / float((difference**2).sum()) if (difference**2).any() else 0.0
    details = {"mean": mean, "standard_error": error, "mean_size": size, "tokens": len(difference)}
    temperature = 1 / (1 + slope) if slope > -1 else np.inf
    tempered = THRESHOLDS["sampler-temperature"].severity(abs(float(np.log(temperature))))
    if explained >= _EXPLAINED and tempered != "fine" and np.isfinite(temperature):
        details |= {"temperature_ratio": temperature, "explained": explained}
        sentence += (
            f" {explained:.0%} of the difference is that of another temperature: the recorded distribution is like the "
            f"trainer's at about {temperature:.2g} times its temperature."
        )
        severity = max(severity, tempered, key=SEVERITIES.index)
    return Finding("sampler-mismatch", mean, "nats per token", sentence, severity, details)


def _sampler_and_trainer(tokens: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, pd.DataFrame, str] | None:
    """log q and log π of the tokens that have both, those tokens, and what the two are in words."""
    first = tokens[(tokens["epoch"] == 0)]
    sampling = first["sampling_log_prob"].astype(float) + np.log(first["kept_mass"].astype(float).fillna(1.0))
    old, now = first["old_log_prob"].astype(float), first["log_prob"].astype(float)
    old = old.mask((first["update"] < 0) & (old == sampling))  # of a file that has the sampler's alone
    if (sampling.notna() & old.notna()).any():
        sampler, trainer, names = sampling, old, "The sampler's and the trainer's log-probabilities"
    elif sampling.notna().any():
        sampler, trainer, names = sampling, now, "The sampler's log-probabilities and those before the update"
    else:
        sampler, trainer, names = old, now, "The log-probabilities that came with the responses and the model's own"
    both = np.isfinite(sampler) & np.isfinite(trainer)
    if not both.any():
        return None
    return sampler[both].to_numpy(), trainer[both].to_numpy(), first[both], names


def _cluster_error(sums: np.ndarray, counts: np.ndarray) -> float:
    """Standard error of Σ sums / Σ counts, responses independent."""
    mean = sums.sum() / counts.sum()
    n = len(sums)
    return float(np.sqrt(((sums - mean * counts) ** 2).sum() * n / max(1, n - 1)) / counts.sum())
