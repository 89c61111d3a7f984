"""A watched training of fixed rollouts on one process or several, started by torchrun from `test_watch_ranks`.

    torchrun --nproc_per_node 2 -m tests.engines.ranks_program FOLDER ddp|checkpointing|fsdp2|dies

The 16 rollouts of a batch are the same whatever the number of processes: those of two processes stand in the batch as
those of one do, and each optimiser step takes all of them.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch

import analysis
from analysis import RecordSpec

from .objective_runs import VOCAB
from .watched_runs import KINDS, make_trl_trainer

GRPOTrainer, _ = KINDS["grpo"]


class FixedRollouts(GRPOTrainer):
    """Completions that depend on the update and on the place in the whole batch alone."""

    def _generate_single_turn(self, prompt_ids: list[list[int]], *args: Any, **kwargs: Any) -> Any:
        first = self.accelerator.process_index * len(prompt_ids)
        completions = []
        for row in range(first, first + len(prompt_ids)):
            generator = torch.Generator().manual_seed(1000 * self.state.global_step + row)
            length = int(torch.randint(2, 6, (), generator=generator))
            completions.append(torch.randint(3, VOCAB, (length,), generator=generator).tolist())
        return completions, None


def main(folder: Path, mode: str) -> None:
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    calls = 0

    def reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
        nonlocal calls
        calls += 1
        if mode == "dies" and calls == 3 and rank == 1:
            os._exit(3)
        return [float(sum(ids) % 2 == 0) for ids in completion_ids]

    config: dict[str, Any] = {}
    if mode == "checkpointing":
        config["gradient_checkpointing"] = True
    if mode == "fsdp2":
        config |= {"fsdp": "full_shard", "fsdp_config": {"fsdp_version": 2, "reshard_after_forward": True}}
    trainer = make_trl_trainer(
        folder,
        trainer_class=FixedRollouts,
        reward=reward,
        steps_per_generation=4 // world,
        gradient_accumulation_steps=4 // world,
        max_steps=3,
        shuffle_dataset=False,
        **config,
    )
    analysis.watch(trainer, out=folder / "run", record=RecordSpec(tokens=1.0, chunk=1), correct=0.5)
    trainer.train()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
