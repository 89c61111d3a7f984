"""The toys as their training sees them: a policy at fixed parameters, with its draws and its gradients.

`OneTokenPolicy` is a Bandit or a LogLinear, `TreePolicy` a Tree. Log-probs are worked out once per update. Everything
has a seed and a prompt axis in front (S, P, …); a response is one of Y, and draws are G of them for each prompt.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor

from toy_models.exact.arms import ArmPolicy, draw, expected_logit_score, sampled_logit_score
from toy_models.exact.tree import Tree, TreeDraws

from ..objectives import Objective, TokenBatch, TokenWeights

__all__ = ["OneTokenPolicy", "Toy", "ToyPolicy", "TreePolicy", "toy_policy"]

Toy = ArmPolicy | Tree


@dataclass(frozen=True)
class Responses:
    """What was drawn: `index` (S, P, G) among the responses, `alive` bool (S, P, G, T) or None where T = 1, `draws` in
    the toy's own terms."""

    index: Tensor
    alive: Tensor | None
    draws: Tensor | TreeDraws

    def lengths(self) -> Tensor:
        """Tokens of each response, (S, P, G)."""
        return torch.ones_like(self.index) if self.alive is None else self.alive.sum(-1)

    def mean(self, values: Tensor) -> Tensor:
        """The mean of values (S, P, G, T) over the tokens of each response."""
        return values[..., 0] if self.alive is None else values.where(self.alive, 0.0).sum(-1) / self.lengths()


class ExpectedUpdate(NamedTuple):
    """What one response to each prompt contributes in expectation."""

    gradient: Tensor  # E[Σ_t w_t ∇_θ log π_t], (S, …)
    weighted: Tensor  # expected number of tokens with an advantage, (S, P)
    clipped: Tensor  # expected number of them that the clip holds, (S, P)


class ToyPolicy(ABC):
    """A policy over the Y responses to each prompt; `log_probs` (S, P, Y) in nats."""

    log_probs: Tensor
    width: int  # tokens of the longest response

    @property
    @abstractmethod
    def parameters(self) -> Tensor:
        """θ (S, …)."""

    @abstractmethod
    def moved(self, displacement: Tensor) -> Self:
        """The policy at θ + displacement."""

    @abstractmethod
    def success(self, correct: Tensor) -> Tensor:
        """p (S, P); `correct` (S, P, Y) is 0 and 1 in the dtype of the policy."""

    @abstractmethod
    def draw(self, uniforms: Tensor) -> Responses:
        """Responses for uniforms (S, P, G, width)."""

    @abstractmethod
    def token_log_probs(self, drawn: Responses) -> Tensor:
        """log π of each drawn token, (S, P, G, width)."""

    @abstractmethod
    def sampled_gradient(self, drawn: Responses, weights: Tensor) -> Tensor:
        """Σ w ∇_θ log π over drawn tokens, (S, …); weights (S, P, G, width)."""

    @abstractmethod
    def expected_update(
        self, objective: Objective, behaviour: Self, correct: Tensor, advantages: Tensor, *, length_mean: bool
    ) -> ExpectedUpdate:
        """E[Σ_t w_t ∇_θ log π_t] over responses of `behaviour`, which is also the old policy of the ratio.

        `correct` is 0 and 1 in the dtype of the policy (S, P, Y), `advantages` (S, P, 2) those of a wrong and of a
        correct response; a token's weight must depend on its own response's reward and on its group's accuracy alone.
        """


