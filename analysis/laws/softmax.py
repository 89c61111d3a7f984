"""What a softmax says about one token: its log-probability and the moments that its update depends on.

With m the largest logit of a row, a its token (the lower id of a tie) and s = z − m, every quantity is built from sums
that leave a out: R0 = Σ_{v≠a} e^s, R2 = Σ_{v≠a} e^{2s}, S1 = Σ_{v≠a} e^s·s, Q1 = Σ_{v≠a} e^{2s}·s. So nothing is
subtracted from one: a float64 log_softmax has lost 1 − π_y wholly at a logit gap of 40, and autograd with it. The sums
are taken relative to the runner-up, so that squares survive in float32 beyond the gap (44) where e^{2s} underflows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import UsageError
from .checks import check_temperature, check_tokens_shape, first_index, raise_bad_row, raise_bad_token

__all__ = ["TokenStatistics", "token_statistics"]

# Deeper than any gap whose exponential is representable (745 in float64), and finite, so that 0·s is 0.
FAR = 1e4


@dataclass(frozen=True)
class TokenStatistics:
    """Statistics of softmax(logits / T) at the sampled tokens; every tensor has the tokens' shape.

    `covariance` is Cov_{v~π}(log π_v, 1{v=y} − π_v) = π_y(log π_y + H) − S − cH from the residual sums; it is None for
    statistics read back from records, where `entropy_change` falls back on the other moments.
    """

    log_prob: Tensor  # log π_y, nats
    one_minus_prob: Tensor  # 1 − π_y
    entropy: Tensor  # H = −Σ π log π, nats
    collision: Tensor  # c = Σ π²
    collision_log_prob: Tensor  # S = Σ π² log π, nats
    direction_norm: Tensor  # ‖e_y − π‖₂
    argmax_token: Tensor  # most probable token, the lower id of a tie
    argmax_prob: Tensor  # its probability
    token_rank: Tensor | None = None  # rank of y, 0 the most probable, ties by the lower id
    top_ids: Tensor | None = None  # (…, top_k), most probable first, ties by the lower id
    top_probs: Tensor | None = None  # (…, top_k)
    covariance: Tensor | None = None  # nats

    @property
    def prob(self) -> Tensor:
        """π_y."""
        return self.log_prob.exp()


@torch.no_grad()
def token_statistics(
    logits: Tensor, tokens: Tensor, *, temperature: float = 1.0, top_k: int = 0, rank: bool = False
) -> TokenStatistics:
    """Statistics of softmax(logits / temperature) at `tokens`, from residual sums.

    The same as, where that is accurate,

        log_probs = torch.log_softmax(logits / temperature, -1); probs = log_probs.exp()
        log_prob = log_probs.gather(-1, tokens[..., None]).squeeze(-1)
        entropy, collision = -(probs * log_probs).sum(-1), (probs**2).sum(-1)
        direction_norm = (one_hot(tokens, vocab) - probs).norm(dim=-1)

    logits (…, vocab) float; tokens (…) integer. −inf masks a token other than the sampled one (0·log 0 = 0). Half
    precision is promoted to float32; the results have the promoted dtype. No gradient flows through them. `rank` and
    `top_k` (cut at the vocabulary) cost as much again or more.

    Relative accuracy, against 400-digit arithmetic on the logits as given: 1e-15 in float64 at logit gaps up to 300 (by
    construction up to 350, where e^{−2·gap} underflows in `covariance`, 700 elsewhere); in float32 5e-7 up to a gap of
    87, from where results leave its range; 3e-6 for `covariance`, which crosses zero. bf16 logits bring their own
    rounding: at a spread of 3 nats about 0.03 in log π and 0.01 in H.

    Cost: ten passes over the logits, memory of four more arrays of their size.
    Raises UsageError for NaN, +inf, −inf at a sampled token, ids outside the vocabulary, shapes that do not fit.
    Source: Zhu et al. (arXiv 2506.01347) Eqs. 6–8 for what the moments are needed for; the forms are derived here.

    >>> stats = token_statistics(torch.tensor([[0.0, 0.0, 0.0, 0.0]]), torch.tensor([2]))
    >>> stats.log_prob.exp(), stats.one_minus_prob, stats.collision
    (tensor([0.2500]), tensor([0.7500]), tensor([0.2500]))
    >>> token_statistics(torch.tensor([60.0, 0.0]), torch.tensor(0)).one_minus_prob  # 1/(1 + e^60)
    tensor(8.7565e-27)
    """
    check_temperature(temperature)
    check_tokens_shape(logits, tokens)
    if top_k < 0:
        raise UsageError(f"top_k: expected a number of tokens, 0 for none, got {top_k}")
    shape, vocab = tokens.shape, logits.shape[-1]
    z = logits.reshape(-1, vocab)
    z = z.float() if z.dtype.itemsize < 4 else z
    y = tokens.reshape(-1, 1).long()

    top, a = z.max(-1, keepdim=True)
    in_range = (y >= 0) & (y < vocab)
    z_y = z.gather(-1, y.clamp(0, vocab - 1))
    if not (torch.isfinite(top) & torch.isfinite(z_y) & in_range).all():
        _raise_first_fault(logits, tokens, top, in_range, z_y)

    runner_up = z.scatter(-1, a, float("-inf")).amax(-1, keepdim=True).maximum(top - FAR)
    t = (z - runner_up).mul_(1 / temperature).clamp_(min=-FAR)
    e = t.exp().scatter_(-1, a, 0)
    e_sq = e * e
    e0, e2 = e.sum(-1).double(), e_sq.sum(-1).double()
    t1, q1 = e.mul_(t).sum(-1).double(), e_sq.mul_(t).sum(-1).double()

    # From here on (n,) vectors in float64, whatever the dtype of the logits.
    top64 = top.double()
    gap = ((top64 - runner_up.double()) / temperature).squeeze(-1)
    s_y = ((z_y.double() - top64) / temperature).squeeze(-1)
    is_top = (y == a).squeeze(-1)
    near = torch.exp(-gap)
    r0, r2 = near * e0, near.square() * e2
    s1, q = near * (t1 - gap * e0), near.square() * (q1 - gap * e2)
    total = 1 + r0
    log_total = torch.log1p(r0)
    mean_s = s1 / total
    e_y = torch.exp(s_y)

    one_minus_prob = torch.where(is_top, r0, 1 + r0 - e_y) / total
    direction_norm = torch.where(
        is_top,
        near * torch.sqrt(e0.square() + e2) / total,
        torch.sqrt(one_minus_prob.square() + (1 + r2 - e_y.square()) / total.square()),
    )
    collision = (1 + r2) / total.square()
    q_mean = q / total.square()
    covariance = torch.where(
        is_top,
        -mean_s * (r0 - r2) / total.square() - q_mean,
        e_y / total * (s_y - mean_s) - (q_mean - collision * mean_s),
    )

    def out(values: Tensor) -> Tensor:
        return values.to(z.dtype).reshape(shape)

    top_ids = top_probs = None
    if top_k:
        values, ids = _top(z, min(top_k, vocab))
        top_ids = ids.reshape(*shape, -1)
        weights = torch.exp((values.double() - top64) / temperature)
        top_probs = (weights / total[:, None]).to(z.dtype).reshape(*shape, -1)
    return TokenStatistics(
        log_prob=out(s_y - log_total),
        one_minus_prob=out(one_minus_prob),
        entropy=out(log_total - mean_s),
        collision=out(collision),
        collision_log_prob=out(q_mean - collision * log_total),
        direction_norm=out(direction_norm),
        argmax_token=a.reshape(shape),
        argmax_prob=out(1 / total),
        token_rank=_rank(z, y, z_y).reshape(shape) if rank else None,
        top_ids=top_ids,
        top_probs=top_probs,
        covariance=out(covariance),
    )


def _rank(z: Tensor, y: Tensor, z_y: Tensor) -> Tensor:
    ids = torch.arange(z.shape[-1], device=z.device)
    return ((z > z_y) | ((z == z_y) & (ids < y))).sum(-1)


def _top(z: Tensor, k: int) -> tuple[Tensor, Tensor]:
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
    raise UsageError(
        f"tokens: the sampled token {int(tokens[index])} at index {index} is masked (its logit is −inf); was it "
        "sampled from these logits?"
    )
