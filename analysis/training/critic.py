"""A learned baseline: a linear value head on the policy's hidden states, and generalised advantage estimation.

The head reads the hidden state that the policy's own output head reads, V(s_t) = v·h_t + b, and is trained by its own
AdamW on ½(V − return)² per token, with the hidden states detached: it changes no parameter of the policy. A response
is rewarded once, at its end, with the signed value R that the objective gives it (±1 for REINFORCE), and discounted
by nothing, so that

    δ_t = V(s_{t+1}) − V(s_t),  δ_last = R − V(s_last),    A_t = Σ_{k≥t} λ^{k−t} δ_k,    return_t = A_t + V(s_t)

(Schulman et al., arXiv 1506.02438, with γ = 1). REINFORCE with clipping and this baseline is PPO.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UsageError

__all__ = ["Critic", "advantage_estimates", "captured_hidden_states"]


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


def advantage_estimates(values: Tensor, rewards: Tensor, lengths: Tensor, gae_lambda: float) -> Tensor:
    """A (B, R) from values (B, R), terminal rewards (B,) and lengths (B,); 0 at padding.

    >>> advantage_estimates(torch.tensor([[0.5, 0.25]]), torch.tensor([1.0]), torch.tensor([2]), 1.0)
    tensor([[0.5000, 0.7500]])
    """
    width = values.shape[1]
    position = torch.arange(width, device=values.device)
    last = position == (lengths - 1)[:, None]
    following = torch.cat([values[:, 1:], values.new_zeros(len(values), 1)], dim=1)
    delta = torch.where(last, rewards[:, None], following) - values
    out = torch.zeros_like(values)
    running = values.new_zeros(len(values))
    for t in range(width - 1, -1, -1):
        alive = t < lengths
        running = torch.where(alive, delta[:, t] + gae_lambda * torch.where(last[:, t], 0.0, running), 0.0)
        out[:, t] = running
    return out


class Critic:
    """The value head of one run and its optimiser."""

    def __init__(self, model: Any, lr: float) -> None:
        weight = model.get_output_embeddings().weight
        self.head = nn.Linear(weight.shape[1], 1, device=weight.device, dtype=weight.dtype)
        nn.init.zeros_(self.head.weight)  # V = 0 at first: plain REINFORCE until the head has learnt something
        nn.init.zeros_(self.head.bias)
        self._optimizer = torch.optim.AdamW(self.head.parameters(), lr=lr, weight_decay=0.0)

    @torch.no_grad()
    def values(self, hidden: Tensor) -> Tensor:
        """V (B, R) of hidden states (B, R, D)."""
        return self.head(hidden)[..., 0]

    def fit(self, hidden: Tensor, returns: Tensor) -> float:
        """One step of the head on the tokens (n, D) of a minibatch; the loss ½·mean (V − return)² before it."""
        loss = (self.head(hidden)[..., 0] - returns).square().mean() / 2
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
        return loss.item()

    def state_dict(self) -> dict[str, Any]:
        return {"head": self.head.state_dict(), "optimizer": self._optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.head.load_state_dict(state["head"])
        self._optimizer.load_state_dict(state["optimizer"])
