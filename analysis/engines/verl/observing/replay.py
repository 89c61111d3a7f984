"""verl's own loss again, in float64: it checks the recorded weights, and splits the KL to the reference from them.

The loss function is called on the log-probs and entropies that the engine had, as float64 leaves: ∂loss/∂log π is then
known without hooks, model or mixed precision. Random numbers that a loss draws (`clip_cov`) are the same in both calls,
and the generator is afterwards as it was. The KL loss is verl's `kl_penalty` and `agg_loss` on the same leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor
from verl.trainer.ppo.core_algos import agg_loss, kl_penalty
from verl.utils import tensordict_utils as tu

from ..microbatch import in_progress
from .response_rows import ResponseRows

__all__ = ["kl_gradient", "replayed_gradients"]


def replayed_gradients(
    loss_function: Callable[..., Any], output: Mapping[str, Any], data: TensorDict, group: Any, rows: ResponseRows
) -> tuple[Tensor, Tensor | None]:
    """∂loss/∂log π_y and ∂loss/∂H of one micro batch, from float64.

    Args:
        loss_function: verl's loss of the actor.
        output: `log_probs` and, where they are computed, `entropy`: jagged, as the engine hands them to the loss.
        data: the micro batch.
        group: the process group that the loss is given.
        rows: where response tokens stand.

    Returns:
        (B, C) float64 each; None for entropies that the loss does not depend on.
    """
    leaves = {name: output[name].values().detach().double().requires_grad_() for name in _read(output)}
    jagged = {
        name: torch.nested.nested_tensor_from_jagged(leaf, output[name].offsets()) for name, leaf in leaves.items()
    }
    device = leaves["log_probs"].device
    devices = [device] if device.type == "cuda" else []
    with (
        torch.random.fork_rng(devices=devices),
        torch.enable_grad(),
        torch.autocast(device.type, enabled=False),
        in_progress(data),
    ):
        loss, _ = loss_function(model_output=jagged, data=data, dp_group=group)
        gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    of = dict(zip(leaves, gradients, strict=True))
    policy = torch.zeros_like(leaves["log_probs"]) if of["log_probs"] is None else of["log_probs"]
    entropy = of.get("entropy")
    return rows.of_sequences(policy), None if entropy is None else rows.of_sequences(entropy)


def _read(output: Mapping[str, Tensor]) -> list[str]:
    return [name for name in ("log_probs", "entropy") if output.get(name) is not None]


def kl_gradient(config: Any, log_probs: Tensor, ref_log_probs: Tensor, mask: Tensor, data: TensorDict) -> Tensor:
    """∂(kl_loss_coef · KL loss)/∂log π_y of one micro batch.

    Args:
        config: verl's configuration of the actor.
        log_probs: (B, C).
        ref_log_probs: (B, C), under the reference.
        mask: (B, C) bool.
        data: the micro batch.

    Returns:
        (B, C) float64, scaled as verl scales the loss.
    """
    leaf = log_probs.detach().double().requires_grad_()
    with torch.enable_grad(), torch.autocast(leaf.device.type, enabled=False):
        loss = agg_loss(
            loss_mat=kl_penalty(logprob=leaf, ref_logprob=ref_log_probs.double(), kl_penalty=config.kl_loss_type),
            loss_mask=mask,
            loss_agg_mode=config.loss_agg_mode,
            dp_size=tu.get(data, "dp_size"),
            batch_num_tokens=tu.get(data, "batch_num_tokens"),
            global_batch_size=tu.get(data, "global_batch_size"),
            loss_scale_factor=config.loss_scale_factor,
        )
        (gradient,) = torch.autograd.grad(loss * config.kl_loss_coef, leaf)
    return gradient
