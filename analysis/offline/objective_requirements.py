"""Whether rollouts have what the objectives of a trace need, before anything is traced."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ..errors import UsageError
from ..objectives import Objective, parse_objective
from ..records.hypothetical_weights import needs_rewards, needs_verdicts, takes_advantages
from .reading import RolloutFile
from .rewards import scheme_of
from .tokenization import Encoded
from .trace_settings import TraceSettings

__all__ = ["check_inputs_of", "parse_objectives"]


def parse_objectives(names: Sequence[str]) -> dict[str, Objective]:
    """Name -> objective; UsageError for one that is unknown or cannot be used with recorded rollouts."""
    objectives = {name: parse_objective(name) for name in names}
    for objective in objectives.values():
        objective.check_use("a trace of recorded rollouts")
    return objectives


def check_inputs_of(
    objectives: dict[str, Objective], items: Sequence[Encoded], settings: TraceSettings, file: RolloutFile
) -> None:
    """UsageError for an objective that lacks an input, with the column that would give it."""
    rewards = [item.rollout.reward for item in items]
    has_rewards = settings.verifier is not None or None not in rewards
    has_advantages = all(item.rollout.advantage is not None for item in items)
    has_old_log_probs = settings.on_policy or all(item.rollout.old_log_probs is not None for item in items)
    judged = settings.verifier is not None or settings.threshold is not None
    verdicts = judged or all(reward in (0.0, 1.0) for reward in rewards)
    sizes = Counter((item.rollout.step, item.group) for item in items)
    single = sum(size == 1 for size in sizes.values())
    for name, objective in objectives.items():
        from_advantages = not has_rewards and has_advantages and takes_advantages(objective)
        if not has_rewards and not from_advantages and needs_rewards(objective):
            other = (
                "; advantages alone are enough for objectives that normalise rewards, such as grpo"
                if has_advantages
                else ""
            )
            numbers = f" (columns of numbers: {', '.join(file.numbers)})" if file.numbers else ""
            total = f", their sum with columns reward={'+'.join(file.numbers)}" if len(file.numbers) > 1 else ""
            raise UsageError(
                f"objective: {name} needs rewards, and {file.source} has no column for them{numbers}; map one with "
                f"columns reward=NAME{total}, count every response as rewarded with columns reward=1, or name a "
                f"verifier (--verifier){other}"
            )
        if "old_log_probs" in objective.needs() and not has_old_log_probs:
            raise UsageError(
                f"objective: {name} needs old log-probs, and {file.source} has no column for them; map one with "
                "columns old_log_probs=NAME, say on_policy (--on-policy) if the model itself sampled the rollouts "
                "(the ratio is 1 then), or choose the form log or probability"
            )
        if from_advantages or (not has_rewards and not needs_rewards(objective)):
            continue
        if not verdicts and needs_verdicts(objective):
            scheme = scheme_of([reward for reward in rewards if reward is not None])
            assert scheme is not None
            raise UsageError(
                f"objective: {name} is defined for rewards 0 and 1, and {file.source} has others ({scheme.values}); "
                f"give a threshold (--threshold {scheme.rewarded_above:g}: a reward above it counts as 1)"
            )
        if single:
            _check_group_of_one(name, objective, f"{single} of {len(sizes)} groups in {file.source}")
        for size in sorted(set(sizes.values())):
            try:
                objective.check_group_size(size)
            except UsageError as error:
                raise UsageError(f"{error}; {file.source} has groups of {size}") from None


def _check_group_of_one(name: str, objective: Objective, which: str) -> None:
    try:
        objective.check_group_size(1)
    except UsageError:
        raise UsageError(
            f"objective: {name} compares the responses of a group, and {which} have one response only; map the "
            "column that tells groups apart with columns group=NAME; without one, responses to the same prompt are a "
            "group"
        ) from None
