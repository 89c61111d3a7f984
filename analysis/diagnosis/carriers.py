"""What carried the update: which sign, lengths, entropies, prompts and tokens.

Shares are of Σ |w|·‖e_y − π‖₂/T over the recorded tokens that have a weight; see `evidence`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from .evidence import Evidence
from .finding import Finding, missing
from .thresholds import THRESHOLDS

__all__ = ["by_entropy", "by_length", "by_prompt", "by_sign", "top_tokens"]

_TOP = 10
_BEFORE, _AFTER = 8, 4  # tokens of context that are shown
_FEW_TOKENS, _FEW_RESPONSES, _FEW_PROMPTS = 100, 20, 8
_EVEN = 5.0  # times its even share, from which a prompt counts as dominant
_EVEN_TOKENS = 10.0


def by_sign(evidence: Evidence) -> Finding:
    """The share of tokens whose weight pushed them down."""
    if evidence.no_weights:
        return missing("sign", evidence.no_weights)
    shares = evidence.shares(np.sign(evidence.weighted["weight"].to_numpy(float)))
    down, up = float(shares.get(-1.0, 0.0)), float(shares.get(1.0, 0.0))
    sentence = (
        f"Tokens that were pushed down (negative weight) carried {down:.0%} of the update and tokens that were pushed "
        f"up {up:.0%}{evidence.origin}."
    )
    return Finding("sign", down, "fraction", sentence, details={"negative": down, "positive": up})


def by_length(evidence: Evidence) -> Finding:
    """The share of the longest quarter of responses, against its share of the tokens."""
    if evidence.no_weights:
        return missing("lengths", evidence.no_weights)
    tokens = evidence.weighted
    lengths = tokens.groupby(["step", "rollout"])["length"].first()
    if len(lengths) < _FEW_RESPONSES or lengths.nunique() < 4:
        return missing(
            "lengths",
            f"too little; it needs {_FEW_RESPONSES} responses of 4 lengths, got {len(lengths)} of {lengths.nunique()}",
        )
    edges = np.quantile(lengths, [0.25, 0.5, 0.75])
    quarter = np.searchsorted(edges, tokens["length"].to_numpy(float), side="left")
    shares = evidence.shares(quarter).reindex(range(4), fill_value=0.0)
    counts = pd.Series(quarter).value_counts(normalize=True).reindex(range(4), fill_value=0.0)
    if counts[3] == 0:
        return missing("lengths", "responses longer than three quarters of the others")
    ratio = float(shares[3] / counts[3])
    sentence = (
        f"The longest quarter of responses (over {edges[2]:g} tokens) carried {shares[3]:.0%} of the update with "
        f"{counts[3]:.0%} of the tokens; the shortest quarter {shares[0]:.0%} with {counts[0]:.0%}{evidence.origin}."
    )
    details = {"upper_lengths": edges.tolist(), "shares": shares.tolist(), "token_shares": counts.tolist()}
    return Finding("lengths", ratio, "times the share of tokens", sentence, details=details)


def by_entropy(evidence: Evidence) -> Finding:
    """The share of the tenth of tokens at which the policy was least certain."""
    if evidence.no_weights:
        return missing("entropy-deciles", evidence.no_weights)
    tokens = evidence.weighted
    if len(tokens) < _FEW_TOKENS:
        return missing("entropy-deciles", f"too little; it needs {_FEW_TOKENS} tokens with a weight, got {len(tokens)}")
    place = tokens["entropy"].rank(method="first").to_numpy(float) - 1
    decile = (10 * place // len(tokens)).astype(int)
    shares = evidence.shares(decile).reindex(range(10), fill_value=0.0)
    largest = float(shares.max())
    threshold = float(np.quantile(tokens["entropy"], 0.9))
    sentence = (
        f"The tenth of tokens with the highest entropy (over {threshold:.2f} nats) carried {shares[9]:.0%} of the "
        f"update, the lower half {shares[:5].sum():.0%}{evidence.origin}."
    )
    severity = THRESHOLDS["entropy-deciles"].severity(largest)
    details = {"shares": shares.tolist(), "highest_decile_from": threshold}
    return Finding("entropy-deciles", float(shares[9]), "fraction", sentence, severity, details)


def by_prompt(evidence: Evidence) -> Finding:
    """The share of the prompt that carried most."""
    if evidence.no_weights:
        return missing("prompts", evidence.no_weights)
    shares = evidence.shares("prompt_id").sort_values(ascending=False)
    first, top, count = str(shares.index[0]), float(shares.iloc[0]), len(shares)
    effective = float(1 / (shares**2).sum())
    text = _prompt_text(evidence, first)
    sentence = (
        f"{count} prompts carried the update as {effective:.1f} equal ones would; the first of them, {text!r}, carried "
        f"{top:.0%}{evidence.origin}."
    )
    judged = count >= _FEW_PROMPTS and top >= _EVEN / count
    severity = THRESHOLDS["prompts"].severity(top) if judged else "fine"
    details = {"prompts": count, "effective": effective, "top": {str(k): float(v) for k, v in shares[:_TOP].items()}}
    return Finding("prompts", top, "fraction", sentence, severity, details)


def top_tokens(evidence: Evidence) -> Finding:
    """The ten tokens that carried most, each in its context."""
    if evidence.no_weights:
        return missing("top-tokens", evidence.no_weights)
    tokens = evidence.weighted
    top = tokens.nlargest(_TOP, "carried")
    total = float(tokens["carried"].sum())
    share = float(top["carried"].sum() / total)
    responses = evidence.rollouts.set_index(["step", "rollout"])["response_ids"]
    shown = [
        _in_context(evidence, row, responses) | {"share": float(row["carried"]) / total} for _, row in top.iterrows()
    ]
    first = shown[0]
    even = len(top) / len(tokens)
    severity = THRESHOLDS["top-tokens"].severity(share) if share >= _EVEN_TOKENS * even else "fine"
    sentence = (
        f"The {len(top)} tokens that carried most, of {len(tokens):,}, carried {share:.1%} of the update; the first is "
        f"{first['token']!r} with probability {first['probability']:.2g} and weight {first['weight']:.2g}, after "
        f"{first['before']!r}{evidence.origin}."
    )
    return Finding("top-tokens", share, "fraction", sentence, severity, {"tokens": shown})


def _in_context(evidence: Evidence, row: pd.Series, responses: pd.Series) -> dict[str, Any]:
    """A token with the text around it."""
    ids = responses.get((row["step"], row["rollout"]))
    place = int(row["position"])
    decode = evidence.decode or (lambda numbers: " ".join(f"#{number}" for number in numbers))
    before = "" if ids is None else decode(ids[max(0, place - _BEFORE) : place])
    after = "" if ids is None else decode(ids[place + 1 : place + 1 + _AFTER])
    text = row.get("token_text")
    return {
        "update": int(row["update"]),
        "step": int(row["step"]),
        "rollout": int(row["rollout"]),
        "position": place,
        "token": text if isinstance(text, str) else f"#{int(row['token'])}",
        "before": before,
        "after": after,
        "probability": float(np.exp(row["log_prob"])),
        "weight": float(row["weight"]),
        "carried": float(row["carried"]),
    }


def _prompt_text(evidence: Evidence, prompt_id: str) -> str:
    if evidence.run is None:
        return prompt_id
    texts = evidence.run.table("prompts", ["text"], [("prompt_id", "==", prompt_id)])["text"]
    text = str(texts.iloc[0]) if len(texts) else ""
    return text[:57] + "…" if len(text) > 58 else text or prompt_id
