"""Refusal of models whose numbers for a row depend on the other rows of its batch.

What is sampled, evaluated or differentiated in batches is meant row by row: the log-probs of a response are those that
it has alone. `toy_models.batch_dependence` says which kinds of models break that; here a policy is held against the
prompts with which it will be used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from toy_models.batch_dependence import batch_dependence, differs
from toy_models.batching import response_logits, teacher_batch
from toy_models.policy import Policy, evaluation_mode
from toy_models.tasks.task import Prompt

from ..errors import UsageError

__all__ = ["check_batching"]

_COMPARED = 32  # tokens of a response, which bounds the memory of their logits
_SHOWN = 60  # characters of a prompt in a message


def check_batching(policy: Policy, prompts: Sequence[Prompt], max_new_tokens: int, field: str = "policy") -> None:
    """Refuse a model whose numbers for a row depend on the other rows of its batch.

    Known kinds are read off the configuration. For any other, the shortest prompt with a short response goes through
    the model alone, and once more beside the longest prompt with the longest response, padded to its width.

    Args:
        policy: The model with its padding token.
        prompts: Those with which it will be used, at least one.
        max_new_tokens: Length of the longest response.
        field: What names the model in the message.

    Raises:
        UsageError: The log-probs of the row differ by more than rounding, the configuration says that they would, or
            they are not finite with padding.

    Cost: two forward passes, of one row and of two.
    """
    shortest = min(prompts, key=lambda prompt: len(prompt.ids))
    longest = max(reversed(prompts), key=lambda prompt: len(prompt.ids))  # another one where all have one length
    dependence = batch_dependence(policy.model.config)
    reason = dependence.crossed(len(shortest.ids), len(longest.ids) + max_new_tokens)
    if reason is None and not dependence.by_length:
        alone, beside = _alone_and_beside(policy, shortest.ids, longest.ids, max_new_tokens)
        if alone.isfinite().all() and not beside.isfinite().all():
            raise UsageError(_overflow(policy.model, field))
        if differs(alone, beside):
            shown = shortest.text if len(shortest.text) <= _SHOWN else shortest.text[:_SHOWN] + " …"
            reason = f"the logits of the prompt {shown!r} differ alone and beside a longer row"
    if reason is not None:
        raise UsageError(
            f"{field}: expected a model whose numbers for a row do not depend on the rest of its batch, got "
            f"{type(policy.model).__name__}: {reason}; rows of a batch would change one another's log-probs. Use "
            "prompts and responses (their greatest length) on one side of that length, or another model"
        )


def _overflow(model: Any, field: str) -> str:
    """What is wrong with a model whose numbers are finite alone, and not with padding beside them."""
    attention = getattr(model.config, "_attn_implementation", "unknown")
    dtype = str(model.dtype).removeprefix("torch.")
    return (
        f"{field}: expected finite log-probs beside a longer row, got NaN or infinite ones from "
        f"{type(model).__name__}: its attention ({attention}) does not stand padding in {dtype}, as it computes in "
        'float32 where the numbers that mask padding overflow; set policy.dtype = "float32", or use prompts of one size'
    )


def _alone_and_beside(
    policy: Policy, short: Sequence[int], long: Sequence[int], max_new_tokens: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probs (n, V) after `short`, alone and where the batch is as wide as `long` with the longest response."""
    vocabulary = policy.model.get_input_embeddings().num_embeddings
    filler = [i % vocabulary for i in range(max_new_tokens)]
    compared = filler[-_COMPARED:]
    response = compared[: (len(compared) + 1) // 2]
    beside = [*long, *filler[: max_new_tokens - len(compared)]]
    values = []
    for others, responses in (([], []), ([beside], [compared])):
        batch = teacher_batch([short, *others], [response, *responses], policy.pad_id, policy.model.device)
        with evaluation_mode(policy.model), torch.no_grad():
            values.append(response_logits(policy.model, batch)[0, : len(response)].log_softmax(-1))
    return values[0], values[1]
