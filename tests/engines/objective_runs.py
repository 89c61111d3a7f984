"""A small random model under `ObjectiveTrainer`, and what its microbatches were: the raw material of the tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("trl", reason="trl is not installed")
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig

from analysis import ObjectiveTrainer

VOCAB = 13
PROMPTS = ["3 4 5", "6 7", "8", "9 10 11 12", "4 4", "5 6", "7 8 9", "10"]
GROUP = 4


def make_model(folder: Path | None = None) -> LlamaForCausalLM:
    """A policy whose logits have spread; saved and loaded where a folder is given, from which TRL loads a reference."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.3,
    )
    model = LlamaForCausalLM(config)
    if folder is None:
        return model
    model.save_pretrained(folder)
    return LlamaForCausalLM.from_pretrained(folder)


def make_tokenizer() -> PreTrainedTokenizerFast:
    words = {str(i): i for i in range(3, VOCAB)} | {"<pad>": 0, "<s>": 1, "</s>": 2}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", padding_side="left"
    )


def is_correct(ids: Sequence[int]) -> float:
    """1 for a completion whose ids have an even sum, else 0: about half of them under any policy here."""
    return float(sum(ids) % 2 == 0)


def even_sum(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """The reward function of the tests."""
    return [is_correct(ids) for ids in completion_ids]


@dataclass(eq=False)
class Microbatch:
    """One training microbatch: what TRL handed to the loss, its log-probs, and −∂L/∂log π as measured on them."""

    inputs: dict[str, Any]
    generation: int
    log_probs: Tensor | None = None
    entropies: Tensor | None = None
    weights: Tensor | None = None

    @property
    def mask(self) -> Tensor:
        return self.inputs["completion_mask"].bool()


@dataclass
class Generation:
    """One scored generation batch in its order, and log π of its tokens by a plain forward pass at that time."""

    output: dict[str, Any]
    log_probs: Tensor

    @property
    def mask(self) -> Tensor:
        return self.output["completion_mask"].bool()

    @property
    def rewards(self) -> Tensor:
        """float64 (N,): from the ids alone."""
        rows = zip(self.output["completion_ids"].tolist(), self.mask.tolist(), strict=True)
        judged = [is_correct([i for i, real in zip(ids, row, strict=True) if real]) for ids, row in rows]
        return torch.tensor(judged, dtype=torch.float64)


@dataclass
class Run:
    """A finished training."""

    trainer: ObjectiveTrainer
    parts: list[Microbatch] = field(default_factory=list)
    generations: list[Generation] = field(default_factory=list)


def plain_log_probs(model: Any, inputs: dict[str, Any]) -> Tensor:
    """(B, C) log π of the completions by log_softmax of the logits, in the precision of the model."""
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
    attention = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
    width = inputs["completion_ids"].shape[1]
    logits = model(input_ids=ids, attention_mask=attention).logits[:, -width - 1 : -1]
    return logits.log_softmax(-1).gather(-1, ids[:, -width:, None])[..., 0]


def make_trainer(
    folder: Path,
    objective: Any,
    *,
    reward: Callable[..., list[Any]] | list[Any] = even_sum,
    model: Any = None,
    rows: str = "keep",
    threshold: float | None = None,
    parameters: dict[str, Any] | None = None,
    peft_config: Any = None,
    rollout_func: Any = None,
    **config: Any,
) -> ObjectiveTrainer:
    """An `ObjectiveTrainer` of 16 rollouts a generation batch in microbatches of 4 rows."""
    args = GRPOConfig(
        **{
            "output_dir": str(folder),
            "use_cpu": True,
            "bf16": False,
            "gradient_checkpointing": False,
            "per_device_train_batch_size": 4,
            "steps_per_generation": 4,
            "gradient_accumulation_steps": 1,
            "num_generations": GROUP,
            "max_completion_length": 5,
            "max_steps": 8,
            "learning_rate": 3e-2,
            "lr_scheduler_type": "constant",
            "max_grad_norm": 0.0,
            "beta": 0.0,
            "report_to": [],
            "save_strategy": "no",
            "logging_strategy": "steps",
            "logging_steps": 1,
            "disable_tqdm": True,
            **config,
        }
    )
    return ObjectiveTrainer(
        make_model() if model is None else model,
        reward,
        args,
        Dataset.from_list([{"prompt": prompt} for prompt in PROMPTS]),
        processing_class=make_tokenizer(),
        peft_config=peft_config,
        rollout_func=rollout_func,
        objective=objective,
        rows=rows,
        threshold=threshold,
        **(parameters or {}),
    )


def observed(trainer: ObjectiveTrainer) -> Run:
    """Train, and keep every generation batch, and every microbatch with the gradient in its log-probs."""
    run = Run(trainer)
    generate, compute_loss = trainer._generate_and_score_completions, trainer._compute_loss
    log_probs_of = trainer._get_per_token_logps_and_entropies

    def seen_generation(inputs: Any) -> dict[str, Any]:
        output = generate(inputs)
        with torch.no_grad():
            run.generations.append(Generation(dict(output), plain_log_probs(trainer.model, output)))
        output["test_row"] = torch.arange(len(output["completion_ids"]))
        return output

    def seen_loss(model: Any, inputs: dict[str, Any]) -> Tensor:
        run.parts.append(Microbatch(dict(inputs), len(run.generations) - 1))
        return compute_loss(model, inputs)

    def seen_log_probs(*args: Any, **kwargs: Any) -> Any:
        made = log_probs_of(*args, **kwargs)
        if made[0].requires_grad:
            part = run.parts[-1]
            part.log_probs, part.entropies = made[0].detach().clone(), made[1].detach().clone()
            made[0].register_hook(lambda gradient: setattr(part, "weights", -gradient.detach().clone()))
        return made

    trainer._generate_and_score_completions = seen_generation
    trainer._compute_loss, trainer._get_per_token_logps_and_entropies = seen_loss, seen_log_probs
    trainer.train()
    return run
