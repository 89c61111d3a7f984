"""Data of the summary of recorded tokens: where they sit against the boundaries of the laws, and what weights do there.

The tokens are those of a trace of recorded rollouts, of a run of `attach`, or of any other run that recorded tokens.
Everything is first order per unit logit step, Δ(z/T) = w·(e_y − π), of each token in its own context: signs, orders
and fractions count, the scale does not. Intervals are 95%, over prompts (`bands.ratio`): the tokens of a prompt's
responses depend on each other.

    below c            π_y < c: alternatives with less mass than c − π_y move with y, so NSR drains the tail as well
    entropy under NSR  rises where π_y(log π_y + H) > S + cH, never where π_y < e^{−H}
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from ..common.notebook_html import visible
from ..common.short_repr import short_repr
from ..common.tables import Cell
from ..errors import UsageError
from ..laws import bucket_flow, entropy_change, entropy_change_parts, squeeze_boundary
from ..objectives import parse_objective
from ..records.effects import statistics_of
from ..records.hypothetical_weights import assumed_weights
from ..records.rewarded import rewarded
from ..records.schema import BUCKET_LABELS, BUCKETS, LAW_STATISTICS
from ..records.token_text import decoder, spelling_of
from .bands import ratio
from .token_classes import token_class

if TYPE_CHECKING:
    from ..records import Run

__all__ = ["ALL", "MEASURED", "REWARDED", "UNREWARDED", "TraceData", "reward_signs"]

ALL, REWARDED, UNREWARDED = "all", "rewarded", "unrewarded"
MEASURED = "measured weights"  # name of the weights that were measured on the loss itself
_READ = [
    *("update", "step", "rollout", "position", "token", "token_rank", "argmax_token", "old_log_prob", "advantage"),
    *("weight", "residual"),
    *LAW_STATISTICS,
]
_CARRYING = ("token", "text", "count", "value", "low", "high", "kind", "reason")
_POSITIONS = _UPDATES = 12  # bins
_PROBS = np.array([0.0, 1e-4, 1e-3, 1e-2, 0.03, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.97, 0.99, 1.0])


def reward_signs(run: Run, rows: pd.DataFrame) -> np.ndarray:
    """+1 rewarded, −1 unrewarded: by the reward, or the verdict where rewards are scores; where there is none by the
    sign of the advantage, 0 without either. `rows` have the columns reward, correct and advantage."""
    by_advantage = np.sign(rows["advantage"].fillna(0.0)).astype(int)
    above = run.info.get("trace", {}).get("rewarded_above") or 0.0  # of a trace; elsewhere, and in old ones, 0
    by_reward = np.where(rewarded(rows, run.info, above), 1, -1)
    return np.where(rows["reward"].isna(), by_advantage, by_reward)


@short_repr
@dataclass(frozen=True)
class TraceData:
    """The recorded tokens of a run with what follows from them for a weight of 1.

    Attributes:
        run: where they were recorded.
        tokens: one row a token, see `of`.
        flow: (n, buckets), first-order change of the mass by rank at w = 1; None where no mass by rank was recorded.
        weights: (n,) by objective, and `MEASURED` where the weights of the loss itself were measured (0 where not).
    """

    run: Run
    tokens: pd.DataFrame
    flow: np.ndarray | None
    weights: dict[str, np.ndarray]

    @classmethod
    def of(cls, run: Run, objectives: Sequence[str] | None = None) -> TraceData:
        """Read the tokens of a run.

        Args:
            run: any run that recorded tokens.
            objectives: what weights to work out, by name; unset: those that an offline trace was asked for.

        Returns:
            The data. Columns of `tokens`: prompt_id, sign (+1 rewarded, that is with a reward above the trace's
            `rewarded_above`, elsewhere above 0, −1 unrewarded; without a reward the sign of
            the advantage, 0 without either), update, step, rollout, position, token, the recorded statistics, weight
            and residual where they were measured, prob, top (whether the token is the most probable one), boundary
            (c − π_y), below (whether it is positive), rare (whether π_y < e^{−H}), dentropy and dentropy_rest at
            w = 1, raises (whether NSR raises the entropy).

        Raises:
            UsageError: a run without tokens, or objectives that the run has no inputs for.
        """
        arrow = run.table("tokens", [*_READ, "bucket_mass", "bucket_mass_sq"], as_="arrow")
        if not arrow.num_rows:
            raise UsageError(f"run: expected recorded tokens, got none in {run.folder} yet; resume it first")
        lists = ["bucket_mass", "bucket_mass_sq"]
        ranked = not any(arrow.column(name).null_count for name in ("token_rank", *lists))
        tokens = arrow.drop_columns(lists).to_pandas()
        rollouts = run.table("rollouts", ["step", "rollout", "prompt_id", "reward", "correct"])
        tokens = tokens.merge(rollouts, how="left", on=["step", "rollout"], validate="many_to_one")
        tokens["sign"] = reward_signs(run, tokens)
        tokens = tokens.drop(columns="correct")
        stats = statistics_of(tokens)
        flow = None
        if ranked:
            bucket = np.searchsorted(np.array(BUCKETS), tokens["token_rank"].to_numpy() + 1)
            mass, mass_sq = (_matrix(arrow, name) for name in lists)
            flow = bucket_flow(mass, mass_sq, stats, 1.0, 1.0, token_bucket=torch.from_numpy(bucket)).numpy()
        boundary, dentropy = squeeze_boundary(stats).numpy(), entropy_change(stats, 1.0, 1.0).numpy()
        tokens = tokens.assign(
            prob=stats.prob.numpy(),
            top=(tokens["argmax_token"] == tokens["token"]) | (tokens["token_rank"] == 0),
            boundary=boundary,
            below=boundary > 0,
            dentropy=dentropy,
            raises=dentropy < 0,
            rare=(stats.log_prob < -stats.entropy).numpy(),
            dentropy_rest=entropy_change_parts(stats, 1.0, 1.0).rest.numpy(),
        )
        wanted = run.info.get("trace", {}).get("objectives", []) if objectives is None else objectives
        weights = {name: assumed_weights(run, tokens, parse_objective(name)).numpy() for name in wanted}
        if tokens["weight"].notna().any():
            weights = {MEASURED: tokens["weight"].fillna(0.0).to_numpy(float)} | weights
        return cls(run, tokens, flow, weights)

    @cached_property
    def signs(self) -> dict[str, np.ndarray]:
        """all, and where there are rewards rewarded and unrewarded -> which tokens (n,) bool."""
        sign = self.tokens["sign"].to_numpy()
        masks = {ALL: np.ones(len(sign), dtype=bool), REWARDED: sign > 0, UNREWARDED: sign < 0}
        return {name: rows for name, rows in masks.items() if rows.any()}

    def mean(self, values: np.ndarray, rows: np.ndarray, *, by: np.ndarray | None = None) -> Cell:
        """Σ values / Σ by over `rows` (by: the number of tokens) with its interval over prompts."""
        return self.ratio(values[rows], np.ones(rows.sum()) if by is None else by[rows], rows)

    def ratio(self, above: np.ndarray, below: np.ndarray, rows: np.ndarray) -> Cell:
        """Σ above / Σ below, both given at `rows` alone, with its interval over prompts."""
        if not below.any():
            return Cell(np.nan)
        return Cell.of(ratio(self._units[rows], above.astype(float), below.astype(float)))

    @cached_property
    def _units(self) -> np.ndarray:
        return pd.factorize(self.tokens["prompt_id"])[0]

    def by_position(self) -> pd.DataFrame:
        """Mean entropy and fraction of tokens with π_y < c by position: columns quantity, label (of the
        sign), position (mean of the bin, from 1), value, low, high."""
        position = self.tokens["position"].to_numpy()
        edges = np.unique(np.geomspace(1, position.max() + 2, _POSITIONS + 1).round().astype(int)) - 1
        return self._binned(
            np.digitize(position, edges) - 1,
            len(edges) - 1,
            position + 1.0,
            "position",
            {"entropy": self.tokens["entropy"].to_numpy(float), "below": self.tokens["below"].to_numpy()},
        )

    def by_update(self) -> pd.DataFrame:
        """Means over the tokens of successive updates: columns quantity, label (of the sign), update (mean of the bin),
        value, low, high.

        Quantities: entropy, prob, below (fraction with π_y < c), and where weights were measured weight,
        size (|w|) and effect (w·dentropy, the first-order change of the entropy of the token's own context).
        """
        update = self.tokens["update"].to_numpy()
        edges = np.linspace(update.min(), update.max() + 1, min(_UPDATES, update.max() - update.min() + 1) + 1)
        quantities = {name: self.tokens[name].to_numpy(float) for name in ("entropy", "prob", "below")}
        if MEASURED in self.weights:
            weight = self.weights[MEASURED]
            quantities |= {
                "weight": weight,
                "size": np.abs(weight),
                "effect": weight * self.tokens["dentropy"].to_numpy(float),
            }
        index = np.clip(np.digitize(update, edges) - 1, 0, len(edges) - 2)
        return self._binned(index, len(edges) - 1, update.astype(float), "update", quantities)

    def by_probability(self) -> pd.DataFrame:
        """Fraction of tokens whose NSR raises the entropy, by π_y: columns quantity, label, prob (mean of the bin),
        value, low, high."""
        prob = self.tokens["prob"].to_numpy()
        index = np.clip(np.digitize(prob, _PROBS) - 1, 0, len(_PROBS) - 2)
        return self._binned(index, len(_PROBS) - 1, prob, "prob", {"raises": self.tokens["raises"].to_numpy()})

    def _binned(
        self, index: np.ndarray, bins: int, x: np.ndarray, name: str, quantities: dict[str, np.ndarray]
    ) -> pd.DataFrame:
        out = []
        for label, rows in self._apart().items():
            for at in range(bins):
                here = rows & (index == at)
                if not here.any():
                    continue
                for quantity, values in quantities.items():
                    cell = self.mean(values, here)
                    out.append(
                        (quantity, label, float(x[here].mean()), int(here.sum()), cell.value, cell.low, cell.high)
                    )
        return pd.DataFrame(out, columns=["quantity", "label", name, "tokens", "value", "low", "high"])

    def _apart(self) -> dict[str, np.ndarray]:
        """Rewarded and unrewarded tokens, or all where there are no rewards."""
        return {name: rows for name, rows in self.signs.items() if name != ALL} or self.signs

    def mass_flow(self, objective: str) -> pd.DataFrame:
        """Change of mass by rank under an objective, mean over all tokens: columns label (rewarded, unrewarded: what
        their tokens contribute, and all, their sum), bucket, value, low, high, kind and reason of the interval. Only
        with `flow`."""
        assert self.flow is not None
        weight, everything = self.weights[objective], self.signs[ALL]
        out = []
        for label, rows in self.signs.items():
            for at, bucket in enumerate(BUCKET_LABELS):
                cell = self.mean(np.where(rows, weight * self.flow[:, at], 0.0), everything)
                out.append((label, bucket, cell.value, cell.low, cell.high, cell.kind, cell.reason))
        return pd.DataFrame(out, columns=["label", "bucket", "value", "low", "high", "kind", "reason"])

    def entropy_flow(self, objective: str, column: str = "dentropy") -> dict[str, Cell]:
        """label -> first-order change of the entropy (or of that among the alternatives, dentropy_rest), mean over all
        tokens."""
        values = self.weights[objective] * self.tokens[column].to_numpy()
        return {label: self.mean(np.where(rows, values, 0.0), self.signs[ALL]) for label, rows in self.signs.items()}

    def gradient_tokens(self, objective: str, sign: int, most: int) -> pd.DataFrame:
        """The tokens that carry most of Σ|w|·‖e_y − π‖ among weights of one sign, in falling order.

        Columns: token, text, count (with a weight of that sign), value, low, high (fraction of that sum), kind and
        reason (of the interval), prob (mean π_y).
        """
        weight = self.weights[objective]
        here = np.sign(weight) == sign
        if not here.any():
            return pd.DataFrame(columns=[*_CARRYING, "prob"])
        carried = np.abs(weight) * self.tokens["direction_norm"].to_numpy(float)
        token = self.tokens["token"].to_numpy()
        order = pd.Series(carried[here]).groupby(token[here]).sum().sort_values(ascending=False, kind="stable")
        out = []
        for token_id in order.index[:most]:
            rows = here & (token == token_id)
            cell = self.ratio(np.where(token[here] == token_id, carried[here], 0.0), carried[here], here)
            out.append(
                (
                    int(token_id),
                    self.text([int(token_id)]),
                    int(rows.sum()),
                    cell.value,
                    cell.low,
                    cell.high,
                    cell.kind,
                    cell.reason,
                    float(self.tokens["prob"].to_numpy()[rows].mean()),
                )
            )
        return pd.DataFrame(out, columns=[*_CARRYING, "prob"])

    @cached_property
    def classes(self) -> np.ndarray:
        """(n,) the class of each token by its text (`token_classes`)."""
        spelling = spelling_of(self.run)
        ids, places = np.unique(self.tokens["token"].to_numpy(), return_inverse=True)
        return np.array([token_class(spelling(int(i))) for i in ids], dtype=object)[places]

    @cached_property
    def text(self) -> Callable[[Sequence[int]], str]:
        """Token ids as text, white space shown."""
        decode = decoder(self.run)
        return lambda ids: visible(decode(ids))


def _matrix(rows: pa.Table, name: str) -> torch.Tensor:
    flat = rows.column(name).combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return torch.from_numpy(flat.astype(np.float64).reshape(rows.num_rows, len(BUCKET_LABELS)))
