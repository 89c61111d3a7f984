"""Rows of the record tables from what the hooks of a TRL trainer saw."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from ...records.encoding import Columns
from ...records.rows import PromptRow, RolloutRow, TokenColumns, statistics_columns, token_rows
from ..step_rows import step_row
from ..update_parts import Weights
from .batches import Generation, Microbatch

__all__ = ["batch_row", "new_prompts", "rollouts_of", "tokens_of"]


def new_prompts(generation: Generation, known: set[str]) -> list[PromptRow]:
    """Prompts of the batch that are not `known` and whose first rollout is this process's; all become known."""
    rows = []
    for row, name in enumerate(generation.prompt_ids):
        if name not in known:
            known.add(name)
            place = row - generation.first
            if 0 <= place < len(generation):
                text, ids = generation.texts[place][0], generation.prompts[place]
                rows.append(PromptRow(prompt_id=name, split="train", text=text, token_ids=ids))
    return rows


def rollouts_of(generation: Generation, rank: int) -> list[RolloutRow]:
    """This process's rollouts; numbers and groups are those of the whole batch."""
    assert generation.dropped is not None
    rows = []
    for place, ids in enumerate(generation.responses):
        number = generation.first + place
        reward = float(generation.rewards[number])
        known = not np.isnan(reward)
        correct = None if generation.correct is None or not known else bool(generation.correct[number])
        rows.append(
            RolloutRow(
                step=generation.step,
                rollout=number,
                rank=rank,
                prompt_id=generation.prompt_ids[number],
                group=number // generation.group_size,
                response_ids=ids,
                response_text=generation.texts[place][1],
                length=generation.lengths[place],
                finished=generation.finished[place],
                reward=reward if known else None,
                correct=correct,
                advantage=None if generation.advantages is None else float(generation.advantages[place]),
                dropped=bool(generation.dropped[place]),
                reward_values=generation.reward_values[number].tolist(),
            )
        )
    return rows


def tokens_of(part: Microbatch, weights: Weights) -> Columns:
    """The recorded tokens of a microbatch, as its update saw them."""
    assert part.keep is not None
    assert part.stats is not None
    keep, width = part.keep.cpu(), part.mask.shape[1]

    def of(values: Tensor | None) -> np.ndarray | None:
        if values is None or values.shape != part.mask.shape:  # RLOO's old log-probs are of responses
            return None
        return values.detach().cpu().flatten()[keep].float().numpy()

    inputs, clip = part.inputs, None
    if part.clip is not None:
        clip = part.clip.cpu().flatten()[keep].numpy()
    sampling = of(inputs.get("sampling_per_token_logps"))
    return token_rows(
        TokenColumns(
            update=part.update,
            step=part.generation.step,
            rollout=part.rows.cpu()[keep // width].numpy(),
            position=(keep % width).numpy(),
            token=part.tokens.cpu().flatten()[keep].numpy(),
            statistics=statistics_columns(part.stats),
            epoch=part.epoch,
            minibatch=part.minibatch,
            sampling_log_prob=None if sampling is None else np.ma.masked_invalid(sampling),  # vLLM scored none there
            old_log_prob=_old(part, of),
            ref_log_prob=of(inputs.get("ref_per_token_logps")),
            advantage=of(part.advantages),
            ratio=of(part.ratio),
            clip=clip,
            weight=of(weights.policy),
            entropy_weight=of(weights.entropy),
            kl_weight=of(weights.kl),
        )
    )


def _old(part: Microbatch, of: Any) -> np.ndarray | None:
    """log π_old of the tokens: TRL leaves it out where the policy has not moved, so that it is log π itself."""
    if "old_logps" in part.inputs:
        return None
    values: np.ndarray | None = of(part.inputs.get("old_per_token_logps", part.log_probs))
    return values


def batch_row(generation: Generation, *, updates_a_batch: int) -> dict[str, Any]:
    """The row of the table `steps`, of all processes.

    Args:
        generation: the batch, after its last update.
        updates_a_batch: updates of one pass over the batch. The entropy of the policy that sampled is known where this
            is 1: later updates see another policy.
    """
    tokens = sum(count for _, count in generation.entropy)
    entropy = None
    if updates_a_batch == 1 and tokens:  # of tokens in the loss: all but those of truncated responses that TRL masks
        entropy = sum(total for total, _ in generation.entropy) / tokens
    return step_row(
        generation.step,
        rewards=generation.rewards,
        correct=generation.correct,
        signs=generation.signs,
        lengths=generation.all_lengths,
        groups=generation.groups,
        updates=generation.updates,
        entropy=entropy,
    )
