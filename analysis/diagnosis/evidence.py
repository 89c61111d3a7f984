"""What a diagnosis reads of a run, once: rollouts, tokens with what they carried, updates, steps.

What a token carries is the 2-norm of the gradient that its weight gives to the logits of its own context,
|w|·‖e_y − π‖₂/T. Shares of the update are shares of the sum of these norms over the recorded tokens: gradients of
different tokens may cancel in the parameters, so that a share says how hard a token was pushed, not how far the
parameters moved for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..offline.rewards import scheme_of
from ..records.rewarded import rewarded, trained_on_scores
from ..records.schema import TABLES

if TYPE_CHECKING:
    from ..objectives import Objective
    from ..records import Recorded
    from ..records.token_text import Decode

__all__ = ["Evidence", "of_run", "signs_of"]

_KEY = ["step", "rollout"]


@dataclass(frozen=True)
class Evidence:
    """The tables of a run; one that is not recorded is empty.

    Attributes:
        rollouts: of `records.schema`, with `sign` (+1 rewarded, −1 unrewarded, 0 neither, NaN unknown).
        tokens: with `carried` (NaN where there is no weight), and sign, length and prompt_id of their rollout.
        updates: of the schema.
        steps: of the schema.
        measured: whether the weights were measured; otherwise they are those that `objective` would have given.
        objective: name of the assumed objective.
        info: of run.json; empty for a file.
        run: the run; None for a file.
        decode: token ids as text.
    """

    rollouts: pd.DataFrame
    tokens: pd.DataFrame
    updates: pd.DataFrame
    steps: pd.DataFrame
    measured: bool = False
    objective: str | None = None
    info: dict[str, Any] = field(default_factory=dict)
    run: Recorded | None = None
    decode: Decode | None = None

    @property
    def weighted(self) -> pd.DataFrame:
        """Tokens with a known weight."""
        return self.tokens[self.tokens["carried"].notna()]

    @property
    def no_weights(self) -> str:
        """Why nothing is known of what carried the update; empty where it is."""
        if self.tokens.empty:
            return "no tokens; trace the rollouts with a model (python -m analysis.trace --rollouts)"
        if not (self.tokens["carried"] > 0).any():
            return "no token has a weight; --objective NAME assumes those of an objective"
        return ""

    @property
    def origin(self) -> str:
        """What kind of weights the shares are from, for a sentence."""
        return "" if self.measured else f", by the weights that {self.objective} would give"

    def shares(self, key: Any) -> pd.Series:
        """What fraction of all that was carried each value of `key` (a column or an array over `weighted`) carried."""
        tokens = self.weighted
        sums = tokens["carried"].groupby(tokens[key] if isinstance(key, str) else key).sum()
        return sums / sums.sum()


def of_run(run: Recorded, objective: str | Objective | None = None) -> Evidence:
    """The evidence of a recorded run.

    Args:
        run: the run.
        objective: whose weights are assumed where none were measured, or instead of them.

    Raises:
        UsageError: the records lack what the objective needs.
    """
    from ..objectives import objective_text
    from ..records.effects import token_laws
    from ..records.token_text import decoder

    rollouts = run.table("rollouts")
    measured = objective is None and bool(run.table("tokens", ["weight"])["weight"].notna().any())
    if measured or objective is not None:
        tokens = token_laws(run, objective).rename(columns={"grad_l2": "carried"})
    else:
        singles = [column.name for column in TABLES["tokens"].columns if column.kind not in ("ints", "floats")]
        tokens = run.table("tokens", [*singles, "token_text"]).assign(carried=np.nan)
    rollouts = rollouts.assign(sign=signs_of(rollouts, run.info))
    tokens = tokens.merge(rollouts[[*_KEY, "sign", "length", "prompt_id"]], on=_KEY, how="left", validate="many_to_one")
    name = None if objective is None else objective if isinstance(objective, str) else objective_text(objective)
    return Evidence(
        rollouts=rollouts,
        tokens=tokens,
        updates=run.table("updates"),
        steps=run.table("steps"),
        measured=measured,
        objective=name,
        info=dict(run.info),
        run=run,
        decode=decoder(run),
    )


def signs_of(rollouts: pd.DataFrame, info: Mapping[str, Any]) -> np.ndarray:
    """+1 for rewarded responses and −1 for others, by the bound of an offline trace or of the scheme of the rewards, by
    the verdict where training saw scores; without rewards the sign of the advantage."""
    rewards = rollouts["reward"].to_numpy(float)
    known = np.isfinite(rewards)
    scheme = scheme_of(rewards[known].tolist())
    if scheme is None:
        return np.sign(rollouts["advantage"].to_numpy(float))
    if trained_on_scores(info):
        return np.where(known, np.where(rewarded(rollouts, info), 1.0, -1.0), np.nan)
    traced = (info.get("trace") or {}).get("rewards") or {}
    above = traced.get("rewarded_above", scheme.rewarded_above)
    return np.where(known, np.where(rewards > above, 1.0, -1.0), np.nan)
