"""What is checked of rollouts as tokens: that model and tokenizer fit them, and which are compared as a group."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from toy_models.batch_dependence import batch_dependence

from ..errors import UsageError
from ..probes.output_heads import unwrap
from .row_rollouts import Rollout

__all__ = ["ModelLimits", "check_tokens", "groups_of", "texts_are_parts"]

_COMPARED = 32  # rows whose text is compared with their token ids


@dataclass(frozen=True)
class ModelLimits:
    """What bounds the ids and lengths that a model takes: rows of its embedding, positions (None where unbounded)."""

    vocab: int
    positions: int | None

    @classmethod
    def of(cls, model: Any) -> ModelLimits:
        inner: Any = unwrap(model)
        config = inner.config.get_text_config(decoder=True)
        positions = getattr(config, "max_position_embeddings", None)
        if batch_dependence(config).exact_above is not None:  # dynamic NTK stretches them
            positions = None
        return cls(inner.get_input_embeddings().weight.shape[0], positions)


def check_tokens(rollout: Rollout, fields: Mapping[str, Any], limits: ModelLimits) -> None:
    for name in ("prompt", "response"):
        ids = fields[name]
        outside = ids[(ids < 0) | (ids >= limits.vocab)]
        if len(outside):
            raise ValueError(
                f"{rollout.where}: the {name} has the token {outside[0]}, outside the vocabulary of the "
                f"model (0 to {limits.vocab - 1}); is it of another tokenizer?"
            )
    prompt, response = len(fields["prompt"]), len(fields["response"])
    if limits.positions is not None and prompt + response - 1 > limits.positions:
        raise ValueError(
            f"{rollout.where}: prompt and response have {prompt} and {response} tokens, more than the "
            f"model's {limits.positions} positions"
        )
    for name in ("advantage", "old_log_probs", "sampling_log_probs"):
        value = getattr(rollout, name)
        if isinstance(value, tuple) and len(value) not in (response, int(fields["policy"].sum())):
            raise ValueError(
                f"{rollout.where}: {name} has {len(value)} numbers for {response} response tokens; "
                "expected one for each, in the model's own tokens"
            )


def texts_are_parts(tokenizer: Any, rollouts: Iterable[Rollout]) -> bool:
    """Whether texts have lost a part of what their token ids read, such as the reasoning, which some servers parse into
    a field of its own. Ids that read otherwise than their text are those of another tokenizer: UsageError."""
    both = list(islice((r for r in rollouts if r.response_ids is not None and r.response), _COMPARED))
    parts = [r for r in both if not _reads(tokenizer, r.response_ids, r.response)]
    other = [r for r in parts if not _reads(tokenizer, r.response_ids, r.response, part=True)]
    if len(other) > len(both) / 2:
        first = other[0]
        raise UsageError(
            f"tokenizer: it does not match the token ids of the rollouts: those of {first.where} read "
            f"{str(tokenizer.decode(list(first.response_ids or ())))[:60]!r}, their text is "
            f"{str(first.response)[:60]!r}"
        )
    return bool(parts)


def _reads(tokenizer: Any, ids: Any, text: Any, *, part: bool = False) -> bool:
    """Whether ids read as a text, white space apart; with `part` whether they begin or end with it."""
    wanted = "".join(text.split())
    read = ["".join(str(tokenizer.decode(list(ids), skip_special_tokens=skip)).split()) for skip in (True, False)]
    return any(found == wanted or (part and (found.endswith(wanted) or found.startswith(wanted))) for found in read)


def groups_of(kept: Iterable[tuple[Rollout, Mapping[str, Any]]]) -> list[int]:
    """Group of each rollout, counted within its step in order of appearance: by the column, else by the prompt."""
    numbers: dict[tuple[int, Any], int] = {}
    prompts: dict[tuple[int, Any], tuple[str, str]] = {}
    count: dict[int, int] = {}
    out = []
    for rollout, fields in kept:
        label = rollout.group if rollout.group is not None else fields["prompt_id"]
        key = (rollout.step, label)
        if key not in numbers:
            numbers[key] = count.get(rollout.step, 0)
            count[rollout.step] = numbers[key] + 1
            prompts[key] = fields["prompt_id"], rollout.where
        if prompts[key][0] != fields["prompt_id"]:
            raise UsageError(
                f"group: {prompts[key][1]} and {rollout.where} are of the group {label!r} and have "
                "different prompts; map another column with columns group=NAME, or none with columns group=-"
            )
        out.append(numbers[key])
    return out
