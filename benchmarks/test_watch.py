"""What `analysis.watch` adds to a step of TRL's `GRPOTrainer` at a vocabulary of 151,936: ratios of CPU time.

    every token     records of every token                                     bar: 1.10, aim 1.05
    an eighth       records of an eighth of the prompts, the default           bar: 1.02, aim 1.01

A step is the trainer's own: it samples two completions of 16 tokens to each of 8 prompts, and takes the loss, backward
pass and update in one microbatch. Trainers of the same kind, one stock and two watched, make a step in turn, each in a
thread of its own that waits for the others, so that whatever else the machine does meets all of them. The first step of
each is warm-up: in it `watch` replays the loss in float64. LAYERS (4) and REPEATS (5) change the size.

    OMP_NUM_THREADS=1 pytest benchmarks/test_watch.py --benchmark-enable -s
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from transformers import Qwen3Config, Qwen3ForCausalLM

import analysis
from benchmarks.ratios import note_ratios

LAYERS, REPEATS = int(os.environ.get("LAYERS", "4")), int(os.environ.get("REPEATS", "5"))
VOCAB, PROMPTS, TOKENS = 151_936, 8, 16
KINDS = {"stock": None, "every token": 1.0, "an eighth": 0.125}


def make_model() -> Qwen3ForCausalLM:
    torch.manual_seed(0)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=VOCAB,
            hidden_size=512,
            intermediate_size=2048,
            num_hidden_layers=LAYERS,
            num_attention_heads=8,
            num_key_value_heads=2,
            head_dim=64,
            tie_word_embeddings=True,
            pad_token_id=0,
            eos_token_id=1,
        )
    )


class Turns:
    """Lets the trainers make one step after the other: a thread waits until it is the turn of its kind."""

    def __init__(self, kinds: list[str]) -> None:
        self.kinds, self.turn, self.changed = kinds, 0, threading.Condition()

    def wait_for(self, kind: str) -> None:
        with self.changed:
            self.changed.wait_for(lambda: self.kinds[self.turn % len(self.kinds)] == kind)

    def pass_on(self) -> None:
        with self.changed:
            self.turn += 1
            self.changed.notify_all()


def test_overhead_of_watch(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    trl = pytest.importorskip("trl", reason="trl is not installed")
    from datasets import Dataset
    from transformers import PrinterCallback, TrainerCallback

    from toy_models.tasks.tokenizer import word_tokenizer

    torch.set_num_threads(1)
    tokenizer = word_tokenizer(["<pad>", "$", *map(str, range(VOCAB - 2))], pad="<pad>", eos="$")
    tokenizer.padding_side = "left"
    turns, seconds = Turns(list(KINDS)), {kind: list[float]() for kind in KINDS}

    def reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [float(row % 2) for row in range(len(completion_ids))]

    class InTurn(TrainerCallback):
        """A step lasts from one begin to the next, so that what is filed and logged at its end is counted."""

        def __init__(self, kind: str) -> None:
            self.kind, self.start = kind, -1.0

        def _ended(self) -> None:
            if self.start >= 0:
                seconds[self.kind].append(time.thread_time() - self.start)
                turns.pass_on()

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self._ended()
            turns.wait_for(self.kind)
            self.start = time.thread_time()

        def on_train_end(self, *_: Any, **__: Any) -> None:
            self._ended()

    def make_trainer(kind: str) -> Any:
        config = trl.GRPOConfig(
            output_dir=str(tmp_path / kind),
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            per_device_train_batch_size=2 * PROMPTS,
            steps_per_generation=1,
            gradient_accumulation_steps=1,
            num_generations=2,
            max_completion_length=TOKENS,
            max_steps=REPEATS + 1,
            learning_rate=1e-6,
            optim="sgd",  # three optimisers of AdamW would fill the memory; the update is a small part of the time
            beta=0.0,
            report_to=[],
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
        )
        prompts = Dataset.from_list([{"prompt": f"{i} {i + 1} {i + 2} {i + 3}"} for i in range(PROMPTS)])
        trainer = trl.GRPOTrainer(make_model(), reward, config, prompts, processing_class=tokenizer)
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(InTurn(kind))
        share = KINDS[kind]
        if share is not None:
            analysis.watch(trainer, tmp_path / f"run of {kind}", record=analysis.RecordSpec(tokens=share))
        return trainer

    trainers = {kind: make_trainer(kind) for kind in KINDS}
    errors: list[BaseException] = []

    def train(kind: str) -> None:
        try:
            trainers[kind].train()
        except BaseException as error:
            errors.append(error)
            turns.kinds = [other for other in turns.kinds if other != kind]
            turns.pass_on()

    def interleaved() -> None:
        threads = [threading.Thread(target=train, args=(kind,)) for kind in KINDS]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    benchmark.pedantic(interleaved, rounds=1, iterations=1)
    assert not errors, errors
    assert {len(row) for row in seconds.values()} == {REPEATS + 1}
    note_ratios(benchmark, {kind: row[1:] for kind, row in seconds.items()}, "stock", "seconds", layers=LAYERS)
