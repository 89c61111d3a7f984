"""One micro batch of an update, as the observing engine saw it: statistics, hooks on gradients, what its loss was."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from ....laws import TokenStatistics
from ....probes.weight_probe import WeightProbe
from ....token_stats import token_statistics
from ...update_parts import Weights
from .response_rows import ResponseRows

__all__ = ["ObservedPart", "Source", "statistics_of"]

_ROWS = 4096  # tokens whose logits are copied at once: 2.4 GB in float32 at a vocabulary of 152k


@dataclass(eq=False)
class ObservedPart:
    """One micro batch of an update in this process: (B, C) tensors of its responses."""

    update: int
    epoch: int
    minibatch: int
    rows: Tensor  # (B,) numbers of its rollouts among those of this process, −1 for verl's padding
    places: ResponseRows
    tokens: Tensor  # (B, C)
    mask: Tensor  # (B, C) bool, tokens in the loss
    advantages: Tensor  # (B, C)
    entropy_mask: Tensor  # (B, C) bool, tokens whose entropy is known
    keep: Tensor  # (n,) flat places of the recorded tokens
    temperature: float | Tensor  # one, or (B,)
    old_log_probs: Tensor | None  # (B, C)
    ref_log_probs: Tensor | None  # (B, C)
    sampling_log_probs: Tensor | None  # (B, C), of the engine that sampled
    log_probs: Tensor | None = None  # (B, C), detached
    entropies: Tensor | None = None  # (B, C), detached
    stats: TokenStatistics | None = None  # (n,)
    ratio: Tensor | None = None  # (B, C)
    clip: Tensor | None = None  # (B, C)
    loss: float = 0.0
    normalizer: float | None = None
    scale: float = 1.0  # processes times the factor of mixed precision
    world: int = 1
    weight_probe: WeightProbe | None = None
    entropy_probe: WeightProbe | None = None
    kl_gradient: Tensor | None = None  # (B, C) float64, ∂(KL part of the loss)/∂log π
    replayed: Tensor | None = None  # (B, C) float64, ∂loss/∂log π
    replayed_entropy: Tensor | None = None

    @property
    def caught(self) -> bool:
        """Whether a backward pass reached the log-probs."""
        return self.weight_probe is not None and self.weight_probe.reached

    def take(self) -> Weights:
        """The weights that the backward pass brought; once. FSDP averages gradients over processes."""
        assert self.weight_probe is not None
        total = self.places.of_sequences(self.weight_probe.take()).double() / self.scale
        entropy = None
        if self.entropy_probe is not None and self.entropy_probe.caught:
            entropy = self.places.of_sequences(self.entropy_probe.take()).double() / self.scale
        factor = 1.0 / self.world
        kl = None if self.kl_gradient is None else -factor * self.kl_gradient
        return Weights(total if kl is None else total - kl, kl, entropy, factor)

    def release(self) -> None:
        """Take the hooks away."""
        for probe in (self.weight_probe, self.entropy_probe):
            if probe is not None:
                probe.remove()


@dataclass(frozen=True)
class Source:
    """Where the distributions of a forward pass are read: rows (R, V) of logits, or (R, D) of hidden states."""

    logits: Tensor | None = None
    hidden: Tensor | None = None
    head: Tensor | None = None
    bias: Tensor | None = None
    softcap: float | None = None
    logit_scale: float = 1.0


def statistics_of(part: ObservedPart, source: Source, *, padded: bool, top_k: int, rank: bool) -> TokenStatistics:
    """Statistics (n,) of the recorded tokens of a micro batch, read in the forward pass.

    Args:
        part: the micro batch.
        source: rows of the packed sequence, or of padded ones.
        padded: whether the rows are those of padded sequences.
        top_k: how many of the most probable tokens to list.
        rank: whether to give the rank of each token.

    Returns:
        Statistics of softmax(z / T), z the logits as they leave the model, T the temperature of the sequence.
    """
    places = (part.places.padded if padded else part.places.packed).flatten()[part.keep]
    tokens = part.tokens.flatten()[part.keep]
    found, order = [], []
    with torch.autocast(places.device.type, enabled=False):  # it would compute products of float32 in half precision
        for temperature, chosen in _by_temperature(part):
            rows = places[chosen]
            order.append(chosen)
            found.append(
                token_statistics(
                    None if source.logits is None else source.logits.detach()[rows],
                    tokens[chosen],
                    hidden=None if source.hidden is None else source.hidden.detach()[rows],
                    head=source.head,
                    bias=source.bias,
                    softcap=source.softcap,
                    logit_scale=source.logit_scale,
                    temperature=temperature,
                    top_k=top_k,
                    rank=rank,
                )
            )
    return _joined(found, torch.cat(order))


def _by_temperature(part: ObservedPart) -> list[tuple[float, Tensor]]:
    """The recorded tokens in blocks of one temperature each; one empty block where there are none."""
    everything = torch.arange(len(part.keep), device=part.keep.device)
    if not isinstance(part.temperature, Tensor) or not len(part.keep):
        single = part.temperature if isinstance(part.temperature, float) else 1.0
        return [(single, chosen) for chosen in everything.split(_ROWS)]
    of_tokens = part.temperature.double().clamp(min=1e-8)[part.keep // part.mask.shape[1]]
    return [
        (temperature, chosen)
        for temperature in of_tokens.unique().tolist()
        for chosen in everything[of_tokens == temperature].split(_ROWS)
    ]


def _joined(parts: list[TokenStatistics], order: Tensor) -> TokenStatistics:
    """Statistics of blocks as one, with the rows of the blocks at the places `order`."""
    back = order.argsort()
    values: dict[str, Any] = {}
    for item in fields(TokenStatistics):
        columns = [getattr(part, item.name) for part in parts]
        values[item.name] = None if columns[0] is None else torch.cat(columns)[back]
    return TokenStatistics(**values)
