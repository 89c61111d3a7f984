"""What a softmax says about one token: its log-probability, and the moments that the first-order changes of π_y and of
the entropy depend on. The flow among the other tokens depends on their probabilities as well.

With m the largest logit of a row, a its token (the lower id of a tie) and s = z − m, every quantity is built from sums
that leave a out: R0 = Σ_{v≠a} e^s, R2 = Σ_{v≠a} e^{2s}, S1 = Σ_{v≠a} e^s·s, Q1 = Σ_{v≠a} e^{2s}·s. So nothing is
subtracted from one: a float64 log_softmax has lost 1 − π_y wholly at a logit gap of 40, and autograd with it. The sums
are taken relative to the runner-up, so that squares survive in float32 beyond the gap (44) where e^{2s} underflows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from ..common.arguments import check_count
from ..common.short_repr import short_repr
from ..errors import UsageError, at_index, first_index
from .checks import check_temperature, check_tokens_shape, raise_bad_row, raise_bad_token

__all__ = [
    "ResidualSums",
    "TokenStatistics",
    "check_statistics",
    "dense_statistics",
    "largest",
    "row_statistics",
    "statistics_from_sums",
]

# Deeper than any gap whose exponential is representable (745 in float64), and finite, so that 0·s is 0.
FAR = 1e4


@short_repr
@dataclass(frozen=True)
class TokenStatistics:
    """Statistics of π = softmax(logits / T) at sampled tokens y, each of the shape of the tokens.

    Log-probabilities and entropies are in nats. They give the first-order change of π_y, of H and of the entropy of the
    other tokens under the token's own push, and the norms of its gradient. How the mass of the other tokens is
    distributed needs their probabilities too: see `mass_flow`, `other_prob_change` and `bucket_flow`.

    Attributes:
        log_prob: log π_y.
        one_minus_prob: 1 − π_y, relatively accurate where π_y rounds to 1.
        entropy: H = −Σ π log π.
        collision: c = Σ π².
        collision_log_prob: S = Σ π² log π.
        direction_norm: ‖e_y − π‖₂.
        argmax_token: the most probable token, the lower id of a tie.
        argmax_prob: its probability.
        token_rank: rank of y, 0 for the most probable, ties by the lower id; None where not asked for.
        top_ids: the most probable tokens, ties by the lower id; None where not asked for.
        top_probs: their probabilities.
        covariance: Cov_{v~π}(log π_v, 1{v=y} − π_v) = π_y(log π_y + H) − S − cH, from the residual sums; None for
            statistics read back from records, where `entropy_change` falls back on the other moments.
        probs_of: probabilities of the tokens that `token_statistics` was asked for; otherwise None.
    """

    log_prob: Float[Tensor, "*batch"]
    one_minus_prob: Float[Tensor, "*batch"]
    entropy: Float[Tensor, "*batch"]
    collision: Float[Tensor, "*batch"]
    collision_log_prob: Float[Tensor, "*batch"]
    direction_norm: Float[Tensor, "*batch"]
    argmax_token: Int[Tensor, "*batch"]
    argmax_prob: Float[Tensor, "*batch"]
    token_rank: Int[Tensor, "*batch"] | None = None
    top_ids: Int[Tensor, "*batch top_k"] | None = None
    top_probs: Float[Tensor, "*batch top_k"] | None = None
    covariance: Float[Tensor, "*batch"] | None = None
    probs_of: Float[Tensor, "*batch listed"] | None = None

    @property
    def prob(self) -> Float[Tensor, "*batch"]:
        """π_y, which rounds to 1 for a confident token; `one_minus_prob` does not round to 0."""
        return self.log_prob.exp()

    def map(self, change: Callable[[Tensor], Tensor]) -> TokenStatistics:
        """The same statistics with `change` applied to every tensor that is present."""
        tensors = {field.name: getattr(self, field.name) for field in fields(self)}
        changed: dict[str, Any] = {name: None if x is None else change(x) for name, x in tensors.items()}
        return TokenStatistics(**changed)

    def reshape(self, shape: Sequence[int]) -> TokenStatistics:
        """The statistics of n rows in another leading shape."""
        return self.map(lambda x: x.reshape((*shape, *x.shape[1:])))


def check_statistics(stats: object) -> None:
    """Raise UsageError for anything but `TokenStatistics`."""
    if not isinstance(stats, TokenStatistics):
        got = f"{type(stats).__module__}.{type(stats).__qualname__}".removeprefix("builtins.")
        raise UsageError(f"stats: expected TokenStatistics, got {got}; make them with token_statistics(logits, tokens)")


@torch.no_grad()
def dense_statistics(
    logits: Float[Tensor, "*batch vocab"],
    tokens: Int[Tensor, "*batch"],
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    rank: bool = False,
) -> TokenStatistics:
    """Statistics of softmax(logits / temperature) at `tokens`, all at once in the memory of a few copies of the logits.

    The same as, where that is accurate,

        log_probs = torch.log_softmax(logits / temperature, -1); probs = log_probs.exp()
        log_prob = log_probs.gather(-1, tokens[..., None]).squeeze(-1)
        entropy, collision = -(probs * log_probs).sum(-1), (probs**2).sum(-1)
        direction_norm = (one_hot(tokens, vocab) - probs).norm(dim=-1)

    `analysis.token_statistics` gives the same statistics at any vocabulary, also from hidden states.

    Relative accuracy, against 300-digit arithmetic on the logits as given. Let g be the lead of the largest logit over
    the runner-up, divided by T. In float64 it is (8 + g)·eps with eps = 2.2e-16, since e^{−g} is as accurate as g: at
    g = 10 4e-15, at g = 300 7e-14 (by construction up to 350, where e^{−2g} underflows in `covariance`, 700 elsewhere).
    In float32 it is 5e-7 up to g = 87, from where results leave its range. `covariance` crosses zero; its error is that
    small relative to π_y|log π_y + H| + |S + cH|. bf16 logits bring their own rounding: at a spread of 3 nats about
    0.03 in log π and 0.01 in H.

    Cost: ten passes over the logits, memory of four more arrays of their size; `rank` and `top_k` cost as much again or
    more. No gradient flows through the results.

    Args:
        logits: z; −inf masks a token other than the sampled one (0·log 0 = 0). Half precision is promoted to float32,
            and results have the promoted dtype.
        tokens: sampled ids y.
        temperature: T, a positive number.
        top_k: how many of the most probable tokens to list, cut at the vocabulary.
        rank: whether to give the rank of y.

    Returns:
        `TokenStatistics`, each of the shape of `tokens`.

    Raises:
        UsageError: NaN, +inf, −inf at a sampled token, ids outside the vocabulary, shapes that do not fit.

    Source: Eqs. 6 to 8 of Zhu et al., arXiv 2506.01347, for what the moments are needed for; the forms are derived here
    (†).

    >>> stats = dense_statistics(torch.tensor([[0.0, 0.0, 0.0, 0.0]]), torch.tensor([2]))
    >>> stats.log_prob.exp(), stats.one_minus_prob, stats.collision
    (tensor([0.2500]), tensor([0.7500]), tensor([0.2500]))
    >>> dense_statistics(torch.tensor([60.0, 0.0]), torch.tensor(0)).one_minus_prob  # 1/(1 + e^60)
    tensor(8.7565e-27)
    """
    check_temperature(temperature)
    check_tokens_shape(logits, tokens)
    check_count("top_k", top_k, least=0)
    shape, vocab = tokens.shape, logits.shape[-1]
    z = rearrange(logits, "... vocab -> (...) vocab")
    z = z.float() if z.dtype.itemsize < 4 else z
    y = rearrange(tokens, "... -> (...) 1").long()

    top = z.amax(-1, keepdim=True)
    in_range = (y >= 0) & (y < vocab)
    z_y = z.gather(-1, y.clamp(0, vocab - 1))
    if not (torch.isfinite(top) & torch.isfinite(z_y) & in_range).all():
        _raise_first_fault(logits, tokens, top, in_range, z_y)

    stats = row_statistics(z, y.squeeze(-1), temperature=temperature, top_k=min(top_k, vocab), rank=rank)
    return stats.reshape(shape)


def row_statistics(z: Tensor, y: Tensor, *, temperature: float, top_k: int, rank: bool) -> TokenStatistics:
    """`dense_statistics` of rows z (n, vocab) and their tokens y (n,), without checks: faulty rows are not finite."""
    y = y[:, None]
    top, a = z.max(-1, keepdim=True)
    z_y = z.gather(-1, y)
    runner_up = z.scatter(-1, a, float("-inf")).amax(-1, keepdim=True).maximum(top - FAR)
    t = (z - runner_up).mul_(1 / temperature).clamp_(min=-FAR)
    e = t.exp().scatter_(-1, a, 0)
    e_sq = e * e
    e0, e2 = e.sum(-1).double(), e_sq.sum(-1).double()
    t1, q1 = e.mul_(t).sum(-1).double(), e_sq.mul_(t).sum(-1).double()
    gap = ((top.double() - runner_up.double()) / temperature).squeeze(-1)
    s_y = ((z_y.double() - top.double()) / temperature).squeeze(-1)
    stats, total = statistics_from_sums(
        ResidualSums(gap, e0, t1, e2, q1), s_y, a.squeeze(-1), (y == a).squeeze(-1), dtype=z.dtype
    )

    if top_k:
        values, ids = largest(z, top_k)
        probs = torch.exp((values.double() - top.double()) / temperature) / total[:, None]
        stats = replace(stats, top_ids=ids, top_probs=probs.to(z.dtype))
    if rank:
        stats = replace(stats, token_rank=_rank(z, y, z_y))
    return stats


class ResidualSums(NamedTuple):
    """Sums over a row without its argmax a, relative to a reference r: t_v = (z_v − r)/T. Float64, (n,) each.

    r is the runner-up, or near it: where it lies far above, squares underflow; far below, exponentials overflow.
    """

    gap: Tensor  # (z_a − r)/T
    e0: Tensor  # Σ e^t
    t1: Tensor  # Σ e^t·t
    e2: Tensor  # Σ e^{2t}
    q1: Tensor  # Σ e^{2t}·t


def statistics_from_sums(
    sums: ResidualSums, s_y: Tensor, argmax_token: Tensor, is_top: Tensor, *, dtype: torch.dtype
) -> tuple[TokenStatistics, Tensor]:
    """The statistics of n rows from their residual sums, and Σ_v e^{(z_v − z_a)/T}, by which any π_v follows.

    s_y = (z_y − z_a)/T in float64; is_top says where y is a. All (n,); the statistics come in `dtype`.
    """
    near = torch.exp(-sums.gap)
    r0, r2 = near * sums.e0, near.square() * sums.e2
    s1, q = near * (sums.t1 - sums.gap * sums.e0), near.square() * (sums.q1 - sums.gap * sums.e2)
    total = 1 + r0
    log_total = torch.log1p(r0)
    mean_s = s1 / total
    e_y = torch.exp(s_y)

    one_minus_prob = torch.where(is_top, r0, 1 + r0 - e_y) / total
    direction_norm = torch.where(
        is_top,
        near * torch.sqrt(sums.e0.square() + sums.e2) / total,
        torch.sqrt(one_minus_prob.square() + (1 + r2 - e_y.square()) / total.square()),
    )
    collision = (1 + r2) / total.square()
    q_mean = q / total.square()
    covariance = torch.where(
        is_top,
        -mean_s * (r0 - r2) / total.square() - q_mean,
        e_y / total * (s_y - mean_s) - (q_mean - collision * mean_s),
    )
    stats = TokenStatistics(
        log_prob=(s_y - log_total).to(dtype),
        one_minus_prob=one_minus_prob.to(dtype),
        entropy=(log_total - mean_s).to(dtype),
        collision=collision.to(dtype),
        collision_log_prob=(q_mean - collision * log_total).to(dtype),
        direction_norm=direction_norm.to(dtype),
        argmax_token=argmax_token,
        argmax_prob=(1 / total).to(dtype),
        covariance=covariance.to(dtype),
    )
    return stats, total


def _rank(z: Tensor, y: Tensor, z_y: Tensor) -> Tensor:
    ids = torch.arange(z.shape[-1], device=z.device)
    return ((z > z_y) | ((z == z_y) & (ids < y))).sum(-1)


def largest(z: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest per row; `topk` leaves open which of equal values it takes, so tied rows are sorted again."""
    values, ids = z.topk(min(k + 1, z.shape[-1]), dim=-1)
    tied = (values[:, 1:] == values[:, :-1]).any(-1)
    values, ids = values[:, :k], ids[:, :k]
    if tied.any():
        again = z[tied].sort(dim=-1, descending=True, stable=True)
        values, ids = values.clone(), ids.clone()
        values[tied], ids[tied] = again.values[:, :k], again.indices[:, :k]
    return values, ids


def _raise_first_fault(logits: Tensor, tokens: Tensor, top: Tensor, in_range: Tensor, z_y: Tensor) -> None:
    shape = tokens.shape
    if not in_range.all():
        raise_bad_token(tokens, ~in_range.reshape(shape), logits.shape[-1])
    if not torch.isfinite(top).all():
        raise_bad_row(logits, top.reshape(shape), "logits")
    index = first_index(~torch.isfinite(z_y).reshape(shape))
    at = at_index(index)
    raise UsageError(
        f"tokens: the sampled token {int(tokens[index])}{at} is masked (its logit is −inf); was it "
        "sampled from these logits?"
    )
