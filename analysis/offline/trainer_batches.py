"""Tensors of trainers as rows: the training data that slime dumps, and an Experience of OpenRLHF as a dict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .unpacking import PART, Columns, split_sequence

__all__ = ["of_experience", "of_training_sample"]

_OF_ROWS = (("reward", "rewards"), ("prompt", "prompts"), ("answer", "labels"))
_STEP_FIELDS = ("action_log_probs", "rollout_log_probs", "advantages")  # one for each action


def of_experience(row: Mapping[str, Any]) -> list[Columns]:
    """The rollouts of an Experience: sequences (B, T) with masks, log-probs and advantages (B, A), A ≤ T−1.

    Entry t of these is about token T − A + t: with A = T − 1 the action mask is shifted by one against the sequence.
    """
    sequences = row["sequences"]
    single = bool(sequences) and not isinstance(sequences[0], list)
    batch = {name: [value] if single else value for name, value in row.items()}
    rollouts: list[Columns] = []
    for place, ids in enumerate(batch["sequences"]):
        entry = {name: _entry(value, place, len(batch["sequences"])) for name, value in batch.items()}
        shift = len(ids) - len(entry["action_mask"])
        if shift < 0:
            raise ValueError(f"expected at most {len(ids)} entries of action_mask, got {len(entry['action_mask'])}")
        mask = entry.get("attention_mask") or [1] * len(ids)
        if max(mask) > 1:
            raise ValueError(
                f"expected one sequence in each row, got {max(mask)} that are packed into one (attention_mask); make "
                "the experience without packing_samples, or write a row for each sequence"
            )
        kept = [bool(there) for there in mask]
        along = {name: _shifted(entry[name], shift, kept) for name in _STEP_FIELDS if entry.get(name)}
        columns = split_sequence(
            _kept(ids, kept),
            _shifted(entry["action_mask"], shift, kept),
            advantage=along.get("advantages"),
            old_log_probs=along.get("action_log_probs", along.get("rollout_log_probs")),
            sampling_log_probs=along.get("rollout_log_probs"),
        )
        named = {role: _one(entry.get(name)) for role, name in _OF_ROWS}
        if not single:
            columns[PART] = f"sequence {place + 1}"
        rollouts.append(columns | {name: value for name, value in named.items() if value is not None})
    return rollouts


def of_training_sample(row: Mapping[str, Any]) -> Columns:
    """A sample of the training data that slime dumps: masks, log-probs and advantages are those of the response."""
    length, tokens, file = row["response_lengths"], row["tokens"], row.get("file") or {}
    if not isinstance(length, int) or not 0 < length < len(tokens):
        raise ValueError(f"expected response_lengths below the number of tokens, got {length} of {len(tokens)}")
    columns: Columns = {
        "prompt_ids": tokens[:-length],
        "response_ids": tokens[-length:],
        "response_mask": row.get("loss_masks"),
        "old_log_probs": row.get("log_probs") or row.get("rollout_log_probs"),
        "sampling_log_probs": row.get("rollout_log_probs"),
        "advantage": row.get("advantages"),
        "step": file.get("rollout_id"),
    }
    raw, place = file.get("raw_reward"), row.get("rollout_position")
    columns["reward"] = raw[place] if isinstance(raw, list) and isinstance(place, int) else row.get("rewards")
    return {name: value for name, value in columns.items() if value is not None}


def _entry(value: Any, place: int, size: int) -> Any:
    return value[place] if isinstance(value, list) and len(value) == size else None


def _one(value: Any) -> Any:
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _kept(values: list[Any], kept: list[bool]) -> list[Any]:
    return [value for value, there in zip(values, kept, strict=True) if there]


def _shifted(values: list[Any], shift: int, kept: list[bool]) -> list[Any]:
    """Values of the actions at the places of their tokens, padding left out."""
    return _kept([0] * shift + list(values), kept)
