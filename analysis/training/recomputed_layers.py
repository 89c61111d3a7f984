"""Gradient checkpointing: a layer keeps its input for the backward pass, which computes the rest of it again.

The numbers are those of a plain pass, since a layer without dropout is a function of its input; a backward pass costs
one more forward pass. transformers' own switch acts on models in training mode alone (`self.gradient_checkpointing and
self.training`), where dropout is on; policies are in evaluation mode throughout. So the layers that transformers marks
for it (`GradientCheckpointingLayer`) are wrapped here in `torch.utils.checkpoint`, and only while the context is open:
sampling with a cache and forward-mode derivatives see the model as it is.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from ..errors import UsageError

__all__ = ["check_layers", "recomputed_layers"]


def _layers(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The outermost layers that transformers lets recompute."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers: list[torch.nn.Module] = []
    inside: set[torch.nn.Module] = set()
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer) and module not in inside:
            layers.append(module)
            inside.update(module.modules())
    return layers


def check_layers(model: torch.nn.Module) -> None:
    """UsageError for a model without layers that can be computed again."""
    if not _layers(model):
        raise UsageError(
            "update.gradient_checkpointing: expected a model whose layers transformers can compute again "
            f"(GradientCheckpointingLayer), got {type(model).__name__}, which has none; set "
            "update.gradient_checkpointing = false, and bound memory by update.micro_batch_tokens"
        )


@contextmanager
def recomputed_layers(model: torch.nn.Module) -> Iterator[None]:
    """Context in which forward passes keep the inputs of layers alone, for backward passes then or later.

    Args:
        model: a model of transformers in evaluation mode.
    """
    layers = _layers(model)
    held = [layer.__dict__.get("forward") for layer in layers]
    for layer in layers:
        layer.forward = functools.partial(_recomputed, layer.forward)
    try:
        yield
    finally:
        for layer, forward in zip(layers, held, strict=True):
            del layer.forward
            if forward is not None:  # another tool's, on the instance
                layer.forward = forward


def _recomputed(forward: Any, *arguments: Any, **named: Any) -> Any:
    return checkpoint(forward, *arguments, use_reentrant=False, preserve_rng_state=False, **named)
