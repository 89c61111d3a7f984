"""Statistics and weights of one forward pass, caught in the backward pass that makes the update.

There are three ways, chosen by what the model's forward pass returned:

    logits      a hook on them sees G = ∂L/∂logits; w = −T·⟨G, d⟩/‖d‖², and the residual says how much of G is not of
                this form (`logit_gradients`). Statistics come from the logits themselves, in the forward pass: no
                product is repeated. Logits that were changed in place before the backward pass (divided by a
                temperature, overwritten by a kernel) are known by their version, by z_y or by Σ π, and leave
                w = −T·G_y/(1 − π_y), without a residual but for what it is at least
    log_probs   a fused head (TRL's) gives log π_y and no logits; w = −∂L/∂log π_y is its gradient. Statistics come from
                hidden states and head, and their log-probs are compared with those that the head gave
    neither     a loss kernel (Liger's) took hidden states and head; w follows from ∂L/∂hidden (`hidden_gradients`)

Only the rows `keep` cost anything. Logits are held, as the same storage, until their backward pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ..errors import UsageError
from ..laws import TokenStatistics
from ..token_stats import token_statistics
from .hidden_gradients import own_direction, scalar_part_of_hidden, unmeasurable
from .logit_gradients import ChangedLogits, Measured, least_residual, own_entry_part, scalar_part
from .output_heads import OutputHead
from .record_spec import RecordSpec
from .weight_probe import WeightProbe

__all__ = ["Capture", "Caught", "FusedCapture", "HiddenCapture", "LogitCapture"]


# Logits of 5 to 20 in bf16 round by 0.01 to 0.03; whether a kernel ran under autocast cannot be seen from its output.
_ROUNDING = 0.02


@dataclass(frozen=True)
class Caught:
    """What backward passes brought to n tokens, (n,) each; None is what cannot be seen in that way.

    Where `unmeasured`, the gradient does not tell the weight of a confident token: weight and residual are NaN there.
    `least_residual` is what the residual is at least, where the logits it needs are lost.
    """

    weight: Tensor
    residual: Tensor | None = None
    entropy_weight: Tensor | None = None
    unmeasured: Tensor | None = None
    least_residual: Tensor | None = None


class Capture(Protocol):
    """One forward pass whose gradient is being watched."""

    @property
    def stats(self) -> TokenStatistics | None:
        """Statistics (n,) of the kept rows; None before they are known."""

    @property
    def caught(self) -> bool:
        """Whether a backward pass has come through."""

    def take(self) -> Caught:
        """What the backward passes so far have brought."""

    def remove(self) -> None:
        """Take the hooks away."""


class LogitCapture:
    """Catches G on `logits` (B, K, V) and works out statistics, weight and residual of the rows `keep` (n,), flat
    indices into (B, K), whose tokens are `tokens` (n,).
    """

    def __init__(self, logits: Tensor, tokens: Tensor, keep: Tensor, spec: RecordSpec, temperature: float) -> None:
        # not the tensor itself, which would keep its own graph alive; an alias shares storage and version
        self._logits: Tensor | None = logits.detach()
        self._version = logits._version
        self._tokens, self._keep, self._temperature = tokens, keep, temperature
        self.stats: TokenStatistics | None = _statistics_of_rows(self._logits, tokens, keep, spec, temperature)
        self._own = self._logits.flatten(0, 1)[keep, tokens]  # z_y; a kernel may write over logits without a version
        self._parts: Measured | None = None
        self._least: Tensor | None = None
        self._handle = logits.register_hook(self._caught)

    @property
    def caught(self) -> bool:
        return self._parts is not None

    def take(self) -> Caught:
        """Weight and residual."""
        assert self._parts is not None
        parts = self._parts
        return Caught(parts.weight, parts.residual, unmeasured=parts.unmeasured, least_residual=self._least)

    def _caught(self, gradient: Tensor | None) -> None:
        if gradient is None:  # a function that gives none to an input that the loss does not depend on
            return
        if self._logits is None:
            raise UsageError(
                "backward: expected one backward pass through a forward pass, got a second, when its logits are no "
                "longer held; add the losses and call backward once"
            )
        assert self.stats is not None
        self._parts = self._of_whole_logits(gradient)
        if self._parts is None:
            self._parts = own_entry_part(
                self._own, gradient, self._tokens, self.stats, self._keep, temperature=self._temperature
            )
            self._least = least_residual(
                gradient, self._parts.weight, self._tokens, self.stats, self._keep, temperature=self._temperature
            )
        self._logits = None

    def _of_whole_logits(self, gradient: Tensor) -> Measured | None:
        """Weights and residuals from all entries; None where the logits are not those of the forward pass any more."""
        assert self._logits is not None
        assert self.stats is not None
        own = self._logits.flatten(0, 1)[self._keep, self._tokens]
        if self._logits._version != self._version or not torch.equal(own, self._own):
            return None
        try:
            return scalar_part(
                self._logits, gradient, self._tokens, self.stats, self._keep, temperature=self._temperature
            )
        except ChangedLogits:
            return None

    def remove(self) -> None:
        self._handle.remove()
        self._logits = None


def _statistics_of_rows(
    logits: Tensor, tokens: Tensor, keep: Tensor, spec: RecordSpec, temperature: float
) -> TokenStatistics:
    """Statistics (n,) of the rows `keep` of logits (B, K, V), without a copy of them."""
    mask = torch.zeros(logits.shape[:-1], dtype=torch.bool, device=logits.device)
    mask.view(-1)[keep] = True
    whole = torch.zeros(logits.shape[:-1], dtype=torch.int64, device=logits.device)
    whole.view(-1)[keep] = tokens
    stats = token_statistics(
        logits, whole, token_mask=mask, temperature=temperature, top_k=min(spec.top_k, logits.shape[-1]), rank=spec.rank
    )
    return stats.map(lambda x: x.flatten(0, 1)[keep])


class FusedCapture:
    """Catches ∂L/∂log π_y on `log_probs` (B, K) of a fused head, and ∂L/∂H where it gave the entropy as well.

    `hidden` (B, K, D) are the states that entered the head. Raises UsageError where the log-probs are not those of head
    and temperature.
    """

    def __init__(
        self,
        output: Any,
        log_probs: Tensor,
        hidden: Tensor,
        head: OutputHead,
        tokens: Tensor,
        keep: Tensor,
        spec: RecordSpec,
        temperature: float,
    ) -> None:
        self._keep = keep
        self.stats: TokenStatistics = token_statistics(
            hidden=hidden.detach().flatten(0, 1)[keep],
            tokens=tokens,
            temperature=temperature,
            top_k=min(spec.top_k, head.vocabulary),
            rank=spec.rank,
            **head.arguments(),
        )
        given = log_probs.detach().flatten()[keep]
        _check_same_distribution(given, self.stats.log_prob, head, temperature)
        self._probe = WeightProbe(log_probs)
        entropy = getattr(output, "entropy", None)
        self._entropy: WeightProbe | None = None
        if isinstance(entropy, Tensor) and entropy.requires_grad and entropy.shape == log_probs.shape:
            self._entropy = WeightProbe(entropy)

    @property
    def caught(self) -> bool:
        return self._probe.caught

    def take(self) -> Caught:
        """Weight, and the weight of the entropy where that is used; of all backward passes so far."""
        weight = self._probe.take().flatten()[self._keep].double()
        if self._entropy is None or not self._entropy.caught:
            return Caught(weight)
        return Caught(weight, entropy_weight=self._entropy.take().flatten()[self._keep].double())

    def remove(self) -> None:
        self._probe.remove()
        if self._entropy is not None:
            self._entropy.remove()


class HiddenCapture:
    """Catches ∂L/∂hidden on `hidden` (B, K, D) of the rows `keep` (n,), where that is all that can be seen."""

    def __init__(
        self, hidden: Tensor, head: OutputHead, tokens: Tensor, keep: Tensor, spec: RecordSpec, temperature: float
    ) -> None:
        self._keep = keep
        rows = hidden.detach().flatten(0, 1)[keep]
        self.stats: TokenStatistics = token_statistics(
            hidden=rows,
            tokens=tokens,
            temperature=temperature,
            top_k=min(spec.top_k, head.vocabulary),
            rank=spec.rank,
            **head.arguments(),
        )
        # now, since an optimiser will have changed the head by the time that `take` is called
        self._direction = own_direction(rows, tokens, self.stats, head, temperature=temperature)
        self._unmeasured = unmeasurable(
            self._direction,
            rows,
            tokens,
            self.stats,
            head,
            temperature=temperature,
            half=_half_type(hidden, head.weight()),
        )
        self._gradient: Tensor | None = None
        self._handle = hidden.register_hook(self._caught)

    @property
    def caught(self) -> bool:
        return self._gradient is not None

    def take(self) -> Caught:
        """Weight and residual, of all backward passes so far."""
        assert self._gradient is not None
        weight, residual = scalar_part_of_hidden(self._gradient, self._direction)
        unmeasured = self._unmeasured & ~self._gradient.eq(0).all(-1)
        return Caught(
            weight.masked_fill(unmeasured, torch.nan), residual.masked_fill(unmeasured, torch.nan), None, unmeasured
        )

    def _caught(self, gradient: Tensor | None) -> None:
        if gradient is None:
            return
        rows = gradient.detach().flatten(0, 1)[self._keep]
        self._gradient = rows if self._gradient is None else self._gradient + rows

    def remove(self) -> None:
        self._handle.remove()


def _half_type(hidden: Tensor, weight: Tensor) -> torch.dtype | None:
    """The half type that a product of the two is rounded to, None where there is none."""
    types = {hidden.dtype, weight.dtype}
    if torch.is_autocast_enabled(hidden.device.type):
        types.add(torch.get_autocast_dtype(hidden.device.type))
    return next((dtype for dtype in (torch.bfloat16, torch.float16) if dtype in types), None)


def _check_same_distribution(given: Tensor, ours: Tensor, head: OutputHead, temperature: float) -> None:
    """UsageError where log-probs (n,) differ by more than the rounding of a kernel in bf16 on average over tokens."""
    if not len(given):
        return
    slack = _ROUNDING * (1 + ours.abs().mean().item())
    off = (given.double() - ours.double()).abs().mean().item()
    if not off <= slack:
        raise UsageError(
            f"temperature: expected the temperature of the model's fused head, got {temperature:g}: its log-probs "
            f"differ from those of {head.description} by {off:.3g} on average. If the temperatures are the same, the "
            "fused head does not see all of the head (TRL's leaves out LoRA adapters on it)"
        )
