"""A small random model under TRL's own trainers: what the tests of `watch` train."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("trl", reason="trl is not installed")
from datasets import Dataset
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer
from trl.experimental.gmpo import GMPOConfig, GMPOTrainer

from .objective_runs import GROUP, PROMPTS, even_sum, make_model, make_tokenizer

KINDS: dict[str, tuple[Any, Any]] = {
    "grpo": (GRPOTrainer, GRPOConfig),
    "rloo": (RLOOTrainer, RLOOConfig),
    "gmpo": (GMPOTrainer, GMPOConfig),
}


def make_trl_trainer(
    folder: Path,
    kind: str = "grpo",
    *,
    reward: Callable[..., list[Any]] | list[Any] = even_sum,
    model: Any = None,
    trainer_class: Any = None,
    peft_config: Any = None,
    evaluated: bool = False,
    **config: Any,
) -> Any:
    """A stock trainer of 16 rollouts a generation batch in microbatches of 4 rows, two to an update."""
    usual, config_class = KINDS[kind]
    args = config_class(
        **{
            "output_dir": str(folder / "out"),
            "use_cpu": True,
            "bf16": False,
            "gradient_checkpointing": False,
            "per_device_train_batch_size": 4,
            "steps_per_generation": 4,
            "gradient_accumulation_steps": 2,
            "num_generations": GROUP,
            "max_completion_length": 5,
            "max_steps": 2,
            "learning_rate": 3e-2,
            "lr_scheduler_type": "constant",
            "beta": 0.0,
            "report_to": [],
            "save_strategy": "no",
            "logging_strategy": "steps",
            "logging_steps": 1,
            "disable_tqdm": True,
            **({"eval_strategy": "steps", "eval_steps": 1, "per_device_eval_batch_size": 4} if evaluated else {}),
            **config,
        }
    )
    prompts = Dataset.from_list([{"prompt": prompt} for prompt in PROMPTS])
    return (trainer_class or usual)(
        make_model() if model is None else model,
        reward,
        args=args,
        train_dataset=prompts,
        eval_dataset=prompts.select(range(2)) if evaluated else None,
        processing_class=make_tokenizer(),
        peft_config=peft_config,
    )


class Parameters(TrainerCallback):
    """Copies of the parameters before each update, and after the last one."""

    def __init__(self) -> None:
        self.before: list[dict[str, Tensor]] = []
        self.last: dict[str, Tensor] = {}

    def on_step_begin(self, args, state, control, model=None, **_):
        self.before.append(copied(model))

    def on_train_end(self, args, state, control, model=None, **_):
        self.last = copied(model)


def copied(model: torch.nn.Module) -> dict[str, Tensor]:
    """Copies of the parameters by the names of the plain model, with LoRA adapters added in float64."""
    state = {name: value.detach().clone() for name, value in model.state_dict().items()}
    if not any("lora_A" in name for name in state):
        return state
    scaling = next(
        module.scaling["default"]
        for module in model.modules()
        if hasattr(module, "scaling") and hasattr(module, "lora_A")
    )
    plain = {}
    for name, value in state.items():
        if "lora_" in name:
            continue
        first, second = (name.replace("base_layer", f"lora_{part}.default") for part in "AB")
        delta = scaling * state[second].double() @ state[first].double() if first != name else 0.0
        plain[name.removeprefix("base_model.model.").replace(".base_layer", "")] = value.double() + delta
    return plain
