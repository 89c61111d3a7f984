"""What one sample does to the probability of being right, and where its mass goes among correct and wrong tokens.

One context with a set of correct tokens; p = Σ π over them, c₊ and c₋ the sums of π² over correct and over wrong ones.
Under Δz = ηw(e_y − π), to first order (derived here)

    y correct   dp = ηw·[π_y(1 − p) − (1 − p)c₊ + p·c₋]
    y wrong     dp = ηw·[−π_y·p     − (1 − p)c₊ + p·c₋]

so that reinforcing a correct token can lower p (where c₊ outweighs), and so can suppressing a wrong one.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..common.arguments import check_tensor
from ..common.short_repr import short_repr
from ..errors import UsageError, at_index, first_index
from .checks import PerToken, check_bool, check_logits, check_tokens
from .mass_flow import mass_flow

__all__ = ["AlternativeFlow", "SequenceEntropy", "alternative_flow", "sequence_entropy", "success_change"]


@short_repr
class AlternativeFlow(NamedTuple):
    """Changes of probability mass, which add up to zero."""

    token: Float[Tensor, "*batch"]  # of the sampled token
    correct: Float[Tensor, "*batch"]  # of the other correct tokens
    wrong: Float[Tensor, "*batch"]  # of the other wrong tokens


@short_repr
class SequenceEntropy(NamedTuple):
    """H(Y) = binary + p·correct + (1 − p)·wrong, in nats."""

    total: Float[Tensor, "*batch"]  # H(Y)
    binary: Float[Tensor, "*batch"]  # h(p), of whether the response is correct
    correct: Float[Tensor, "*batch"]  # H(Y | correct); exp of it is the effective number of correct responses
    wrong: Float[Tensor, "*batch"]  # H(Y | wrong)


@torch.no_grad()
def success_change(
    logits: Float[Tensor, "*batch vocab"],
    correct: Bool[Tensor, "*batch vocab"],
    tokens: Int[Tensor, "*batch"],
    weight: PerToken,
    step: PerToken,
    *,
    exact: bool = False,
) -> Float[Tensor, "*batch"]:
    """Change of the success probability p by one sample: dp to first order, or p' − p of the finite step.

    Args:
        logits: z of the context; −inf masks a token.
        correct: which tokens are correct.
        tokens: sampled ids y.
        weight: w = −∂L/∂log π_y, one number or one for each token.
        step: η in units of the logits.
        exact: the finite change, not its first order.

    Returns:
        The change of p = Σ_correct π.

    Raises:
        UsageError: as `mass_flow`, and a mask that is not bool or of another shape than the logits.

    Source: derived here (†), the two equations above.

    >>> z = torch.tensor([0.6, 0.1, 0.3]).log()  # 0 and 1 correct; reinforcing the rare one feeds the wrong one
    >>> success_change(z, torch.tensor([True, True, False]), torch.tensor(1), 1.0, 0.1) < 0
    tensor(True)
    """
    flow = alternative_flow(logits, correct, tokens, weight, step, exact=exact)
    own = _at(correct, tokens)
    # p rises by what the correct side gains, which is what the wrong side loses: the one with fewer cancelling terms
    return torch.where(own, -flow.wrong, flow.correct)


@torch.no_grad()
def alternative_flow(
    logits: Float[Tensor, "*batch vocab"],
    correct: Bool[Tensor, "*batch vocab"],
    tokens: Int[Tensor, "*batch"],
    weight: PerToken,
    step: PerToken,
    *,
    exact: bool = False,
) -> AlternativeFlow:
    """Where the mass goes under one sample: to or from the token, correct alternatives, wrong alternatives.

    To first order these are sums of Δπ_v = −ηw·π_v(π_v + π_y − c).

    Args:
        logits: z of the context; −inf masks a token.
        correct: which tokens are correct.
        tokens: sampled ids y.
        weight: w = −∂L/∂log π_y, one number or one for each token.
        step: η in units of the logits.
        exact: sums of the finite changes, not of their first order.

    Returns:
        The three changes of mass, each of the shape of `tokens`.

    Raises:
        UsageError: as `mass_flow`, and a mask that is not bool or of another shape than the logits.

    Source: derived here (†).

    >>> z = torch.tensor([0.5, 0.25, 0.25]).log()
    >>> flow = alternative_flow(z, torch.tensor([False, False, True]), torch.tensor(1), -1.0, 1.0)
    >>> flow.token, flow.correct, flow.wrong
    (tensor(-0.2188), tensor(0.0312), tensor(0.1875))
    """
    check_tokens(logits, tokens)
    check_bool("correct", correct, tuple(logits.shape), "logits")
    change = mass_flow(logits, tokens, weight, step, exact=exact)
    y = tokens.long().unsqueeze(-1)
    others = change.scatter(-1, y, 0)
    return AlternativeFlow(change.gather(-1, y).squeeze(-1), (others * correct).sum(-1), (others * ~correct).sum(-1))


def _at(correct: Tensor, tokens: Tensor) -> Tensor:
    return correct.gather(-1, tokens.long().unsqueeze(-1)).squeeze(-1)


@torch.no_grad()
def sequence_entropy(
    log_probs: Float[Tensor, "*batch responses"], correct: Bool[Tensor, "*#batch responses"]
) -> SequenceEntropy:
    """The entropy of a distribution over whole responses, split by whether they are correct.

    H(Y) = h(p) + p·H(Y | correct) + (1 − p)·H(Y | wrong). With p = 0 (or 1) the entropy given correct (or wrong) is 0
    by convention: there is no such distribution.

    Args:
        log_probs: log-probability of every response, whose probabilities sum to one.
        correct: which responses are correct; of the shape of the log-probabilities, or one mask (responses,) for all.

    Returns:
        The entropies in nats.

    Raises:
        UsageError: log-probabilities that are not finite or whose probabilities do not sum to one, a mask that is not
            bool or does not fit.

    Source: the chain rule of entropy.

    >>> parts = sequence_entropy(torch.tensor([0.25, 0.25, 0.5]).log(), torch.tensor([True, True, False]))
    >>> [round(part.item() / 0.6931472, 3) for part in parts]  # in bits
    [1.5, 1.0, 1.0, 0.0]
    """
    z = check_logits(log_probs, "log_probs").double()
    check_tensor("correct", correct)
    shape = tuple(z.shape[-1:] if correct.shape == z.shape[-1:] else z.shape)
    check_bool("correct", correct, shape, "log_probs")
    total = z.exp().sum(-1)
    bad = (total - 1).abs() > 1e-4
    if bad.any():
        index = first_index(bad)
        raise UsageError(
            f"log_probs: expected a distribution over all responses, got probabilities that sum to "
            f"{float(total[index]):.6g}{at_index(index)}"
        )
    probs = z.exp()
    correct_mass = (probs * correct).sum(-1)
    wrong_mass = (probs * ~correct).sum(-1)
    binary = torch.special.entr(correct_mass) + torch.special.entr(wrong_mass)
    conditional = [_entropy_given(z, mask) for mask in (correct.expand_as(z), ~correct.expand_as(z))]
    parts = (torch.special.entr(probs).sum(-1), binary, *conditional)
    return SequenceEntropy(*(part.to(log_probs.dtype) for part in parts))


def _entropy_given(log_probs: Tensor, mask: Tensor) -> Tensor:
    within = log_probs.masked_fill(~mask, float("-inf"))
    known = within.amax(-1) > float("-inf")
    conditional = torch.where(known.unsqueeze(-1), within, 0.0).softmax(-1)
    return torch.where(known, torch.special.entr(conditional).sum(-1), 0.0)
