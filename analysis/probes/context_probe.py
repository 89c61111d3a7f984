"""Contexts: prefixes whose whole next-token distribution is compared before and after an update.

    before(update)  π at the old parameters        after(update)  π' at the new ones        jvp  first order in Δθ

`context_rows` says which contexts these are. Contexts of kind `batch` come from the minibatch being applied, of both
reward signs; those of kind `panel` are fixed at step 0. Each kind has forward passes of its own, so that the panel's
numbers do not depend on what else was in the batch, and its π' serves as the π of the next update when that is the next
one. Everything runs without gradients; parameters, their gradients and the global random state are left as they are
(given a model without active dropout).

Statistics are of softmax(logits / T) at the training temperature T, computed in float64 from the model's logits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..laws import TokenStatistics, bucket_membership, dense_statistics, kl_divergence, sum_by_bucket
from ..records.encoding import Columns, ragged
from ..records.schema import BUCKETS, SHARES
from .context_rows import ContextRows
from .jvp import distribution_change, jvp_step, jvp_steps

__all__ = ["ContextProbe"]

# (prompts, responses) as token ids -> logits (B, R, V) that predict each response token, unscaled
LogitsFn = Callable[[Sequence[Sequence[int]], Sequence[Sequence[int]]], Tensor]


@dataclass(frozen=True)
class _Snapshot:
    """The distributions at n contexts with the tokens y (n,): raw logits and log π, both (n, V) in float64."""

    tokens: Tensor
    logits: Tensor
    log_probs: Tensor
    stats: TokenStatistics


class ContextProbe:
    """Follows a fixed panel and each minibatch's own contexts through updates.

    Around one optimiser update, call `before`, make the step, call `jvp` if it is wanted, call `after`. `before`
    returns rows for the table `contexts` and `after` for `flows`, each a list of columns for `RunWriter.append` (empty
    where there is nothing to add). Contexts are numbered from 0, the panel first. `state_dict` and `load_state_dict`
    carry panel and numbering over an interruption; the panel's π is then computed again, to the same bits.

    Args:
        logits_fn: prompts and responses as token ids -> logits (B, R, V) that predict each response token, unscaled.
        panel: contexts that every update is compared at; None for no panel.
        temperature: T of softmax(logits / T).
        top_k: how many of the most probable tokens are recorded before and after.
    """

    def __init__(
        self, logits_fn: LogitsFn, *, panel: ContextRows | None = None, temperature: float = 1.0, top_k: int = 8
    ) -> None:
        self._logits_fn = logits_fn
        self._panel = panel
        self._temperature = temperature
        self._top_k = top_k
        self._next = 0
        self._panel_after: tuple[int, Tensor] | None = None
        self._update: int | None = None
        self._rows: list[ContextRows] = []
        self._numbers = np.empty(0, dtype=np.int32)
        self._before: _Snapshot | None = None
        self._dlogits: Tensor | None = None
        self._parts: dict[str, Tensor] | None = None

    def __repr__(self) -> str:
        panel = 0 if self._panel is None else sum(map(len, self._panel.positions))
        return f"ContextProbe(panel={panel} contexts, numbered={self._next}, temperature={self._temperature})"

    def state_dict(self) -> dict[str, Any]:
        """Plain values from which `load_state_dict` resumes."""
        return {"panel": None if self._panel is None else asdict(self._panel), "next": self._next}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore panel and numbering."""
        self._panel = None if state["panel"] is None else ContextRows(**state["panel"])
        self._next = state["next"]
        self._panel_after = None

    @torch.no_grad()
    def before(self, update: int, batch: ContextRows | None = None) -> list[Columns]:
        """Compute π at the panel and at `batch` before the update.

        Args:
            update: number of the update.
            batch: contexts from the minibatch being applied.

        Returns:
            Rows of `contexts` for contexts that are new.

        Cost: a forward pass over the batch's rows, and one over the panel's unless `update` follows the last one seen.
        """
        self._update, self._before, self._dlogits, self._parts = update, None, None, None
        self._rows, logits, numbers, new = [], [], [], []
        if self._panel is not None and len(self._panel):
            if self._next == 0:
                new.append(self._panel.columns(0))
                self._next = len(self._panel)
            known = self._panel_after
            logits.append(known[1] if known is not None and known[0] == update - 1 else self._logits(self._panel))
            numbers.append(np.arange(len(self._panel), dtype=np.int32))
            self._rows.append(self._panel)
        if batch is not None and len(batch):
            new.append(batch.columns(self._next))
            logits.append(self._logits(batch))
            numbers.append(np.arange(self._next, self._next + len(batch), dtype=np.int32))
            self._next += len(batch)
            self._rows.append(batch)
        if self._rows:
            self._numbers = np.concatenate(numbers)
            self._before = self._snapshot(torch.cat(logits))
        return new

    def jvp(
        self,
        model: nn.Module,
        params_before: Mapping[str, Tensor],
        step: Mapping[str, Tensor],
        parts: Mapping[str, Mapping[str, Tensor]] | None = None,
    ) -> None:
        """Add the first-order change under the actual parameter step to what `after` returns; see `jvp_step`.

        Args:
            model: whose parameters moved.
            params_before: its parameters before the update, by name.
            step: the parameter step, by name.
            parts: parts of the step by names of `records.schema.SHARES`; the change under each of them is added too.
                A missing part counts as zero. The change under the whole step is computed by itself, not as their sum.

        Cost: one forward pass with tangents over the rows of both kinds.
        """
        if not self._rows:
            return
        prompts = list(chain.from_iterable(rows.prompts for rows in self._rows))
        responses = list(chain.from_iterable(rows.responses for rows in self._rows))
        positions = list(chain.from_iterable(rows.positions for rows in self._rows))

        def logits() -> Tensor:
            return _pick(self._logits_fn(prompts, responses), positions)

        if not parts:
            self._dlogits = jvp_step(model, logits, params_before, step).double()
        else:
            whole, *of_parts = jvp_steps(model, logits, params_before, [step, *parts.values()]).double()
            self._dlogits = whole
        self._parts = None if parts is None else dict(zip(parts, of_parts if parts else (), strict=True))

    @torch.no_grad()
    def after(self, update: int, *, weights: Sequence[Sequence[float]] | None = None) -> list[Columns]:
        """Compute π at the same contexts after the update; one forward pass per kind.

        Args:
            update: the number that `before` was called with.
            weights: measured weights of the batch's contexts, a sequence for each of its responses and in the order of
                its positions; 0 for a response that the objective dropped. The panel has none.

        Returns:
            Rows of `flows`.

        Raises:
            ValueError: `before` was not called for this update, or the weights do not fit its batch.
        """
        if update != self._update:
            raise ValueError(f"update: expected {self._update}, the one that before() was called for, got {update}")
        self._update = None
        if self._before is None:
            return []
        weight = self._weights(weights)
        logits = [self._logits(rows) for rows in self._rows]
        if self._rows[0] is self._panel:
            self._panel_after = update, logits[0]
        columns = self._flows(self._before, self._snapshot(torch.cat(logits)))
        return [{"update": update, "context": self._numbers, "weight": weight} | columns]

    def _logits(self, rows: ContextRows) -> Tensor:
        return _pick(self._logits_fn(rows.prompts, rows.responses), rows.positions).double()

    def _snapshot(self, logits: Tensor) -> _Snapshot:
        tokens = torch.tensor([token for rows in self._rows for token in rows.tokens], device=logits.device)
        stats = dense_statistics(logits, tokens, temperature=self._temperature, top_k=self._top_k)
        return _Snapshot(tokens, logits, torch.log_softmax(logits / self._temperature, -1), stats)

    def _weights(self, weights: Sequence[Sequence[float]] | None) -> list[float | None] | None:
        if weights is None:
            return None
        batch = next((rows for rows in self._rows if rows is not self._panel), None)
        expected = [] if batch is None else [len(at) for at in batch.positions]
        if [len(row) for row in weights] != expected:
            raise ValueError(
                f"weights: expected rows of {expected}, as the batch's contexts, got rows of "
                f"{[len(row) for row in weights]}"
            )
        return [None] * (len(self._numbers) - sum(expected)) + [float(weight) for row in weights for weight in row]

    def _flows(self, before: _Snapshot, after: _Snapshot) -> dict[str, Any]:
        y = before.tokens[:, None]
        probs, probs_after = before.log_probs.exp(), after.log_probs.exp()
        membership = bucket_membership(before.logits, BUCKETS)
        scaled, scaled_after = before.logits / self._temperature, after.logits / self._temperature

        def by_bucket(values: Tensor) -> Tensor:
            return sum_by_bucket(values, membership, len(BUCKETS) + 1)

        columns: dict[str, Any] = {
            "one_minus_prob_before": before.stats.one_minus_prob,
            "direction_norm_before": before.stats.direction_norm,
            "argmax_token_before": before.stats.argmax_token,
            "bucket_mass_before": by_bucket(probs),
            "bucket_mass_after": by_bucket(probs_after),
            "bucket_mass_sq_before": by_bucket(probs.square()),
            "token_bucket": membership.gather(-1, y).squeeze(-1),
            "tv": (probs_after - probs).abs().sum(-1) / 2,
            "kl": kl_divergence(scaled, scaled_after),
        }
        for name in ("log_prob", "entropy", "collision", "collision_log_prob", "argmax_prob"):
            columns[f"{name}_before"] = getattr(before.stats, name)
            columns[f"{name}_after"] = getattr(after.stats, name)
        if self._dlogits is not None:
            change = distribution_change(before.log_probs, before.tokens, self._dlogits, self._temperature)
            columns["jvp_dlog_prob"], columns["jvp_dentropy"] = change.log_prob, change.entropy
            columns["jvp_bucket"] = by_bucket(change.probs)
        if self._parts is not None:
            shares = torch.zeros(2, len(y), len(SHARES), dtype=torch.float64, device=y.device)
            for name, dlogits in self._parts.items():
                change = distribution_change(before.log_probs, before.tokens, dlogits, self._temperature)
                shares[..., SHARES.index(name)] = torch.stack([change.log_prob, change.entropy])
            columns["jvp_dlog_prob_shares"], columns["jvp_dentropy_shares"] = shares
        tops = [snapshot.stats.top_ids for snapshot in (before, after) if snapshot.stats.top_ids is not None]
        ids = torch.cat([*tops, y], -1)
        new = ~(ids[:, :, None] == ids[:, None, :]).tril(-1).any(-1)
        lengths = new.sum(-1).tolist()
        for name, values in (
            ("top_ids", ids),
            ("top_prob_before", probs.gather(-1, ids)),
            ("top_prob_after", probs_after.gather(-1, ids)),
            ("top_dlogit", (after.logits - before.logits).gather(-1, ids)),
        ):
            columns[name] = ragged(values[new].cpu().numpy(), lengths)
        return {name: _as_recorded(value) if isinstance(value, Tensor) else value for name, value in columns.items()}


def _pick(logits: Tensor, positions: Sequence[Sequence[int]]) -> Tensor:
    """(B, R, V) -> (n, V) at the given positions of each row."""
    rows = [row for row, at in enumerate(positions) for _ in at]
    return logits[torch.tensor(rows, device=logits.device), torch.tensor(list(chain(*positions)), device=logits.device)]


def _as_recorded(values: Tensor) -> Tensor:
    return values.cpu().float() if values.is_floating_point() else values.cpu()
