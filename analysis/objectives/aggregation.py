"""How token losses become one loss.

With ℓ_it the loss of token t of response i, |y_i| its length and B the responses of a minibatch:

    batch_tokens     Σ ℓ_it / Σ_i |y_i|                  selected_tokens  Σ ℓ_it / Σ_{i: A_i ≠ 0} |y_i|
    per_sequence     (1/B) Σ_i (1/|y_i|) Σ_t ℓ_it         constant         Σ ℓ_it / C

B counts every response, also one without tokens, which adds nothing. The names that TRL and verl have for these are
accepted wherever ours are (`correspondence`); no torch is loaded before a loss is aggregated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from toy_models.messages import nearest

from ..errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ADVANTAGE_ALIASES", "NORMALIZERS", "NORMALIZER_ALIASES", "aggregate", "row_scale"]

NORMALIZERS = ("batch_tokens", "selected_tokens", "per_sequence", "constant")
NORMALIZER_ALIASES = {
    "token-mean": "batch_tokens",
    "bnpo": "batch_tokens",
    "seq-mean-token-mean": "per_sequence",
    "token-sum": "constant",
    "seq-mean-token-sum": "constant",
    "seq-mean-token-sum-norm": "constant",
}
ADVANTAGE_ALIASES = {"rloo": "leave_one_out", "grpo": "group_mean_std", "dr_grpo": "group_mean"}


def row_scale(
    how: str, lengths: Tensor, selected: Tensor, constant: float | None = None
) -> tuple[Tensor, float | None]:
    """(B,) float64 factor of each row's summed token losses, and the one divisor where there is one.

    lengths (B,) tokens of each row, selected bool (B,). Where no token carries a weight any divisor gives the same
    zero: it is 1.

    >>> import torch
    >>> row_scale("selected_tokens", torch.tensor([2, 3]), torch.tensor([True, False]))
    (tensor([0.5000, 0.5000], dtype=torch.float64), 2.0)
    """
    import torch

    how = NORMALIZER_ALIASES.get(how, how)
    if how not in NORMALIZERS:
        raise UsageError(f"normalizer: unknown value {how!r}; {nearest(how, [*NORMALIZERS, *NORMALIZER_ALIASES])}")
    if (how == "constant") != (constant is not None):
        raise UsageError(
            f"constant: expected one with the normalizer constant and with no other, got {constant} with {how}"
        )
    lengths = lengths.double()
    if how == "per_sequence":
        return 1 / (lengths.clamp(min=1) * len(lengths)), None
    if constant is not None:
        divisor = constant
    else:
        counted = lengths[selected] if how == "selected_tokens" else lengths
        divisor = max(float(counted.sum()), 1.0)
    return torch.full_like(lengths, 1 / divisor), divisor


def aggregate(
    losses: Tensor, mask: Tensor, how: str, *, selected: Tensor | None = None, constant: float | None = None
) -> Tensor:
    """The loss of a minibatch from those of its tokens (B, T), a scalar; selected (B,) says which rows carry a weight.

    >>> import torch
    >>> losses, mask = torch.tensor([[1.0, 3.0], [5.0, 9.0]]), torch.tensor([[True, True], [True, False]])
    >>> [aggregate(losses, mask, how).item() for how in ("token-mean", "seq-mean-token-mean")]
    [3.0, 3.5]
    """
    import torch

    rows = torch.ones(len(mask), dtype=torch.bool, device=mask.device) if selected is None else selected
    scale, _ = row_scale(how, mask.sum(-1), rows, constant)
    return (losses.masked_fill(~mask, 0) * scale.to(losses)[:, None]).sum()