class OneTokenPolicy(ToyPolicy):
    """One token a response: its arms are its responses."""

    width = 1

    def __init__(self, policy: ArmPolicy) -> None:
        self._policy = policy
        self.log_probs = policy.log_probs()
        self._probs = self.log_probs.exp()

    @property
    def parameters(self) -> Tensor:
        return self._policy.parameters

    def moved(self, displacement: Tensor) -> OneTokenPolicy:
        return OneTokenPolicy(self._policy.with_parameters(self._policy.parameters + displacement))

    def success(self, correct: Tensor) -> Tensor:
        return (self._probs * correct).sum(-1)

    def draw(self, uniforms: Tensor) -> Responses:
        arms = draw(self._probs, uniforms[..., 0])
        return Responses(arms, None, arms)

    def token_log_probs(self, drawn: Responses) -> Tensor:
        return self.log_probs.gather(-1, drawn.index)[..., None]

    def sampled_gradient(self, drawn: Responses, weights: Tensor) -> Tensor:
        return self._policy.pull_back(sampled_logit_score(self._probs, drawn.index, weights[..., 0]))

    def expected_update(
        self, objective: Objective, behaviour: OneTokenPolicy, correct: Tensor, advantages: Tensor, *, length_mean: bool
    ) -> ExpectedUpdate:
        """Every arm is given to the objective as a response of one token, whose mean is itself."""
        arm_advantages = advantages[..., 1:] * correct + advantages[..., :1] * (
            1 - correct
        )  # a tenth of what a `where` costs
        accuracy = behaviour.success(correct)[..., None].expand_as(correct)
        arms = TokenBatch(
            self.log_probs[..., None], behaviour.log_probs[..., None], arm_advantages, None, correct, accuracy
        )
        weights, _, clip = objective.weights(arms)
        gradient = self._policy.pull_back(expected_logit_score(self._probs, weights[..., 0], behaviour._probs))
        success = behaviour.success(correct)
        weighted = (torch.stack([1 - success, success], -1) * (advantages != 0)).sum(-1)
        return ExpectedUpdate(gradient, weighted, (behaviour._probs * clip[..., 0].bool()).sum(-1))


class TreePolicy(ToyPolicy):
    """Responses of several tokens, whose contexts have logits of their own."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self.log_probs = tree.log_probs()
        self.width = tree.depth

    @property
    def parameters(self) -> Tensor:
        return self._tree.parameters

    def moved(self, displacement: Tensor) -> TreePolicy:
        return TreePolicy(self._tree.with_parameters(self._tree.parameters + displacement))

    def success(self, correct: Tensor) -> Tensor:
        return (self.log_probs.exp() * correct).sum(-1)

    def draw(self, uniforms: Tensor) -> Responses:
        draws = self._tree.sample(uniforms)
        return Responses(draws.response, torch.stack(draws.alive, -1), draws)

    def token_log_probs(self, drawn: Responses) -> Tensor:
        assert isinstance(drawn.draws, TreeDraws)
        return self._tree.token_log_probs(drawn.draws)

    def sampled_gradient(self, drawn: Responses, weights: Tensor) -> Tensor:
        assert isinstance(drawn.draws, TreeDraws)
        return self._tree.sampled_score(drawn.draws, weights)

    def expected_update(
        self, objective: Objective, behaviour: TreePolicy, correct: Tensor, advantages: Tensor, *, length_mean: bool
    ) -> ExpectedUpdate:
        """Wrong and correct responses apart: within each a token's weight depends on its context and itself alone."""
        levels = [
            (new.log_softmax(-1), old.log_softmax(-1))
            for new, old in zip(self._tree.levels, behaviour._tree.levels, strict=True)
        ]
        accuracy = behaviour.success(correct)
        total = torch.zeros_like(self.parameters)
        weighted, clipped = torch.zeros_like(accuracy), torch.zeros_like(accuracy)
        for reward in (0.0, 1.0):
            a = advantages[..., int(reward)]
            if objective.entry.homogeneous and not bool(a.any()):
                continue
            responses = correct if reward else 1 - correct
            share = responses / self._tree.lengths() if length_mean else responses
            factors = [_weights_at(objective, now, old, a, reward, accuracy) for now, old in levels]
            weights = [factor.weight for factor in factors]
            total = total + self._tree.expected_score(share, weights, behaviour=behaviour._tree)
            tokens = (behaviour.log_probs.exp() * responses * self._tree.lengths()).sum(-1)
            weighted = weighted + tokens * (a != 0)
            if any(bool(factor.clip.any()) for factor in factors):
                held = [factor.clip.bool().to(total.dtype) for factor in factors]
                clipped = clipped + behaviour._tree.expected_token_sum(responses, held)
        return ExpectedUpdate(total, weighted, clipped)


def _weights_at(
    objective: Objective, now: Tensor, old: Tensor, a: Tensor, reward: float, accuracy: Tensor
) -> TokenWeights:
    """The weight and the clip of every token of a level (S, P, n, V), at advantages and accuracies (S, P)."""

    def spread(values: Tensor) -> Tensor:
        return values[..., None, None].expand(*now.shape[:-1], 1)

    rewards = torch.full_like(a, reward)
    return objective.weights(TokenBatch(now, old, spread(a), None, spread(rewards), spread(accuracy)))


def toy_policy(policy: Toy) -> ToyPolicy:
    """A toy at its parameters, as training uses it."""
    return TreePolicy(policy) if isinstance(policy, Tree) else OneTokenPolicy(policy)
