"""Rows of the record tables from what the loop holds: rollouts, tokens, updates and steps.

Columns and their meaning are those of `analysis.records.schema`. All numbers are those of detached copies of what the
update itself computed, so that recording costs no forward pass and changes nothing. Where logits are streamed
(`token_logits.py`), statistics are made of them part by part, by another product with the output layer, before the
update moves it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..laws import TokenStatistics, bucket_membership, dense_statistics, sum_by_bucket
from ..recipes.fields import RecordFields
from ..records.encoding import Columns
from ..records.rows import RolloutRow, TokenColumns, statistics_columns
from ..records.rows import rollout_rows as rows_of_rollouts
from ..records.rows import token_rows as rows_of_tokens
from ..records.schema import BUCKETS
from ..token_stats import token_statistics
from ..token_stats.from_sums import concatenate
from .judged import score_of
from .rollouts import RolloutBatch
from .sign_passes import SignPass
from .token_logits import StreamedLogits
from .update import UpdateResult

__all__ = ["UpdateIndex", "choose_groups", "pass_statistics", "rollout_rows", "step_row", "token_rows", "update_row"]


# Logits that are sorted at a time for the mass of the buckets: an index of 8 bytes for each, and its order.
_SORTED_AT_ONCE = 1 << 21


@dataclass(frozen=True)
class UpdateIndex:
    """Where an update stands in the run."""

    update: int
    step: int
    epoch: int
    minibatch: int

    def __str__(self) -> str:
        return f"update {self.update} (step {self.step}, epoch {self.epoch}, minibatch {self.minibatch})"


def choose_groups(n_groups: int, share: float, generator: torch.Generator) -> Tensor:
    """Bool (n_groups,): the whole prompt groups to record, a fixed number of them drawn without replacement.

    At least one where `share` is positive. The permutation is drawn whatever the share is.
    """
    order = torch.randperm(n_groups, generator=generator)
    chosen = torch.zeros(n_groups, dtype=torch.bool)
    chosen[order[: max(1, round(share * n_groups)) if share > 0 else 0]] = True
    return chosen


def rollout_rows(
    batch: RolloutBatch, advantages: Tensor, groups: Tensor, decode: Callable[[list[int]], str]
) -> Columns:
    """Rows of the table `rollouts` for the chosen prompt groups; `advantages` (N,) are those of the step's targets."""
    rows = [i for i in range(len(batch)) if groups[i // batch.group_size]]
    index = torch.tensor(rows, dtype=torch.long)
    tensors = (batch.finished, batch.rewards, batch.correct, batch.flipped, batch.selected, advantages)
    finished, rewards, correct, flipped, selected, weighed = (values[index].tolist() for values in tensors)
    return rows_of_rollouts(
        [
            RolloutRow(
                step=batch.step,
                rollout=i,
                prompt_id=batch.prompt(i).prompt_id,
                group=i // batch.group_size,
                response_ids=batch.responses[i],
                response_text=decode(batch.responses[i]),
                finished=finished[at],
                reward=rewards[at],
                correct=correct[at],
                noise_flipped=flipped[at],
                verdict=batch.verdicts[i].reason,
                score=score_of(batch.verdicts[i]),
                advantage=weighed[at],
                dropped=not selected[at],
            )
            for at, i in enumerate(rows)
        ]
    )


def step_row(batch: RolloutBatch, n_updates: int, age: int | None = None) -> dict[str, list[Any]]:
    """The row of the table `steps`; `age` is that of the policy that sampled, in steps."""
    rewarded = batch.rewarded
    groups = batch.correct.view(-1, batch.group_size)
    mask = batch.mask()

    def mean_length(rows: Tensor) -> float | None:
        return batch.lengths[rows].double().mean().item() if rows.any() else None

    return {
        "step": [batch.step],
        "n_rollouts": [len(batch)],
        "n_updates": [n_updates],
        "reward_mean": [batch.rewards.double().mean().item()],
        "correct_ratio": [batch.correct.double().mean().item()],
        "fully_solved_ratio": [groups.all(1).double().mean().item()],
        "none_solved_ratio": [(~groups.any(1)).double().mean().item()],
        "length_pos": [mean_length(rewarded)],
        "length_neg": [mean_length(~rewarded)],
        "entropy_own": [batch.entropy[mask].double().mean().item()],
        "entropy_rollout": [batch.sampling_entropy[mask].double().mean().item()],
        "kept_mass": [batch.kept_mass[mask].double().mean().item()],
        "rollout_kl": [batch.kept_mass[mask].double().reciprocal().log().mean().item()],
        "age": [age],
    }


def update_row(
    index: UpdateIndex, result: UpdateResult, statistics: list[TokenStatistics], lr: float, step_norm: float
) -> Columns:
    """The row of the table `updates`; `statistics` of the real tokens of each pass, empty where not recorded."""
    row: dict[str, Any] = {
        "update": index.update,
        "step": index.step,
        "epoch": index.epoch,
        "minibatch": index.minibatch,
        "skipped": result.skipped,
        "loss": sum(sign_pass.loss for sign_pass in result.passes) if result.passes else None,
        "normalizer": result.normalizer,
        "lr": lr,
        "grad_cos": result.grad_cos,
        "clip_coef": result.clip_coef,
        "param_step_norm": step_norm,
        "mask_scale": result.mask_scale,
    }
    for name in ("pos", "neg", "reg", "total"):
        row[f"grad_norm_{name}"] = result.grad_norm.get(name)
    for sign, name in ((1, "pos"), (-1, "neg")):
        passes = [sign_pass for sign_pass in result.passes if sign_pass.sign == sign]
        row[f"rows_{name}"] = sum(len(sign_pass.rows) for sign_pass in passes)
        row[f"tokens_{name}"] = sum(int(sign_pass.mask.sum()) for sign_pass in passes)
        row |= dict.fromkeys(f"{c}_{name}" for c in ("ratio_mean", "clip_low", "clip_high", "weight_sum", "entropy"))
        if not passes:
            continue
        row[f"weight_sum_{name}"] = _over_tokens(passes, [sign_pass.weights for sign_pass in passes]).sum().item()
        ratios = [sign_pass.ratio for sign_pass in passes if sign_pass.ratio is not None]
        if ratios:
            clip = _over_tokens(passes, [sign_pass.clip for sign_pass in passes])
            row[f"ratio_mean_{name}"] = _over_tokens(passes, ratios).mean().item()
            row[f"clip_low_{name}"] = (clip < 0).double().mean().item()
            row[f"clip_high_{name}"] = (clip > 0).double().mean().item()
        entropies = [
            s.entropy for sign_pass, s in zip(result.passes, statistics, strict=False) if sign_pass.sign == sign
        ]
        if entropies:
            row[f"entropy_{name}"] = torch.cat(entropies).double().mean().item()
    tokens = row["tokens_pos"] + row["tokens_neg"]
    with_kl = any(sign_pass.ref_log_probs is not None for sign_pass in result.passes)
    row["value_loss"] = result.value_loss
    row["kl"] = sum(sign_pass.kl_sum for sign_pass in result.passes) / tokens if with_kl else None
    return {name: [value] for name, value in row.items()}


def _over_tokens(passes: list[SignPass], values: list[Tensor]) -> Tensor:
    """The (B, R) values of each pass at its real tokens, one after the other in float64."""
    return torch.cat([value[sign_pass.mask] for sign_pass, value in zip(passes, values, strict=True)]).double()


def pass_statistics(sign_pass: SignPass, fields: RecordFields) -> TokenStatistics:
    """Statistics of the real tokens of a pass, flattened in row-major order."""
    return _statistics(sign_pass, sign_pass.mask, fields)[0]


def _statistics(
    sign_pass: SignPass, chosen: Tensor, fields: RecordFields, *, full: bool = False
) -> tuple[TokenStatistics, Tensor | None, Tensor | None]:
    """Statistics of the tokens where `chosen` (B, R) is true; `full`: with their ranks and most probable tokens, and
    Σ π and Σ π² of each bucket, (n, buckets)."""
    streamed = isinstance(sign_pass.token_logits, StreamedLogits)
    statistics_of = token_statistics if streamed else dense_statistics
    tokens, stats, masses = sign_pass.batch.tokens[chosen], [], []
    for logits in sign_pass.token_logits.parts(chosen):
        wide = logits.to(torch.promote_types(logits.dtype, getattr(torch, fields.dtype)))
        here, tokens = tokens[: len(wide)], tokens[len(wide) :]
        stats.append(statistics_of(wide, here, top_k=fields.top_k if full else 0, rank=full))
        if full:
            masses += [_by_bucket(few) for few in wide.split(max(1, _SORTED_AT_ONCE // wide.shape[1]))]
    if not full:
        return concatenate(stats), None, None
    mass, mass_sq = (torch.cat(values) for values in zip(*masses, strict=True))
    return concatenate(stats), mass, mass_sq


def _by_bucket(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Σ π and Σ π² over the tokens of each bucket, (n, buckets)."""
    membership, probs = bucket_membership(logits, BUCKETS), logits.softmax(-1)
    mass, mass_sq = (sum_by_bucket(values, membership, len(BUCKETS) + 1) for values in (probs, probs.square()))
    return mass, mass_sq


def token_rows(
    index: UpdateIndex,
    sign_pass: SignPass,
    batch: RolloutBatch,
    groups: Tensor,
    fields: RecordFields,
    statistics: TokenStatistics,
) -> Columns | None:
    """Rows of the table `tokens` for the pass's tokens that belong to recorded prompt groups; None if none do."""
    keep_rows = groups[sign_pass.rows // batch.group_size]
    if not keep_rows.any():
        return None
    real = sign_pass.mask.cpu()
    kept = real & keep_rows[:, None]
    flat = kept[real]  # positions among the pass's real tokens
    local_row, position = kept.nonzero(as_tuple=True)

    def pick(values: Tensor | None) -> np.ndarray | None:
        return None if values is None else values.cpu()[kept].numpy()

    stats = statistics.map(lambda values: values.cpu()[flat])
    mass = mass_sq = None
    if fields.columns == "full":
        full, *masses = _statistics(sign_pass, kept.to(sign_pass.mask.device), fields, full=True)
        stats = replace(stats, token_rank=full.token_rank, top_ids=full.top_ids, top_probs=full.top_probs)
        mass, mass_sq = (None if values is None else values.cpu().numpy() for values in masses)
    return rows_of_tokens(
        TokenColumns(
            update=index.update,
            step=index.step,
            rollout=sign_pass.rows[local_row].numpy(),
            position=position.numpy(),
            epoch=index.epoch,
            minibatch=index.minibatch,
            token=sign_pass.batch.tokens.cpu()[kept].numpy(),
            statistics=statistics_columns(stats),
            sampling_log_prob=batch.sampling_log_probs[sign_pass.rows[local_row], position].numpy(),
            kept_mass=batch.kept_mass[sign_pass.rows[local_row], position].numpy(),
            old_log_prob=pick(sign_pass.old_log_probs),
            ref_log_prob=pick(sign_pass.ref_log_probs),
            advantage=pick(sign_pass.advantages)
            if sign_pass.advantages.ndim == 2
            else sign_pass.advantages.cpu()[local_row].numpy(),
            ratio=pick(sign_pass.ratio),
            clip=pick(sign_pass.clip) if sign_pass.ratio is not None else None,
            weight=pick(sign_pass.weights),
            entropy_weight=pick(sign_pass.entropy_weights),
            kl_weight=pick(sign_pass.kl_weights),
            bucket_mass=mass,
            bucket_mass_sq=mass_sq,
        )
    )
