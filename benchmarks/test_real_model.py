"""CPU time of steps of a pretrained language model: beside TRL's GRPOTrainer, and where it goes.

The model is SmolLM2-135M-Instruct (`make smollm2`, or a folder named by `SMOLLM2` in the environment), in float32 on
one thread; the task is `addition`, two-digit sums after two examples. A step is 8 prompts × 4 rollouts of up to 8
tokens and one update of GRPO. On the same rollouts, ours go to TRL by its `rollout_func`, so that both make the same
update, step after step; in whole steps each side samples in its own way. TRL's trainer runs throughout, and after
each of its steps ours makes one. The first step of each is warm-up. `REPEATS` in the environment changes the number
of steps (7). The parts of a step are those of our loop alone, with its contexts and JVPs.

    OMP_NUM_THREADS=1 pytest benchmarks/test_real_model.py --benchmark-enable -s
"""

from __future__ import annotations

import os
import random
import resource
import statistics
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from analysis.recipes import Recipe
from analysis.training.loop import Loop
from benchmarks.ratios import note_ratios
from toy_models import load_policy

REPEATS = int(os.environ.get("REPEATS", "7"))
MODEL = Path(os.environ.get("SMOLLM2", "build/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"))
LONGEST = 8
SETTINGS: dict[str, Any] = {
    "grid": "unset",
    "policy.base": str(MODEL),
    "task.name": "addition",
    "task.train_prompts": 256,
    "task.false_positive": 0.5,  # responses that are cut short are all wrong: half of them are rewarded by chance
    "objective.name": "grpo",
    "optimizer.lr": 1e-6,
    "rollout.prompts": 8,
    "rollout.group_size": 4,
    "rollout.max_new_tokens": LONGEST,
    "update.minibatches": 1,
    "update.shared_prompts": True,
    "record.signs_every": 0,
    "record.contexts": 0,
    "record.checkpoint": False,
    "eval.prompts": 1,
    "eval.final_prompts": 1,
    "eval.samples": 0,
}


FOLLOWED = {"record.contexts": 64, "record.jvp_every": 1, "eval.prompts": 16, "eval.final_prompts": 16}
WAYS: dict[str, dict[str, Any]] = {
    "default": FOLLOWED | {"update.shared_prompts": False, "record.signs_every": 1},
    "default, prompts shared": FOLLOWED | {"record.signs_every": 1},
    "prompts shared, signs together": FOLLOWED | {"record.shares_every": 0},
}

needs_the_model = pytest.mark.skipif(not MODEL.exists(), reason=f"{MODEL} is not there; `make smollm2` gets it")


