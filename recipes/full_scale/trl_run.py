r"""The paper's runs with TRL: PSR, NSR and W-REINFORCE by `ObjectiveTrainer`, GRPO by TRL's own trainer, all watched.

    accelerate launch --config_file recipes/full_scale/accelerate_fsdp2.yaml \
        recipes/full_scale/trl_run.py --model qwen2.5-math-7b --method nsr --out runs/trl_nsr

Models, lengths and chat templates are those of the files in `settings/`, and the data that of `prepare_data.py`. PPO
has no counterpart: TRL's GRPOTrainer has no value model. docs/how_to/full_scale_runs.md says what differs from verl.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from analysis.common.command import command_line, run_command
from analysis.errors import UsageError

SETTINGS = Path(__file__).parent / "settings"
MODELS = {"qwen2.5-math-7b": 4, "qwen3-4b": 1}  # rows of a forward pass, so that the longest ones fit
METHODS: dict[str, dict[str, Any]] = {  # arguments of ObjectiveTrainer; none for TRL's own GRPO
    "psr": {"objective": "psr-released", "rows": "drop"},
    "nsr": {"objective": "nsr-released", "rows": "drop"},
    "w_reinforce": {"objective": "w-reinforce-released", "lambda_": 0.1},
    "grpo": {},
}


@dataclass(frozen=True)
class Scale:
    """Sizes of a run, those of the paper by default.

    Attributes:
        prompts: in a batch of rollouts.
        rollouts: of each prompt.
        minibatch: prompts in an optimiser step.
        batches: batches of rollouts in the whole run.
        rows: rows of a forward pass on one process.
        processes: that train.
    """

    prompts: int = 1024
    rollouts: int = 8
    minibatch: int = 256
    batches: int = 140
    rows: int = 4
    processes: int = 1

    @property
    def accumulation(self) -> int:
        """Forward passes of a process in an optimiser step."""
        return self._parts("minibatch", self.minibatch * self.rollouts)

    @property
    def steps_per_generation(self) -> int:
        """Forward passes of a process in a batch of rollouts."""
        return self._parts("prompts", self.prompts * self.rollouts)

    def _parts(self, name: str, rows: int) -> int:
        parts, rest = divmod(rows, self.rows * self.processes)
        if rest or not parts:
            raise UsageError(
                f"--rows: expected rows · processes that divide the {rows} rows of {name}, got "
                f"{self.rows} · {self.processes}; choose another --rows or number of processes"
            )
        return parts


def setting(model: str, key: str) -> str:
    """The value of a key in the settings of a model for verl, so that both trainers have the same one."""
    for line in (SETTINGS / f"{model}.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{key}="):
            return line.removeprefix(f"{key}=").strip('"')
    raise UsageError(f"settings/{model}.txt: expected a line {key}=…, got none; add it")


def config_of(model: str, method: str, scale: Scale, out: Path, **more: Any) -> Any:
    """The `GRPOConfig` of a run.

    Args:
        model: a key of `MODELS`.
        method: a key of `METHODS`.
        scale: sizes.
        out: folder of the run; checkpoints go below it.
        more: further fields, in place of those here.
    """
    from trl import GRPOConfig

    length = int(setting(model, "data.max_response_length"))
    updates = scale.prompts // scale.minibatch
    fields: dict[str, Any] = {
        "output_dir": str(out / "checkpoints"),
        "max_steps": scale.batches * updates,
        "save_steps": 7 * updates,
        "logging_steps": 1,
        "report_to": [],
        "learning_rate": 1e-6,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.01,
        "max_grad_norm": 1.0,
        "seed": 1,
        "num_generations": scale.rollouts,
        "per_device_train_batch_size": scale.rows,
        "gradient_accumulation_steps": scale.accumulation,
        "steps_per_generation": scale.steps_per_generation,
        "max_completion_length": length,
        "temperature": 1.0,
        "top_p": 1.0,
        "loss_type": "bnpo",  # the mean over the tokens of a forward pass, as in the fork
        "entropy_coef": 1e-3,
        "beta": 1e-3 if method == "grpo" else 0.0,
        "bf16": True,
        "gradient_checkpointing": True,
        "use_vllm": True,
        "vllm_mode": "colocate",
        "vllm_enable_sleep_mode": True,
        "vllm_gpu_memory_utilization": 0.5,
        "vllm_max_model_length": 1024 + length,
        "vllm_importance_sampling_correction": False,  # the fork has none
    }
    return GRPOConfig(**fields | more)


def prompts_of(path: Path, tokenizer: Any, longest: int = 1024) -> Any:
    """The data set of a file of `prepare_data.py`: prompts of at most `longest` tokens, and their answers."""
    from datasets import Dataset

    try:
        rows = pq.read_table(path, columns=["prompt", "reward_model"]).to_pylist()
    except (OSError, ValueError) as error:
        raise UsageError(
            f"--data: expected a file of recipes/full_scale/prepare_data.py, got {path}; {error}"
        ) from error
    kept = [
        {"prompt": row["prompt"], "answer": row["reward_model"]["ground_truth"]}
        for row in rows
        if len(tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=False)) <= longest
    ]
    if not kept:
        raise UsageError(f"--data: expected prompts of at most {longest} tokens, got none in {path}")
    return Dataset.from_list(kept)


class MathReward:
    """math-verify as a reward function of TRL: 1 where a completion has the answer of its row, else 0."""

    __name__ = "math"  # TRL names its logs by it

    def __init__(self, workers: int = 2) -> None:
        from toy_models.verifiers import MathVerify

        self._verifier = MathVerify(workers=workers)

    def __call__(self, completions: Sequence[Any], answer: Sequence[str], **_: Any) -> list[float]:
        """The rewards of a batch; `answer` is a column of the data set."""
        from toy_models.verifiers import Case

        texts = [completion[-1]["content"] for completion in completions]
        verdicts = self._verifier.judge([Case("", text, gold) for text, gold in zip(texts, answer, strict=True)])
        return [float(verdict.correct) for verdict in verdicts]


def make_trainer(
    method: str, model: Any, tokenizer: Any, config: Any, data: Any, out: Path, *, reward: Any = None, tokens: float
) -> Any:
    """The trainer of a run, watched.

    Args:
        method: a key of `METHODS`.
        model: name or folder of a model, or a model.
        tokenizer: with the chat template of the run.
        config: from `config_of`.
        data: from `prompts_of`.
        out: folder of the records.
        reward: a reward function; unset: `MathReward`.
        tokens: fraction of the prompts whose tokens are recorded.
    """
    from trl import GRPOTrainer

    import analysis

    reward = MathReward() if reward is None else reward
    given = {"args": config, "train_dataset": data, "processing_class": tokenizer}
    own = METHODS[method]
    trainer = analysis.ObjectiveTrainer(model, reward, **given, **own) if own else GRPOTrainer(model, reward, **given)
    analysis.watch(trainer, out=out, correct=0.5, record=analysis.RecordSpec(tokens=tokens))
    return trainer


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, 2 for an invalid request, 1 for a fault."""
    parser = argparse.ArgumentParser(
        prog="trl_run.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, choices=tuple(MODELS))
    parser.add_argument("--method", required=True, choices=tuple(METHODS))
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="records, and checkpoints below it")
    parser.add_argument("--data", type=Path, default=Path("data/math/train.parquet"), metavar="FILE")
    parser.add_argument("--path", metavar="MODEL", help="folder of the model; unset: its name on the Hub")
    parser.add_argument("--rows", type=int, metavar="N", help="rows of a forward pass (4, of Qwen3-4B 1)")
    parser.add_argument("--tokens", type=float, default=1 / 64, metavar="X", help="fraction of prompts recorded (1/64)")
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint below --out")
    arguments = parser.parse_args(argv)
    return run_command(lambda: _run(arguments), again=command_line("python recipes/full_scale/trl_run.py", argv))


def _run(arguments: argparse.Namespace) -> int:
    from transformers import AutoTokenizer

    rows = MODELS[arguments.model] if arguments.rows is None else arguments.rows
    if rows < 1:
        raise UsageError(f"--rows: expected a whole number from 1, got {rows}")
    scale = Scale(rows=rows, processes=int(os.environ.get("WORLD_SIZE", "1")))
    config = config_of(arguments.model, arguments.method, scale, arguments.out)
    path = arguments.path or setting(arguments.model, "actor_rollout_ref.model.path")
    tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left")
    tokenizer.chat_template = setting(arguments.model, "actor_rollout_ref.model.custom_chat_template")
    data = prompts_of(arguments.data, tokenizer)
    records = arguments.out / "records"
    trainer = make_trainer(arguments.method, path, tokenizer, config, data, records, tokens=arguments.tokens)
    trainer.train(resume_from_checkpoint=arguments.resume or None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
