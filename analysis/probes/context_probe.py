"""Contexts: prefixes whose whole next-token distribution is compared before and after an update.

    before(update)  π at the old parameters        after(update)  π' at the new ones        jvp  first order in Δθ

`context_rows` says which contexts these are. Contexts of kind `batch` come from the minibatch being applied, of both
reward signs; those of kind `panel` are fixed at step 0. Each kind has forward passes of its own, so that the panel's
numbers do not depend on what else was in the batch, and its π' serves as the π of the next update when that is the next
one. Everything runs without gradients; parameters, their gradients and the global random state are left as they are
(given a model without active dropout).

Statistics are of softmax(logits / T) at the training temperature T, computed in float64 from the model's logits. Kept
between the two moments are the logits of the n contexts as the model gave them, n·V numbers in its dtype, which is less
than an output head of n columns; everything in float64 exists for a few contexts at a time, and of a JVP only its
effect on log π_y, H and the buckets is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..laws import bucket_membership, dense_statistics, kl_divergence, sum_by_bucket
from ..records.encoding import Columns, ragged
from ..records.schema import BUCKETS, SHARES
from .context_rows import ContextRows
from .jvp import distribution_change, jvp_step, jvp_steps

__all__ = ["ContextProbe"]

# Numbers of a vocabulary that are worked on at once: bounds each array in float64 to 8 MB, unless one row has more.
_AT_ONCE = 1 << 20

# (prompts, responses) as token ids -> logits (B, R, V) that predict each response token, unscaled; see also `picks`.
LogitsFn = Callable[..., Any]


@dataclass(frozen=True)
class _Change:
    """First-order change of log π_y (n,), of H (n,) and of the mass of the buckets (n, buckets), in float64."""

    log_prob: Tensor
    entropy: Tensor
    buckets: Tensor


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
        picks: `logits_fn` takes the positions of each response as a third argument and prepares their pass: it returns
            a function without arguments that gives the logits of those tokens alone, (n, V) in the order of the
            responses. With long responses and a large vocabulary nothing else fits into memory.
    """

    def __init__(
        self,
        logits_fn: LogitsFn,
        *,
        panel: ContextRows | None = None,
        temperature: float = 1.0,
        top_k: int = 8,
        picks: bool = False,
    ) -> None:
        self._logits_fn = logits_fn
        self._picks = picks
        self._panel = panel
        self._temperature = temperature
        self._top_k = top_k
        self._next = 0
        self._panel_after: tuple[int, Tensor] | None = None
        self._update: int | None = None
        self._rows: list[ContextRows] = []
        self._numbers = np.empty(0, dtype=np.int32)
        self._before: Tensor | None = None  # the logits (n, V)
        self._change: _Change | None = None
        self._parts: dict[str, _Change] | None = None

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
        self._update, self._before, self._change, self._parts = update, None, None, None
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
            self._before = torch.cat(logits)
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
        if self._before is None:
            return
        prompts = list(chain.from_iterable(rows.prompts for rows in self._rows))
        responses = list(chain.from_iterable(rows.responses for rows in self._rows))
        positions = list(chain.from_iterable(rows.positions for rows in self._rows))

        logits = self._pass_over(prompts, responses, positions)
        if not parts:
            whole, *of_parts = [jvp_step(model, logits, params_before, step)]
        else:
            whole, *of_parts = jvp_steps(model, logits, params_before, [step, *parts.values()])
        self._change = self._change_under(self._before, whole)
        if parts is not None:
            self._parts = {
                name: self._change_under(self._before, part) for name, part in zip(parts, of_parts, strict=True)
            }

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
        columns = self._flows(self._before, torch.cat(logits))
        return [{"update": update, "context": self._numbers, "weight": weight} | columns]

    def _logits(self, rows: ContextRows) -> Tensor:
        return self._pass_over(rows.prompts, rows.responses, rows.positions)()

    def _pass_over(
        self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], positions: Sequence[Sequence[int]]
    ) -> Callable[[], Tensor]:
        """A function that gives the logits (n, V) at the positions in one forward pass."""
        if self._picks:
            prepared: Callable[[], Tensor] = self._logits_fn(prompts, responses, positions)
            return prepared
        return lambda: _pick(self._logits_fn(prompts, responses), positions)

    def _tokens(self, device: torch.device) -> Tensor:
        return torch.tensor([token for rows in self._rows for token in rows.tokens], device=device)

    @torch.no_grad()
    def _change_under(self, before: Tensor, dlogits: Tensor) -> _Change:
        """What a change of the logits (n, V) does to first order."""
        tokens = self._tokens(before.device)
        changes = []
        for at in _few_rows(before):
            raw = before[at].double()
            log_probs = torch.log_softmax(raw / self._temperature, -1)
            change = distribution_change(log_probs, tokens[at], dlogits[at].double(), self._temperature)
            by_bucket = sum_by_bucket(change.probs, bucket_membership(raw, BUCKETS), len(BUCKETS) + 1)
            changes.append((change.log_prob, change.entropy, by_bucket))
        return _Change(*(torch.cat(values) for values in zip(*changes, strict=True)))

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

    def _flows(self, before: Tensor, after: Tensor) -> dict[str, Any]:
        tokens = self._tokens(before.device)
        parts = [self._flows_of(tokens[at], before[at].double(), after[at].double()) for at in _few_rows(before)]
        columns: dict[str, Any] = {name: torch.cat([part[name] for part, _ in parts]) for name in parts[0][0]}
        if self._change is not None:
            columns["jvp_dlog_prob"], columns["jvp_dentropy"] = self._change.log_prob, self._change.entropy
            columns["jvp_bucket"] = self._change.buckets
        if self._parts is not None:
            shares = torch.zeros(2, len(tokens), len(SHARES), dtype=torch.float64, device=tokens.device)
            for name, change in self._parts.items():
                shares[..., SHARES.index(name)] = torch.stack([change.log_prob, change.entropy])
            columns["jvp_dlog_prob_shares"], columns["jvp_dentropy_shares"] = shares
        columns = {name: _as_recorded(value) for name, value in columns.items()}
        lengths = [length for _, tops in parts for length in tops["lengths"]]
        for name in ("top_ids", "top_prob_before", "top_prob_after", "top_dlogit"):
            columns[name] = ragged(np.concatenate([tops[name] for _, tops in parts]), lengths)
        return columns

    def _flows_of(self, tokens: Tensor, before: Tensor, after: Tensor) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Of a few contexts with tokens y (m,) and logits (m, V) in float64: a number or a fixed number of them each,
        and the lists of their most probable tokens, joined, with their lengths."""
        y = tokens[:, None]
        scaled, scaled_after = before / self._temperature, after / self._temperature
        probs, probs_after = torch.log_softmax(scaled, -1).exp(), torch.log_softmax(scaled_after, -1).exp()
        membership = bucket_membership(before, BUCKETS)
        stats, stats_after = (
            dense_statistics(logits, tokens, temperature=self._temperature, top_k=self._top_k)
            for logits in (before, after)
        )

        def by_bucket(values: Tensor) -> Tensor:
            return sum_by_bucket(values, membership, len(BUCKETS) + 1)

        columns = {
            "one_minus_prob_before": stats.one_minus_prob,
            "direction_norm_before": stats.direction_norm,
            "argmax_token_before": stats.argmax_token,
            "bucket_mass_before": by_bucket(probs),
            "bucket_mass_after": by_bucket(probs_after),
            "bucket_mass_sq_before": by_bucket(probs.square()),
            "token_bucket": membership.gather(-1, y).squeeze(-1),
            "tv": (probs_after - probs).abs().sum(-1) / 2,
            "kl": kl_divergence(scaled, scaled_after),
        }
        for name in ("log_prob", "entropy", "collision", "collision_log_prob", "argmax_prob"):
            columns[f"{name}_before"] = getattr(stats, name)
            columns[f"{name}_after"] = getattr(stats_after, name)
        ids = torch.cat([*(some.top_ids for some in (stats, stats_after) if some.top_ids is not None), y], -1)
        new = ~(ids[:, :, None] == ids[:, None, :]).tril(-1).any(-1)
        tops: dict[str, Any] = {"lengths": new.sum(-1).tolist()}
        for name, values in (
            ("top_ids", ids),
            ("top_prob_before", probs.gather(-1, ids)),
            ("top_prob_after", probs_after.gather(-1, ids)),
            ("top_dlogit", (after - before).gather(-1, ids)),
        ):
            tops[name] = values[new].cpu().numpy()
        return columns, tops


def _few_rows(logits: Tensor) -> Iterator[slice]:
    """The n rows of logits (n, V), so many at a time that they have `_AT_ONCE` numbers at most, or one at a time."""
    size = max(1, _AT_ONCE // logits.shape[1])
    return (slice(start, start + size) for start in range(0, len(logits), size))


def _pick(logits: Tensor, positions: Sequence[Sequence[int]]) -> Tensor:
    """(B, R, V) -> (n, V) at the given positions of each row."""
    rows = [row for row, at in enumerate(positions) for _ in at]
    return logits[torch.tensor(rows, device=logits.device), torch.tensor(list(chain(*positions)), device=logits.device)]


def _as_recorded(values: Tensor) -> Tensor:
    return values.cpu().float() if values.is_floating_point() else values.cpu()
