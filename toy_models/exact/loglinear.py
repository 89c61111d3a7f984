"""A log-linear policy: prompts share features, so that learning on one of them moves the others.

    z_x = Φ_x θ,    π_x = softmax(z_x),    ∇_θ log π_x(a) = Φ_xᵀ (e_a − π_x)

With SGD, Δz_x = η Σ_x' K(x, x') g_x' with the kernel K(x, x') = Φ_x Φ_x'ᵀ, the neural tangent kernel of this policy. It
is block-diagonal only where prompts share no feature. All leading axes of θ are batch axes (seeds).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from .arms import ArmPolicy
from .tensor_checks import check_logits, check_weights

__all__ = ["LogLinear"]


@dataclass(frozen=True)
class LogLinear(ArmPolicy):
    """π_x = softmax(Φ_x θ) for each of P prompts x.

    Raises ValueError for shapes that do not fit and numbers that are not finite.

    Attributes:
        features: Φ, (P, A, F).
        theta: θ, (…, F).

    >>> policy = LogLinear(torch.tensor([[[1.0], [0.0]], [[0.0], [1.0]]]), torch.zeros(1))
    >>> step = policy.expected_score(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))  # reward for prompt 0, arm 0
    >>> policy.with_parameters(policy.theta + step).probs()  # and prompt 1 follows
    tensor([[0.5312, 0.4688],
            [0.4688, 0.5312]])
    """

    features: Tensor
    theta: Tensor

    def __post_init__(self) -> None:
        if self.features.ndim != 3 or self.theta.ndim == 0 or self.features.shape[-1] != self.theta.shape[-1]:
            raise ValueError(
                f"theta: expected (…, F) for features (P, A, F), got {tuple(self.theta.shape)} for "
                f"{tuple(self.features.shape)}"
            )
        check_logits("features", self.features)
        check_logits("theta", self.theta)

    @property
    def parameters(self) -> Tensor:
        """θ, (…, F)."""
        return self.theta

    def with_parameters(self, parameters: Tensor) -> Self:
        """The same features with other parameters, (…, F)."""
        return replace(self, theta=parameters)

    @property
    def logits(self) -> Tensor:
        """z = Φθ, (…, P, A)."""
        return torch.einsum("paf,...f->...pa", self.features, self.theta)

    def log_probs(self) -> Tensor:
        """log π of each arm of each prompt in nats, (…, P, A)."""
        return self.logits.log_softmax(-1)

    def pull_back(self, direction: Tensor) -> Tensor:
        """Φᵀ applied to a gradient with respect to the logits, (…, P, A), as a mean over prompts: (…, F)."""
        return torch.einsum("paf,...pa->...f", self.features, direction) / self.features.shape[0]

    def score_covariance(self, weights: Tensor) -> Tensor:
        """The exact covariance of w ∇_θ log π_x(a) for one arm a of one prompt x, which is drawn uniformly.

        This is the noise of a sample whose prompt is random, too; it includes the variance between prompts.

        Args:
            weights: w, broadcast to (…, P, A).

        Returns:
            The covariance, (…, F, F).
        """
        probs = self.probs()
        centre = torch.einsum("paf,...pa->...pf", self.features, probs)
        scores = self.features - centre[..., None, :]
        scaled = probs * check_weights(weights, probs.shape).square() / self.features.shape[0]
        second = torch.einsum("...pa,...paf,...pag->...fg", scaled, scores, scores)
        mean = self.expected_score(weights)
        return second - mean[..., :, None] * mean[..., None, :]

    def kernel(self) -> Tensor:
        """K = ΦΦᵀ, (P, A, P, A): how far a unit logit gradient at one arm moves the logit of another under SGD."""
        return torch.einsum("paf,qbf->paqb", self.features, self.features)