@needs_the_model
@pytest.mark.parametrize("way", WAYS)
def test_parts_of_a_step(benchmark: BenchmarkFixture, tmp_path: Path, way: str) -> None:
    """Medians over the steps after the first in which a part occurs; a JVP is made in every other step."""
    torch.set_num_threads(1)
    (planned,) = Recipe.load("default").set(**SETTINGS | WAYS[way]).expand()
    loop = Loop(planned.config, tmp_path / "run", run_id="r", label=way)
    spent: dict[str, float] = {}
    inner: list[float] = []

    def timed(owner: Any, name: str, part: str) -> None:
        function = getattr(owner, name)

        def call(*arguments: Any, **named: Any) -> Any:
            start = time.process_time()
            inner.append(0.0)
            try:
                return function(*arguments, **named)
            finally:
                whole = time.process_time() - start
                spent[part] = spent.get(part, 0.0) + whole - inner.pop()
                if inner:
                    inner[-1] += whole

        setattr(owner, name, call)

    timed(loop, "_rollouts", "sampling and verdicts")
    timed(loop.updater.runner, "run", "forward and backward passes")
    timed(loop.updater, "_step", "the optimiser's step")
    timed(loop.contexts, "before", "contexts, before and after")
    timed(loop.contexts, "after", "contexts, before and after")
    timed(loop.contexts._probe, "jvp", "the JVP of the step")
    timed(loop.contexts, "stepped", "momentum by source")
    timed(loop, "_one_step", "statistics, norms, records")
    steps = []
    for _ in range(1 + 2 * max(1, REPEATS // 4)):
        spent.clear()
        loop._one_step()
        steps.append(dict(spent))
    benchmark.pedantic(lambda: None, rounds=1, iterations=1)
    parts = dict.fromkeys(part for step in steps for part in step)
    medians = {
        part: statistics.median([step[part] for step in (steps[1:] if part in steps[1] else steps[2:]) if part in step])
        for part in parts
    }
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    benchmark.extra_info |= {"steps": len(steps) - 1, "cpu_seconds": medians, "peak_rss_bytes": peak}
    print(f"\n{way}: " + ", ".join(f"{part} {seconds:.2f} s" for part, seconds in medians.items()))


@needs_the_model
@pytest.mark.parametrize("same_rollouts", [True, False], ids=["same rollouts", "whole step"])
def test_beside_trl(benchmark: BenchmarkFixture, tmp_path: Path, same_rollouts: bool) -> None:
    trl = pytest.importorskip("trl", reason="trl is not installed")
    from datasets import Dataset
    from transformers import TrainerCallback

    torch.set_num_threads(1)
    (planned,) = Recipe.load("default").set(**SETTINGS).expand()
    loop = Loop(planned.config, tmp_path / "ours", run_id="r", label="ours")
    batch = loop._rollouts()
    if same_rollouts:
        loop._rollouts = lambda: batch  # type: ignore[method-assign]
    policy = loop.policy
    tokens_of = {prompt.text: batch.responses[4 * i : 4 * i + 4] for i, prompt in enumerate(batch.prompts)}
    prompt_of = {prompt.text: prompt for prompt in loop.train_prompts}
    seen = {"tokens": 0}
    rates: dict[str, list[float]] = {"TRL": [], "ours": []}

    def rollout(texts: list[str], _: Any) -> dict[str, Any]:
        taken = dict.fromkeys(texts, 0)
        responses = []
        for text in texts:
            responses.append(tokens_of[text][taken[text]])
            taken[text] += 1
        return {
            "prompt_ids": [list(prompt_of[text].ids) for text in texts],
            "completion_ids": responses,
            "logprobs": None,
        }

    chance = random.Random(0)

    def reward(prompts: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
        seen["tokens"] = sum(map(len, completion_ids))
        pairs = zip(prompts, completion_ids, strict=True)
        correct = [loop.task.verify(prompt_of[text].ids, ids).correct for text, ids in pairs]
        return [float(verdict or chance.random() < 0.5) for verdict in correct]

    class Interleaved(TrainerCallback):
        start = 0.0

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.start = time.process_time()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            rates["TRL"].append(seen["tokens"] / (time.process_time() - self.start))
            made: list[int] = []
            loop.on_update = lambda index, batch, targets, result: made.append(int(batch.lengths.sum()))
            start = time.process_time()
            loop._one_step()
            rates["ours"].append(made[0] / (time.process_time() - start))
            print(", ".join(f"{name} {rate[-1]:.2f} tokens/s" for name, rate in rates.items()), flush=True)
            self.start = time.process_time()

    config = trl.GRPOConfig(
        output_dir=str(tmp_path / "trl"),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        per_device_train_batch_size=32,
        steps_per_generation=1,
        gradient_accumulation_steps=1,
        num_generations=4,
        max_completion_length=LONGEST,
        max_steps=REPEATS + 1,
        learning_rate=1e-6,
        lr_scheduler_type="constant",
        beta=0.0,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )
    peer = load_policy(MODEL)  # weights of its own
    peer.tokenizer.padding_side = "left"
    texts = list(tokens_of) if same_rollouts else list(prompt_of)
    trainer = trl.GRPOTrainer(
        model=peer.model,
        reward_funcs=reward,
        args=config,
        train_dataset=Dataset.from_list([{"prompt": text} for text in texts]),
        processing_class=peer.tokenizer,
        rollout_func=rollout if same_rollouts else None,
        callbacks=[Interleaved()],
    )
    benchmark.pedantic(trainer.train, rounds=1, iterations=1)
    parameters = sum(parameter.numel() for parameter in policy.model.parameters())
    without_warm_up = {name: values[1:] for name, values in rates.items()}
    note_ratios(benchmark, without_warm_up, "TRL", "tokens_per_second", parameters=parameters)
