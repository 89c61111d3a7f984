"""CPU time of one step of GRPO, with the fields of speed and without, beside TRL's GRPOTrainer on the same model.

A step is 1024 rollouts (128 prompts of `path` × 8 responses) and four updates of 256 rows, in float32 on one thread.
TRL's trainer runs throughout; after each of its steps ours are made in turn, so that whatever else the machine does
meets all of them. The first step of each is warm-up. `REPEATS` in the environment changes the number of steps (7).

    OMP_NUM_THREADS=1 pytest benchmarks/test_training_step.py --benchmark-enable -s
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from analysis.recipes import Recipe
from analysis.training.loop import Loop
from benchmarks.ratios import note_ratios
from toy_models import get_task, load_policy

REPEATS = int(os.environ.get("REPEATS", "7"))
UPDATES = 4
CLAIM = {
    "grid": "unset",
    "objective.name": "grpo",
    "record.tokens": 0.0,
    "record.contexts": 0,
    "record.rollouts": 0.0,
    "record.columns": "core",
    "record.checkpoint": False,
}
OURS: dict[str, dict[str, Any]] = {
    "as recorded by default": {},
    "signs together": {"record.signs_every": 0},
    "signs together, prompts shared": {"record.signs_every": 0, "update.shared_prompts": True},
    "and old log-probs of the rollouts": {
        "record.signs_every": 0,
        "update.shared_prompts": True,
        "update.old_log_probs": "rollouts",
    },
}


def test_step_beside_trl(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    trl = pytest.importorskip("trl", reason="trl is not installed")
    from datasets import Dataset
    from transformers import TrainerCallback

    torch.set_num_threads(1)
    loops = {}
    for name, values in OURS.items():
        (planned,) = Recipe.load("default").set(**{**CLAIM, **values}).expand()
        loops[name] = Loop(planned.config, tmp_path / name, run_id="r", label=name)
    policy = load_policy("path")
    task = get_task("path", policy.tokenizer)
    ids_of = {prompt.text: prompt.ids for prompt in task.prompts("train")[:1024]}
    policy.tokenizer.padding_side = "left"
    seconds: dict[str, list[float]] = {name: [] for name in ("TRL", *OURS)}

    def reward(prompts: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
        pairs = zip(prompts, completion_ids, strict=True)
        return [float(task.verify(ids_of[prompt], ids).correct) for prompt, ids in pairs]

    class Interleaved(TrainerCallback):
        start = 0.0

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.start = time.process_time()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step % UPDATES:
                return
            seconds["TRL"].append(time.process_time() - self.start)
            for name, loop in loops.items():
                start = time.process_time()
                loop._one_step()
                seconds[name].append(time.process_time() - start)
            self.start = time.process_time()

    config = trl.GRPOConfig(
        output_dir=str(tmp_path / "trl"),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        per_device_train_batch_size=1024 // UPDATES,
        steps_per_generation=UPDATES,
        gradient_accumulation_steps=1,
        num_generations=8,
        max_completion_length=task.max_new_tokens,
        max_steps=UPDATES * (REPEATS + 1),
        learning_rate=1.5e-4,
        lr_scheduler_type="constant",
        beta=0.0,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )
    trainer = trl.GRPOTrainer(
        model=policy.model,
        reward_funcs=reward,
        args=config,
        train_dataset=Dataset.from_list([{"prompt": text} for text in ids_of]),
        processing_class=policy.tokenizer,
        callbacks=[Interleaved()],
    )
    benchmark.pedantic(trainer.train, rounds=1, iterations=1)
    note_ratios(benchmark, {name: values[1:] for name, values in seconds.items()}, "TRL", "seconds")
