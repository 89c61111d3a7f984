"""What a trace says of how it read its file: columns, rewards and what counts as rewarded, groups, advantages, tokens
that are not the policy's. Sentences for the summary, and the same as data for run.json and --json."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from ..objectives import Objective
from ..records.hypothetical_weights import needs_rewards, takes_advantages
from .reading import Rollout, RolloutFile
from .rewards import RewardScheme, scheme_of
from .tokenization import Encoded
from .trace_settings import TraceSettings

__all__ = ["file_facts", "reward_scheme"]

_MANY_SIZES = 4  # sizes of groups that are listed
# beginnings of turns of others in the templates of Qwen, Llama 3, Mistral, Gemma and DeepSeek, and of tools' output
_OTHER_TURNS = (
    *("<tool_response>", "<|im_start|>user", "<|im_start|>tool", "<|start_header_id|>user<|end_header_id|>"),
    *("<|start_header_id|>ipython<|end_header_id|>", "<|start_header_id|>tool<|end_header_id|>", "[TOOL_RESULTS]"),
    *("<start_of_turn>user", "<|tool▁output▁begin|>", "<information>", "```output\n"),
)


def reward_scheme(
    items: Sequence[Encoded], settings: TraceSettings, rewarded_above: float | None
) -> RewardScheme | None:
    """The scheme of the rewards that a trace records; None where it records none."""
    if settings.verifier is not None:
        rewards = [0.0, 1.0]
    else:
        rewards = [item.rollout.reward for item in items if item.rollout.reward is not None]
        if settings.threshold is not None:
            rewards = [float(reward > settings.threshold) for reward in rewards]
    return scheme_of(rewards, rewarded_above)


def file_facts(
    file: RolloutFile,
    items: Sequence[Encoded],
    objectives: dict[str, Objective],
    settings: TraceSettings,
    scheme: RewardScheme | None,
) -> dict[str, Any]:
    """The entry `file` of a trace's run.json; `notes` are the sentences of the summary."""
    columns = ", ".join(f"{role} from {name!r}" for role, name in file.columns.items())
    rewards, groups, advantages = _rewards(file, settings, scheme), _groups(file, items), None
    has_advantages = all(item.rollout.advantage is not None for item in items)
    if has_advantages:
        advantages = _advantages(objectives, settings, scheme is not None)
    notes = [f"Columns: {columns}.", *file.notes, rewards, groups, *([advantages] if advantages else [])]
    others = sum(len(item.response) - item.own_length for item in items if _is_masked(item.rollout))
    if "response_mask" in file.columns:
        some = sum(not item.policy.all() for item in items)
        none = sum(not item.policy.any() for item in items)
        empty = f" {none} responses have no token of the policy; they count in their group alone." if none else ""
        notes.append(
            f"{others:,} tokens of {some:,} responses are not the policy's ({file.columns['response_mask']}): they "
            f"stay in the context and have no row, no weight and no place in a mean over tokens.{empty}"
        )
    elif marked := [
        mark for item in items if not _is_masked(item.rollout) and (mark := _other_turn(item.response_text)) is not None
    ]:
        notes.append(
            f"{len(marked):,} responses hold marks of turns that are not the assistant's, such as {marked[0]!r}, and "
            "no column says which tokens the policy sampled: all of them count. Give token ids and a mask "
            "(response_mask)."
        )
    if parts := sum(item.text_of_ids for item in items):
        notes.append(
            f"The text of responses is a part of what their token ids read, without the reasoning or the like: the ids "
            f"of {parts:,} responses are traced, and the text is theirs."
        )
    return {
        "layout": file.layout,
        "rewards": None
        if scheme is None
        else {"kind": scheme.kind, "values": scheme.values, "rewarded_above": scheme.rewarded_above},
        "tokens_of_others": others,
        "notes": notes,
    }


def _is_masked(rollout: Rollout) -> bool:
    """Whether something says which of its tokens the policy sampled: a mask, or the turns of a dialogue."""
    return rollout.response_mask is not None or rollout.turns is not None


def _other_turn(text: str) -> str | None:
    """The first mark of a turn that is not the assistant's."""
    return next((mark for mark in _OTHER_TURNS if mark in text), None)


def _rewards(file: RolloutFile, settings: TraceSettings, scheme: RewardScheme | None) -> str:
    if scheme is None:
        return "No rewards are read; tokens are told apart by the sign of the advantage, where the file has it."
    origin = (
        f"of the verifier {settings.verifier}" if settings.verifier else f"{file.columns.get('reward')!r} of the file"
    )
    if settings.threshold is not None:
        origin += f", above {settings.threshold:g} as 1 and else 0"
    return (
        f"Rewards: {origin}; values {scheme.values} ({scheme.kind}). Rewarded means a reward above "
        f"{scheme.rewarded_above:g} (--rewarded-above X sets another bound; it moves labels, no reward)."
    )


def _groups(file: RolloutFile, items: Sequence[Encoded]) -> str:
    sizes = Counter(Counter((item.rollout.step, item.group) for item in items).values())
    listed = ", ".join(f"{count:,} of {size}" for size, count in sorted(sizes.items())[:_MANY_SIZES])
    more = ", …" if len(sizes) > _MANY_SIZES else ""
    if "group" in file.columns:
        return f"Groups: by {file.columns['group']!r} within a step: {listed}{more} responses."
    if any(item.rollout.group is not None for item in items):
        return f"Groups: the responses of a row: {listed}{more} responses."
    doubt = ""
    if len(sizes) > 1 and max(sizes) >= 2 * min(sizes):
        doubt = " Sizes differ: two groups with the same prompt cannot be told apart without such a column."
    return (
        f"Groups: no column tells them apart; responses to the same prompt in a step are a group: {listed}{more} "
        f"responses.{doubt}"
    )


def _advantages(objectives: dict[str, Objective], settings: TraceSettings, rewards: bool) -> str:
    if rewards:
        return "A: each objective's own, from the rewards; the advantages of the file are recorded beside them."
    own = [name for name, objective in objectives.items() if not takes_advantages(objective)]
    plain = [name for name in own if needs_rewards(objectives[name])]
    but = f", but for {', '.join(plain)}" if plain else ""
    return f"A: the advantages of the file, for objectives that normalise rewards{but}."
