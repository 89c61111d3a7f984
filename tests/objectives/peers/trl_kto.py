"""TRL's KTOTrainer, without its models: `_compute_loss` runs on an object that has just the attributes it reads."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace

import torch
from torch import Tensor

from .trl_peer import accelerator, trainer

__all__ = ["kto_loss"]


def kto_loss(
    log_probs: Tensor,
    ref_log_probs: Tensor,
    desirable: Tensor,
    mask: Tensor,
    *,
    kl: float,
    loss_type: str = "kto",
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Tensor:
    """The mean loss of a batch of responses (B, T); `kl` is the estimate of the KL to the reference."""
    owner = trainer("trl.trainer.kto_trainer", "KTOTrainer")
    stub = SimpleNamespace(
        model=SimpleNamespace(training=True),
        accelerator=accelerator(),
        aux_loss_enabled=False,
        precompute_ref_logps=True,
        calculate_KL=loss_type == "kto",
        loss_type=loss_type,
        beta=beta,
        desirable_weight=desirable_weight,
        undesirable_weight=undesirable_weight,
        _total_train_tokens=0,
        _tp_size=1,
        _metrics={"train": defaultdict(list)},
        _compute_kl_logps=lambda *_: torch.full((len(mask),), kl, dtype=log_probs.dtype),
    )
    outputs = SimpleNamespace(
        log_probs=log_probs * mask, entropy=torch.zeros_like(log_probs), mean_logits=torch.zeros_like(log_probs)
    )
    wide = torch.cat([torch.zeros(len(mask), 1, dtype=torch.long), mask.long()], 1)  # the prompt is one token
    inputs = {
        "input_ids": torch.zeros_like(wide),
        "attention_mask": torch.ones_like(wide),
        "completion_mask": wide,
        "label": desirable,
        "ref_logps": (ref_log_probs * mask).sum(-1),
        "ref_KL_logps": torch.zeros(len(mask), dtype=log_probs.dtype),
    }
    loss: Tensor = owner._compute_loss(stub, lambda **_: outputs, inputs, False)
    return loss
