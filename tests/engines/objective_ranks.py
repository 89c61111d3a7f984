"""Run by torchrun: `ObjectiveTrainer` on several processes, whose rollouts depend on nothing but prompt and step.

`python -m torch.distributed.run --nproc_per_node 2 -m tests.engines.objective_ranks FOLDER CASE ROWS` writes what each
rank has trained on to FOLDER/rank<i>.pt.

equal   16 rollouts a generation batch, one optimiser step for each, however many ranks there are
uneven  two ranks, four steps for a generation batch; rewarded are 8 rows of rank 0 and 4 of rank 1
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch

from .objective_runs import GROUP, PROMPTS, VOCAB, is_correct, make_tokenizer, make_trainer, observed
from .objective_weights import Snapshots, same

END = 2


def rollouts(prompts: list[str], trainer: Any) -> dict[str, Any]:
    """Completions of 1 to 5 tokens: those of a prompt's i-th row at a step, on whichever rank it is."""
    completions = []
    for row, prompt in enumerate(prompts):
        seed = 1_000 * trainer.state.global_step + 10 * PROMPTS.index(prompt) + row % GROUP
        generator = torch.Generator().manual_seed(seed)
        length = int(torch.randint(1, 6, (), generator=generator))
        ids = torch.randint(3, VOCAB, (length,), generator=generator).tolist()
        completions.append(ids if length == 5 else [*ids[:-1], END])
    prompt_ids = make_tokenizer()(prompts)["input_ids"]
    return {"prompt_ids": prompt_ids, "completion_ids": completions, "logprobs": None}


def uneven(completion_ids: list[list[int]], **_: Any) -> list[float]:
    kept = 8 if os.environ["RANK"] == "0" else 4
    return [float(row < kept) for row in range(len(completion_ids))]


def even_sum(completion_ids: list[list[int]], **_: Any) -> list[float]:
    return [is_correct(ids) for ids in completion_ids]


def main(folder: Path, case: str, rows: str) -> None:
    rank, ranks = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    common: dict[str, Any] = {"rows": rows, "rollout_func": rollouts, "shuffle_dataset": False, "weight_decay": 0.1}
    if case == "equal":
        trainer = make_trainer(
            folder,
            "w-reinforce" if rows == "keep" else "psr",
            parameters={"form": "ratio"} | ({"lambda_": 0.1} if rows == "keep" else {}),
            reward=even_sum,
            per_device_train_batch_size=8 // ranks,
            gradient_accumulation_steps=2,
            steps_per_generation=2,
            max_steps=3,
            optim="sgd",  # AdamW divides by the gradient itself, which turns rounding of tiny ones into steps
            learning_rate=0.5,
            **common,
        )
    else:
        trainer = make_trainer(
            folder, "psr", parameters={"form": "log"}, reward=uneven, max_steps=4, learning_rate=1e-2, **common
        )
    snapshots = Snapshots()
    trainer.add_callback(snapshots)
    run = observed(trainer)
    accumulation = trainer.args.gradient_accumulation_steps
    steps = [
        {
            "tokens": int(sum(part.mask.sum() for part in parts)),
            "weight": float(sum(part.weights.sum() for part in parts if part.weights is not None)),
        }
        for parts in (run.parts[at : at + accumulation] for at in range(0, len(run.parts), accumulation))
    ]
    model = trainer.accelerator.unwrap_model(trainer.model)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(
        {
            "steps": steps,
            "parameters": {name: value.detach() for name, value in model.named_parameters()},
            "moved": [not same(*pair) for pair in zip(snapshots.before, snapshots.after, strict=True)],
            "logs": [log for log in trainer.state.log_history if "loss" in log],
        },
        folder / f"rank{rank}.pt",
    )
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
