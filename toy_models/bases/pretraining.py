"""Pretraining of a built-in base: next-token cross entropy on the responses of the task's corpus."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from ..tasks.puzzle import PuzzleTask
from ..tasks.registry import built_in_task
from .recipes import BaseRecipe

__all__ = ["REPORT_EVERY", "build_model", "learning_rate_factor", "pretrain"]

REPORT_EVERY = 10  # steps


def build_model(recipe: BaseRecipe, task: PuzzleTask[Any], seed: int) -> Any:
    """A freshly initialised `Qwen3ForCausalLM`; the caller's random state is left as it was."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=len(task.words),
        hidden_size=recipe.hidden,
        intermediate_size=recipe.intermediate,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        head_dim=recipe.head_dim,
        initializer_range=recipe.init_std,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        pad_token_id=task.tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=task.tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # transformers initialises from the global generator only
        return Qwen3ForCausalLM(config)


def pretrain(recipe: BaseRecipe, seed: int, out: Path) -> Iterator[tuple[int, float]]:
    """Train a base and save it to `out`; yields (step, mean loss in nats per response token since the last report)."""
    task = built_in_task(recipe.task)
    model = build_model(recipe, task, seed)
    model.train()
    pad_id = task.tokenizer.pad_token_id
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.lr, betas=(0.9, 0.98), weight_decay=recipe.weight_decay, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(recipe, step))
    text = torch.from_numpy(task.corpus(recipe.steps * recipe.batch, np.random.default_rng(seed), recipe.corpus))
    n_response = task.max_new_tokens
    recent: list[float] = []
    for step, rows in enumerate(text.split(recipe.batch), start=1):
        targets = rows[:, -n_response:]
        logits = model(input_ids=rows[:, :-1], use_cache=False, logits_to_keep=n_response).logits
        loss = cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=pad_id)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        recent.append(loss.item())
        if step % REPORT_EVERY == 0 or step == recipe.steps:
            yield step, sum(recent) / len(recent)
            recent.clear()
    model.eval()
    model.save_pretrained(out)
    task.tokenizer.save_pretrained(out)


def learning_rate_factor(recipe: BaseRecipe, step: int) -> float:
    """Fraction of the peak learning rate at a step from 0: linear warm-up, then a cosine to zero."""
    warm = min(1.0, (step + 1) / recipe.warmup_steps)
    return warm * 0.5 * (1.0 + math.cos(math.pi * step / recipe.steps))
