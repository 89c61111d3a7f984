"""Peak memory and CPU time of one update with dense and with streamed logits, statistics of every token included.

The model is one random layer of a Llama of width 576 with SmolLM2's vocabulary of 49,152, in float32 on one thread: all
but the layers of a real one. Memory is the peak of the resident set over what the process held before the update.

    OMP_NUM_THREADS=1 pytest benchmarks/test_streamed_logits.py --benchmark-enable -s
"""

from __future__ import annotations

import dataclasses
import time
from types import SimpleNamespace

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from transformers import LlamaConfig, LlamaForCausalLM

from analysis.recipes.fields import RecordFields
from analysis.training.record_rows import UpdateIndex, pass_statistics, token_rows
from analysis.training.step_targets import StepTargets
from analysis.training.update import UpdateResult
from benchmarks.memory import CAN_MEASURE, peak_over
from tests.training.naive_update import make_config, make_updater, random_batch
from toy_models import Policy

VOCAB, WIDTH, ROWS = 49152, 576, 16


@pytest.mark.skipif(not CAN_MEASURE, reason="memory is measured through /proc")
def test_memory_of_an_update(benchmark: BenchmarkFixture) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    policy = Policy(
        LlamaForCausalLM(
            LlamaConfig(
                vocab_size=VOCAB,
                hidden_size=WIDTH,
                intermediate_size=1536,
                num_hidden_layers=1,
                num_attention_heads=9,
                num_key_value_heads=3,
                tie_word_embeddings=True,
            )
        ).eval(),
        SimpleNamespace(pad_token_id=0, eos_token_id=1),  # type: ignore[arg-type]
    )
    fields, mebibytes, seconds = RecordFields(tokens=0.125), {}, {}

    def update(logits: str, length: int) -> float:
        config = make_config(optimizer={"lr": 0.0}, update={"logits": logits})
        updater = make_updater(config, policy)
        drawn = random_batch(updater.objective, groups=ROWS // 4)
        responses = torch.randint(2, VOCAB, (ROWS, length), generator=torch.Generator().manual_seed(1)).tolist()
        batch = dataclasses.replace(
            drawn,
            responses=responses,
            lengths=torch.full((ROWS,), length),
            sampling_log_probs=torch.zeros(ROWS, length),
            kept_mass=torch.ones(ROWS, length),
        )
        groups = torch.arange(ROWS // 4) == 0

        def look(result: UpdateResult) -> None:
            for one in result.passes:
                token_rows(UpdateIndex(0, 0, 0, 0), one, batch, groups, fields, pass_statistics(one, fields))

        start = time.process_time()
        updater.apply(
            batch, StepTargets.on_policy(batch), torch.arange(ROWS), None, "update", by_sign=False, before_step=look
        )
        return time.process_time() - start

    def measure() -> None:
        for length in (16, 128):
            for logits in ("dense", "streamed"):
                name = f"{logits}, {ROWS * length} tokens"
                seconds[name], peak = peak_over(lambda logits=logits, length=length: update(logits, length))
                mebibytes[name] = peak / 2**20

    update("streamed", 2)  # warm-up
    benchmark.pedantic(measure, rounds=1, iterations=1)
    benchmark.extra_info |= {"mebibytes": mebibytes, "cpu_seconds": seconds, "vocab": VOCAB, "width": WIDTH}
    for name, size in mebibytes.items():
        print(f"{name}: {size:.0f} MiB, {seconds[name]:.1f} s")
