"""The weight that an objective gives to a prompt of success probability p, exactly, at every group size.

A group of G responses to one prompt, drawn from the policy that is differentiated, gives the estimate

    g = (1/G) Σ_i w_i ∇log π(y_i)        w_i the weight of response i: its advantage, for a policy gradient

Given how often it succeeds, a response is any of the correct ones or any of the wrong ones, and E[∇log π(y) | correct]
= ∇p/p, E[∇log π(y) | wrong] = −∇p/(1 − p). With S₊ and S₋ the sums of the weights of correct and of wrong responses,

    E[g | rewards] = W·∇p     W = (S₊/p − S₋/(1 − p))/G     E g = h(p)·∇p     h = E W

over the Binomial number c of correct responses, which is summed exactly. `limit` is h in an infinite group, `bias` h
less that, and `variance` that of W: how much the rewards alone scatter the prompt's step along ∇p. The scatter of
∇log π among correct and among wrong responses comes on top.

A sum over the group instead of the mean has G times the weight; a mean over prompts divides by their number, and a
normaliser of the loss is not counted. The weights are those of responses of one token at ratio 1: no clip binds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ..common.arguments import check_count
from ..common.short_repr import short_repr
from ..errors import UsageError
from .objective import Objective, get
from .token_batch import TokenBatch

__all__ = ["PromptWeights", "prompt_weights"]

_LOG_PROBS = (-0.3, -2.1)  # of a response of one token: a weight that differs between them is not one of the rewards


@short_repr
@dataclass(frozen=True, eq=False)
class PromptWeights:
    """The expected weight of a prompt by its success probability, float64.

    Attributes:
        objective: name of the objective.
        group_size: G.
        p: (n,) success probabilities.
        weight: (n,) h, the factor of ∇p in the expected estimate.
        limit: (n,) h in an infinite group; NaN where there is none.
        variance: (n,) of the factor over the rewards of a group.
    """

    objective: str
    group_size: int
    p: Float[Tensor, " n"]
    weight: Float[Tensor, " n"]
    limit: Float[Tensor, " n"]
    variance: Float[Tensor, " n"]

    @property
    def bias(self) -> Float[Tensor, " n"]:
        """(n,) h less its limit."""
        return self.weight - self.limit

    def frame(self) -> pd.DataFrame:
        """One row for each success probability: objective, group_size, p, weight, limit, bias, variance."""
        names = ("p", "weight", "limit", "bias", "variance")
        columns = {name: getattr(self, name).numpy() for name in names}
        return pd.DataFrame({"objective": self.objective, "group_size": self.group_size, **columns})


def prompt_weights(
    objective: Objective | str, group_size: int, p: Float[Tensor, " n"] | Sequence[float], **parameters: Any
) -> PromptWeights:
    """The expected weight h(p) of a prompt, its bias and its variance; exact.

    Args:
        objective: an objective, or its name.
        group_size: responses to the prompt, G.
        p: success probabilities, each above 0 and below 1: at 0 and 1 ∇p is zero.
        parameters: those of an objective that is given by name.

    Returns:
        Weight, limit, bias and variance for each p. Cost: the advantages of G + 1 groups (of all (s, c), s successful
        sets with c correct responses, for pass-at-k-full).

    Raises:
        UsageError: an objective whose weight of a response depends on more than the 0/1 rewards of its group (batch
            normalisation, lengths, probabilities, a reference), parameters beside an `Objective`, or p out of range.

    >>> prompt_weights("dr-grpo", 4, [0.2, 0.8]).weight.round(decimals=6).tolist()
    [0.75, 0.75]
    >>> prompt_weights("maxrl", 2, [0.25]).frame().round(4)[["weight", "limit", "bias"]].values.tolist()
    [[1.0, 4.0, -3.0]]
    """
    if isinstance(objective, str):
        objective = get(objective, **parameters)
    elif parameters:
        raise UsageError(
            f"parameters: expected none beside an objective that is made already, got {', '.join(parameters)}; give "
            "them to get, or the objective by name"
        )
    success = _checked(objective, group_size, p)
    outcomes = list(_outcomes(objective, group_size))
    rewards = torch.zeros(len(outcomes), group_size, dtype=torch.float64)
    for row, (_, places) in zip(rewards, outcomes, strict=True):
        row[places] = 1
    ways = torch.tensor([ways for ways, _ in outcomes], dtype=torch.float64)
    correct = rewards.sum(-1)
    advantages = objective.advantages(rewards.flatten(), group_size).view_as(rewards)
    weights = _on_policy(objective, advantages, rewards, (correct / group_size)[:, None].expand_as(rewards))
    of_correct, of_wrong = (weights * rewards).sum(-1), (weights * (1 - rewards)).sum(-1)
    x = success[:, None]
    chance = (ways + correct * x.log() + (group_size - correct) * torch.log1p(-x)).exp()
    factor = (of_correct / x - of_wrong / (1 - x)) / group_size
    mean = (chance * factor).sum(-1)
    variance = (chance * (factor - mean[:, None]).square()).sum(-1)
    return PromptWeights(objective.name, group_size, success, mean, _limit(objective, success), variance)


def _checked(objective: Objective, group_size: int, p: Tensor | Sequence[float]) -> Tensor:
    check_count("group_size", group_size)
    objective.check_use("a table of prompt weights")
    objective.check_group_size(group_size)
    read = objective.reads()
    if read or "batch" in objective.compares():
        what = "what other groups of the batch" if not read else f"the {', '.join(read)} that its group"
        raise UsageError(
            f"objective: expected advantages from the rewards of one group, got {objective.name}, which also reads "
            f"{what} has; choose another objective or normalisation"
        )
    success = torch.as_tensor(p, dtype=torch.float64)
    if success.ndim != 1 or not bool(((success > 0) & (success < 1)).all()):
        raise UsageError(
            f"p: expected a list of numbers above 0 and below 1, got {success.tolist()}; a prompt at 0 or 1 has no "
            "gradient to weigh"
        )
    return success


def _outcomes(objective: Objective, size: int) -> Iterator[tuple[float, list[int]]]:
    """Rewards of a group, one of each kind that an objective can tell apart: the logarithm of how many sequences of
    rewards are of the kind, and the places of the correct responses in one of them."""
    if objective.entry.value != "pass_at_k_full":
        for correct in range(size + 1):
            yield math.log(math.comb(size, correct)), list(range(correct))
        return
    k = int(objective.parameters["k"])
    for sets in range(size // k + 1):
        for correct in range(sets, sets * k + 1):
            # by inclusion and exclusion over sets without a correct response
            fillings = sum((-1) ** j * math.comb(sets, j) * math.comb(k * (sets - j), correct) for j in range(sets + 1))
            if fillings:
                places = [k * s for s in range(sets)] + [k * s + i for s in range(sets) for i in range(1, k)]
                yield math.log(math.comb(size // k, sets) * fillings), places[:correct]


def _on_policy(objective: Objective, advantages: Tensor, rewards: Tensor, accuracy: Tensor) -> Tensor:
    """The weights of responses of one token at ratio 1, of the shape of the rewards."""
    found = []
    for value in _LOG_PROBS:
        log_probs = torch.full((rewards.numel(), 1), value, dtype=torch.float64)
        batch = TokenBatch(
            log_probs,
            old_log_probs=log_probs,
            advantages=advantages.reshape(-1),
            rewards=rewards.reshape(-1),
            accuracy=accuracy.reshape(-1),
        )
        found.append(objective.weights(batch).weight.reshape(rewards.shape))
    if not torch.allclose(found[0], found[1], rtol=1e-12, atol=1e-12):
        raise UsageError(
            f"objective: expected weights that follow from the rewards, got {objective.name}, which weighs a token by "
            "its probability; choose the form ratio or log"
        )
    return found[0]


def _limit(objective: Objective, success: Tensor) -> Tensor:
    try:
        pair = objective.limit_advantages(success)
    except UsageError:  # it has no limit; the table has its own column for that
        return torch.full_like(success, torch.nan)
    rewards = torch.tensor([0.0, 1.0], dtype=torch.float64).expand_as(pair)
    weights = _on_policy(objective, pair, rewards, success[:, None].expand_as(pair))
    return weights[:, 1] - weights[:, 0]
