"""Exact gradients of the success probability of each prompt, and what they do to one another.

∇p_x = ∇ Σ_{y correct} π_T(y | x) by enumeration, for each prompt x, and the Gram matrix

    κ(x, x′) = ⟨∇p_x, ∇p_x′⟩

A step along Σ_x a_x ∇p_x changes p_x′ by Σ_x a_x κ(x, x′) to first order: a negative κ is interference, a prompt whose
gain is another one's loss. Directions that weigh prompts, such as that of Pass@k, whose weight of a prompt is
k(1 − p_x)^{k−1} (∇ of 1 − (1 − p_x)^k), compare through κ alone (arXiv 2602.21189).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from toy_models import Policy, Prompt, Task, evaluation_mode

from ..common.arguments import check_numbers
from ..common.batching import check_batching
from ..common.short_repr import short_repr
from ..errors import UsageError
from ..evaluation import success_probability
from .exact import flat_gradient, listed_solutions, trained_parameters

__all__ = ["PromptGradients", "prompt_gradients"]

_COLUMNS = 1 << 18  # parameters whose products are taken at a time, which bounds the float64 copies


@short_repr
@dataclass(frozen=True, eq=False)
class PromptGradients:
    """Success probabilities of n prompts, and the inner products of their gradients.

    Attributes:
        p: (n,) exact success probability of each prompt.
        kappa: (n, n) κ(x, x′) = ⟨∇p_x, ∇p_x′⟩ over all trained parameters.
    """

    p: np.ndarray
    kappa: np.ndarray

    @property
    def negative_share(self) -> float:
        """The fraction of pairs of different prompts with κ < 0; NaN for a single prompt."""
        of_pairs = self.kappa[np.triu_indices(len(self.p), 1)]
        return float((of_pairs < 0).mean()) if len(of_pairs) else float("nan")

    def pass_at_k_weights(self, k: int) -> np.ndarray:
        """(n,) weights k(1 − p)^{k−1} of the prompts in ∇ Σ_x Pass@k_x; 1 for k = 1.

        Raises:
            UsageError: k is not a whole number from 1.
        """
        if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
            raise UsageError(f"k: expected a whole number from 1, got {k!r}")
        return np.asarray(k * (1 - self.p) ** (k - 1))

    def aggregate_cosine(self, weights_a: ArrayLike, weights_b: ArrayLike) -> float:
        """The cosine between Σ_x a_x ∇p_x and Σ_x b_x ∇p_x, aᵀκb/√(aᵀκa·bᵀκb).

        Args:
            weights_a: (n,) a.
            weights_b: (n,) b.

        Returns:
            A number in [−1, 1].

        Raises:
            UsageError: not one finite weight for each prompt, or an aggregate that is zero.

        >>> pair = PromptGradients(np.array([0.1, 0.9]), np.array([[4.0, -1.0], [-1.0, 1.0]]))
        >>> pair.aggregate_cosine([1, 0], [0, 1]), pair.negative_share
        (-0.5, 1.0)
        """
        a, b = (self._weights(name, given) for name, given in (("weights_a", weights_a), ("weights_b", weights_b)))
        squares = a @ self.kappa @ a, b @ self.kappa @ b
        for name, square in zip(("weights_a", "weights_b"), squares, strict=True):
            if not square > 0:
                raise UsageError(f"{name}: expected weights whose sum of gradients is not zero, got one of norm 0")
        return float(np.clip(a @ self.kappa @ b / np.sqrt(squares[0] * squares[1]), -1, 1))

    def _weights(self, name: str, given: ArrayLike) -> np.ndarray:
        weights = check_numbers(name, given).astype(float)
        if weights.shape != self.p.shape or not np.isfinite(weights).all():
            raise UsageError(
                f"{name}: expected one finite number for each of {len(self.p)} prompts, got {weights.tolist()}"
            )
        return weights


def prompt_gradients(
    policy: Policy,
    task: Task,
    prompts: Sequence[Prompt],
    temperature: float = 1.0,
    *,
    max_new_tokens: int | None = None,
    held: int = 256,
) -> PromptGradients:
    """The exact gradient of each prompt's success probability, as inner products of all pairs.

    Args:
        policy: the policy; neither its parameters nor their `.grad` change.
        task: lists the correct responses to each prompt.
        prompts: whose gradients.
        temperature: T of the distribution softmax(z/T).
        max_new_tokens: count correct responses up to this length; unset: the task's own limit.
        held: gradients that are kept at a time, in the parameters' dtype. With more prompts than this, gradients of
            pairs of blocks are made again: about n²/(2·held) of them instead of n.

    Returns:
        Success probabilities and κ, whose products are summed in float64. The gradient of a prompt without a correct
        response is zero.

    Raises:
        UsageError: no prompts, a task that does not list its correct responses, held below 1, a temperature that is not
            positive, or a model whose numbers for a row depend on the rest of its batch.
    """
    if held < 1:
        raise UsageError(f"held: expected at least 1, got {held}")
    limit = max_new_tokens or task.max_new_tokens
    listed = listed_solutions(task, prompts, "the gradient of each prompt")
    solutions = [[y for y in known if len(y) <= limit] for known in listed]
    check_batching(policy, prompts, limit)
    parameters = trained_parameters(policy)
    count = len(prompts)
    p, kappa = np.zeros(count), np.zeros((count, count))

    def gradients(places: range) -> Iterator[tuple[int, Tensor]]:
        for x in places:
            success = success_probability(policy.model, [prompts[x].ids], [solutions[x]], temperature)[0]
            p[x] = float(success.detach())
            zero = torch.zeros(sum(q.numel() for q in parameters), dtype=parameters[0].dtype, device=success.device)
            yield x, flat_gradient(success, parameters) if success.requires_grad else zero

    with evaluation_mode(policy.model), torch.enable_grad():
        for low in range(0, count, held):
            block = range(low, min(low + held, count))
            kept = torch.stack([gradient for _, gradient in gradients(block)])
            here = slice(block.start, block.stop)
            kappa[here, here] = _products(kept, kept)
            for x, gradient in gradients(range(block.stop, count)):
                kappa[here, x] = kappa[x, here] = _products(kept, gradient[None])[:, 0]
    return PromptGradients(p, kappa)


def _products(left: Tensor, right: Tensor) -> np.ndarray:
    """(a, b) inner products of rows, summed in float64."""
    total = torch.zeros(len(left), len(right), dtype=torch.float64, device=left.device)
    for low in range(0, left.shape[1], _COLUMNS):
        columns = slice(low, low + _COLUMNS)
        total += left[:, columns].double() @ right[:, columns].double().T
    return total.cpu().numpy()
