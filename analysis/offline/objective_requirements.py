"""Whether a file of rollouts has what the objectives asked of its trace need, before anything is traced."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import UsageError

__all__ = ["check_objectives"]


def check_objectives(
    names: Sequence[str],
    *,
    source: str,
    rewards: bool,
    advantages: bool,
    old_log_probs: bool,
    verdicts: bool,
    singles: str | None,
) -> None:
    """UsageError, before anything is traced, for an objective that lacks an input, with the column that would give it.

    `rewards`, `advantages`, `old_log_probs`: whether they are there; `verdicts`: whether all rewards are 0 or 1;
    `singles` describes a group of one response, None where every group has several.
    """
    import torch

    from ..objectives import parse_objective
    from ..records.hypothetical_weights import needs_verdicts, takes_advantages

    for name in names:
        objective = parse_objective(name)
        objective.check_use("a trace of recorded rollouts")
        given = not rewards and advantages and takes_advantages(objective)
        if not rewards and not given:
            other = "; advantages alone are enough for objectives that normalise rewards, as grpo" if advantages else ""
            raise UsageError(
                f"objective: {name} needs rewards, and {source} has no column for them; map one with "
                f"columns reward=NAME, or name a verifier (--verifier){other}"
            )
        if "old_log_probs" in objective.needs() and not old_log_probs:
            raise UsageError(
                f"objective: {name} needs old log-probs, and {source} has no column for them; map one "
                "with columns old_log_probs=NAME, say on_policy (--on-policy) where the model itself "
                "sampled the rollouts (the ratio is 1 then), or take the form log or probability"
            )
        if given:
            continue
        if not verdicts and needs_verdicts(objective):
            raise UsageError(
                f"objective: {name} is defined for rewards 0 and 1, and {source} has others; give a "
                "threshold (--threshold X: a reward above X counts as 1)"
            )
        if singles is not None:
            try:
                objective.advantages(torch.zeros(1), 1, mean_log_probs=torch.zeros(1))
            except UsageError:
                raise UsageError(
                    f"objective: {name} compares the responses of a group, and {singles}; map the column "
                    "that tells groups apart with columns group=NAME; without one, responses to the same "
                    "prompt are a group"
                ) from None
