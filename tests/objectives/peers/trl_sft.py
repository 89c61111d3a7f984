"""TRL's SFTTrainer, without its model: `compute_loss` runs on an object that has just the attributes it reads."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace

import torch
from torch import Tensor

from .trl_peer import accelerator, trainer

__all__ = ["sft_loss"]


def sft_loss(log_probs: Tensor, mask: Tensor, *, loss_type: str = "nll") -> Tensor:
    """The mean over the tokens of responses (B, T)."""
    owner = trainer("trl.trainer.sft_trainer", "SFTTrainer")
    process = accelerator()
    process.parallelism_config = None
    stub = SimpleNamespace(
        model=SimpleNamespace(training=True),
        accelerator=process,
        args=SimpleNamespace(loss_type=loss_type, average_tokens_across_devices=False),
        aux_loss_enabled=False,
        compute_loss_func=None,
        label_smoother=None,
        _total_train_tokens=0,
        _tp_size=1,
        _metrics={"train": defaultdict(list)},
    )
    zeros = torch.zeros_like(log_probs)
    outputs = SimpleNamespace(log_probs=log_probs * mask, label_mask=mask, entropy=zeros, is_top1=zeros > 0)
    loss: Tensor = owner.compute_loss(stub, lambda **_: outputs, {"attention_mask": mask.long()})
    return loss
