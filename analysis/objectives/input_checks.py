"""What an objective needs of its input: which fields, of which shape, and finite numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from ..common.arguments import check_float
from ..errors import UsageError, at_index, first_index
from .definition import Entry
from .responses import ResponseBatch
from .token_batch import TokenBatch

__all__ = ["check_batch", "check_finite", "check_logits", "check_part", "check_vocabulary"]

_HINTS = {
    "old_log_probs": "with one update per batch pass log_probs.detach()",
    "advantages": "make them with objective.advantages(rewards, group_size)",
    "accuracy": "the mean reward of each response's group: accuracy_of(rewards, group_size)",
    "selection": "make it for the whole minibatch with objective.prepare(batch, generator)",
    "ref_log_probs": "log-probs of the same tokens under the reference policy",
    "kl_baseline": "an estimate of the KL to the reference that no gradient flows through; kl_baseline_of(…) makes one",
    "rollout_log_probs": "log-probs of the same tokens as the engine reported that sampled them",
    "teacher_log_probs": "log-probs of the same tokens under the teacher",
}
_READS = {
    "mean_log_probs": "ranks the responses of a group by them, got None",
    "lengths": "counts the tokens of the responses, got None; give the number of tokens of each response",
    "greedy_rewards": "subtracts the reward of each prompt's greedy response, got None; decode each prompt greedily, "
    "judge it, and give its reward for each response of the prompt",
    "reward_components": "normalises several rewards apart, got None; give them as (responses, components)",
    "old_log_probs": "weighs positions by their tokens' probabilities, got None; give those of the sampling policy",
    "collision": "weighs positions by Σ_v π_v², got None; give it for each position, from the sampling policy's logits",
    "mask": "counts the tokens of each position, got None; say which positions hold tokens",
}


def check_part(name: str, part: ResponseBatch, reads: tuple[str, ...]) -> None:
    """UsageError where responses lack a field that the objective `name` reads, or hold a number that is not finite."""
    check_finite("rewards", part.rewards)
    for field in reads:
        if getattr(part, field) is None:
            raise UsageError(f"{field}: {name} {_READS[field]}")
        check_finite(field, getattr(part, field), part.mask)


def check_batch(definition: Entry, form: str | None, batch: TokenBatch, needs: tuple[str, ...]) -> None:
    """UsageError where tokens lack a field that the objective needs, or have one of another shape."""
    if not definition.scalar:
        raise UsageError(
            f"objective: {definition.name} has a vector over the vocabulary, not a weight of each token; "
            "use vector and logits_loss"
        )
    for name in needs:
        if getattr(batch, name) is None:
            with_form = f" in form {form} with these clips" if definition.is_policy_gradient else ""
            raise UsageError(
                f"{name}: {definition.name}{with_form if name == 'old_log_probs' else ''} needs them, got None; "
                f"{_HINTS.get(name, 'give them in the batch')}"
            )
    for name in ("advantages", "rewards", "accuracy", "kl_baseline"):
        if getattr(batch, name) is not None:
            batch.per_token(name)


def check_logits(definition: Entry, logits: Tensor, ref_logits: Tensor | None) -> None:
    """UsageError where a regulariser lacks the logits of its reference or teacher, or has them in another shape."""
    if definition.scalar:
        raise UsageError(f"objective: {definition.name} is a weight of each token; use weights and loss")
    check_float("logits", logits)
    if ref_logits is not None:
        check_float("ref_logits", ref_logits)
    for name in {"ref_logits", "teacher_logits"}.intersection(definition.needs):
        if ref_logits is None or ref_logits.shape != logits.shape:
            got = None if ref_logits is None else tuple(ref_logits.shape)
            raise UsageError(f"{name}: {definition.name} needs them, of the shape {tuple(logits.shape)}, got {got}")


def check_vocabulary(name: str, logits: Tensor) -> None:
    """UsageError for the first logit that is neither finite nor −inf, and for a row in which every token is masked."""
    if bool(torch.isfinite(logits.sum())):  # one pass; infinities and overflow are looked at closely
        return
    bad = ~(logits < torch.inf)
    if bad.any():
        index = first_index(bad)
        raise UsageError(
            f"{name}: expected finite numbers, or −inf for a masked token, got {float(logits[index])}{at_index(index)}"
        )
    empty = (logits == -torch.inf).all(-1)
    if empty.any():
        raise UsageError(f"{name}: expected a token with mass in each row, got only −inf{at_index(first_index(empty))}")


def check_finite(name: str, values: Tensor, real: Tensor | None = None) -> None:
    """UsageError for the first number that is not finite, masked positions apart."""
    if bool(torch.isfinite(values.sum())):  # one pass; a sum that overflows is looked at closely
        return
    bad = ~torch.isfinite(values)
    if real is not None and real.shape == values.shape:
        bad = bad & real
    if bad.any():
        index = first_index(bad)
        raise UsageError(f"{name}: expected finite numbers, got {float(values[index])}{at_index(index)}")
