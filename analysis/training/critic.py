"""A learned baseline: a linear value head on the policy's hidden states, and generalised advantage estimation.

The head reads the hidden state that the policy's own output head reads, V(s_t) = v·h_t + b, and is trained by its own
AdamW on ½(V − return)² per token, with the hidden states detached: it changes no parameter of the policy. The last
token of a response is rewarded with the signed value R that the objective gives it (±1 for REINFORCE), every token
with −β·KL_t where the KL to the reference is placed in the reward, and nothing is discounted (γ = 1):

    r_t = −β·KL_t + 1[t last]·R,    δ_t = r_t + V(s_{t+1}) − V(s_t)  with V = 0 after the last token,
    A_t = Σ_{k≥t} λ^{k−t} δ_k,      return_t = A_t + V(s_t)

(Schulman et al., arXiv 1506.02438). REINFORCE with clipping and this baseline is PPO (arXiv 1707.06347). Whitening
and value clipping are what PPO implementations add to it; TRL and verl have both.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..objectives.advantages import normalised
from ..recipes.fields import CriticFields

__all__ = ["Critic", "advantage_estimates", "captured_hidden_states", "token_rewards", "whitened"]


@contextlib.contextmanager
def captured_hidden_states(model: Any) -> Iterator[list[Tensor]]:
    """What goes into the model's output head while the context is open, detached: one (B, R, D) per forward pass.

    Raises UsageError where the model calls no output head (fused losses).
    """
    seen: list[Tensor] = []
    handle = model.get_output_embeddings().register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    try:
        yield seen
    finally:
        handle.remove()
    if not seen:
        raise UsageError("critic.enabled: the model never called its output head, so no hidden states can be valued")


def token_rewards(final: Tensor, lengths: Tensor, penalties: Tensor) -> Tensor:
    """r (B, R): minus the penalties (B, R) of all tokens, and the reward `final` (B,) added at the last one.

    >>> token_rewards(torch.tensor([1.0]), torch.tensor([2]), torch.tensor([[0.25, 0.5, 9.0]]))
    tensor([[-0.2500,  0.5000,  0.0000]])
    """
    position = torch.arange(penalties.shape[1], device=penalties.device)
    ends = position == (lengths - 1)[:, None]
    return torch.where(ends, final[:, None], 0.0) - penalties.where(position < lengths[:, None], 0.0)


def advantage_estimates(values: Tensor, rewards: Tensor, lengths: Tensor, gae_lambda: float) -> Tensor:
    """A (B, R) from values and rewards (B, R) of each token and the lengths (B,); 0 at padding.

    >>> advantage_estimates(torch.tensor([[0.5, 0.25]]), torch.tensor([[0.0, 1.0]]), torch.tensor([2]), 1.0)
    tensor([[0.5000, 0.7500]])
    """
    real = torch.arange(values.shape[1], device=values.device) < lengths[:, None]
    values = values.where(real, 0.0)
    following = torch.cat([values[:, 1:], values.new_zeros(len(values), 1)], dim=1)
    delta = (rewards + following - values).where(real, 0.0)
    out = torch.zeros_like(values)
    running = values.new_zeros(len(values))
    for t in reversed(range(values.shape[1])):
        running = delta[:, t] + gae_lambda * running
        out[:, t] = running
    return out


def whitened(advantages: Tensor, mask: Tensor) -> Tensor:
    """Advantages (B, R) of the real tokens less their mean and over their standard deviation; 0 at padding.

    >>> whitened(torch.tensor([[1.0, 3.0, 7.0]]), torch.tensor([[True, True, False]]))
    tensor([[-0.7071,  0.7071,  0.0000]])
    """
    out = torch.zeros_like(advantages)
    out[mask] = normalised(advantages[mask], "batch_mean_std", group_size=1)
    return out


class Critic:
    """The value head of one run and its optimiser."""

    def __init__(self, model: Any, fields: CriticFields) -> None:
        self.fields = fields
        weight = model.get_output_embeddings().weight
        dtype = torch.promote_types(weight.dtype, torch.float32)
        self.head = nn.Linear(weight.shape[1], 1, device=weight.device, dtype=dtype)
        nn.init.zeros_(self.head.weight)  # V = 0 at first: plain REINFORCE until the head has learnt something
        nn.init.zeros_(self.head.bias)
        self._optimizer = torch.optim.AdamW(self.head.parameters(), lr=fields.lr, weight_decay=0.0)

    @torch.no_grad()
    def values(self, hidden: Tensor) -> Tensor:
        """V (B, R) of hidden states (B, R, D)."""
        return self.head(hidden)[..., 0]

    def fit(self, hidden: Tensor, returns: Tensor, old_values: Tensor) -> float:
        """One step of the head on the tokens of a minibatch, hidden (n, D); the loss before it.

        ½·mean (V − return)², or ½·mean max((V − return)², (V_near − return)²), where V_near is the present value kept
        within `critic.clip` of the old one, from which the advantages were made.
        """
        values = self.head(hidden)[..., 0]
        errors = (values - returns).square()
        if self.fields.clip is not None:
            near = old_values + (values - old_values).clamp(-self.fields.clip, self.fields.clip)
            errors = torch.maximum(errors, (near - returns).square())
        loss = errors.mean() / 2
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
        return loss.item()

    def state_dict(self) -> dict[str, Any]:
        return {"head": self.head.state_dict(), "optimizer": self._optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.head.load_state_dict(state["head"])
        self._optimizer.load_state_dict(state["optimizer"])
