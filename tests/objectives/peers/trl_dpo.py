"""TRL's DPOTrainer, without its models: `_compute_loss` runs on an object that has just the attributes it reads."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace

import torch
from torch import Tensor

from .trl_peer import accelerator, trainer

__all__ = ["dpo_loss"]


def dpo_loss(
    log_probs: Tensor, ref_log_probs: Tensor, mask: Tensor, *, loss_type: str = "sigmoid", beta: float = 0.1
) -> Tensor:
    """The mean loss of pairs; rows (2B, T), the B chosen responses before the B rejected ones."""
    owner = trainer("trl.trainer.dpo_trainer", "DPOTrainer")
    stub = SimpleNamespace(
        model=SimpleNamespace(training=True),
        accelerator=accelerator(),
        aux_loss_enabled=False,
        precompute_ref_logps=True,
        ld_alpha=None,
        f_divergence_type="reverse_kl",
        loss_types=[loss_type],
        loss_weights=[1.0],
        beta=beta,
        use_weighting=False,
        _total_train_tokens=0,
        _tp_size=1,
        _metrics={"train": defaultdict(list)},
    )
    zeros = torch.zeros_like(log_probs)
    outputs = SimpleNamespace(log_probs=log_probs * mask, entropy=zeros, mean_logits=zeros, is_top1=zeros > 0)
    wide = torch.cat([torch.zeros(len(mask), 1, dtype=torch.long), mask.long()], 1)  # the prompt is one token
    chosen, rejected = (ref_log_probs * mask).sum(-1).chunk(2)
    inputs = {
        "input_ids": torch.zeros_like(wide),
        "attention_mask": torch.ones_like(wide),
        "completion_mask": wide,
        "ref_chosen_logps": chosen,
        "ref_rejected_logps": rejected,
    }
    loss: Tensor = owner._compute_loss(stub, lambda **_: outputs, inputs, False)
    return loss
