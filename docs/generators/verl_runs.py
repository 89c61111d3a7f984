"""The same training by verl and by our own loop: are their curves the same? `compared_runs` has the rule.

verl runs whole, on a CPU (`analysis.engines.verl.smoke`): `verl.trainer.main_ppo` with one rank, its own GRPO with the
loss `vanilla`, and NSR by this project's estimator and loss, the other rows dropped by its sampler. The policies of
verl's checkpoints are evaluated by the loop that is not run, on the same prompts, exactly. A run of verl takes minutes
here, so there are `STEPS` steps, fewer than with TRL; they were fixed before the first run of `SEEDS`.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .compared_runs import LOOP, METHODS, SIZE, Curve, run_with

if TYPE_CHECKING:
    from analysis.training.loop import Loop

__all__ = ["SEEDS", "STEPS", "VERL", "measure", "run_curve"]

SEEDS = (30, 31, 32, 33)
STEPS = 8
VERL = "verl"
SIDES = (LOOP, VERL)
_OF_METHOD = {
    "GRPO": (),
    "NSR": (
        "trainer.v1.sampler.custom_sampler.path=pkg://analysis.engines.verl.objectives.dropped_rows_sampler",
        "trainer.v1.sampler.custom_sampler.name=DroppedRows",
    ),
}


def measure(told: Callable[[str], Any] = lambda _: None) -> dict[str, Any]:
    """All runs one after the other, and what the page says of them; about half an hour on one core.

    Args:
        told: called with a line after each run.
    """
    curves: dict[str, dict[str, list[Curve]]] = {side: {method: [] for method in METHODS} for side in SIDES}
    for seed in SEEDS:
        for method in METHODS:
            for side in SIDES:
                curves[side][method].append(run_curve(side, method, seed))
                told(f"{side}, {method}, seed {seed}")
    return {"verl": version("verl"), "seeds": len(SEEDS), "steps": STEPS, "size": SIZE, "curves": curves}


def run_curve(side: str, method: str, seed: int, overrides: Mapping[str, Any] | None = None) -> Curve:
    """The evaluations of one run, from the base on: its step and each of `QUANTITIES`.

    Args:
        side: "loop" or "verl".
        method: of `METHODS`.
        seed: of everything that is drawn.
        overrides: fields of the recipe, for a smaller run.
    """
    return run_with(None if side == LOOP else _trained_by_verl, method, seed, {"steps": STEPS, **(overrides or {})})


def _trained_by_verl(loop: Loop, method: str, seed: int, folder: Path) -> list[Mapping[str, Any]]:
    """verl trains the policy of a loop that is not run, which evaluates it; columns of each evaluation."""
    from safetensors.torch import load_file

    from analysis.engines.verl.smoke.child import Child, fault
    from analysis.engines.verl.smoke.settings import Settings, overrides

    settings = Settings(out=folder / "verl", method=method.lower(), steps=loop.config.steps, seed=seed)
    settings.claim()
    model, data = _written(loop, folder)
    ray_folder = Path(tempfile.mkdtemp(prefix="rlvr-", dir="/tmp"))  # a short path: see `overrides`
    command = ["-m", "verl.trainer.main_ppo", f"hydra.run.dir={folder}/hydra", "hydra.output_subdir=null"]
    arguments = overrides(settings, (data, data), model, ray_folder) + _of_run(loop, method)
    log = folder / "verl.log"
    child = Child([*command, *arguments], log, folder / "metrics.jsonl")
    try:
        status = child.wait(lambda step, metrics: None)
    finally:
        child.stop()
        shutil.rmtree(ray_folder, ignore_errors=True)
    if status != 0:
        raise RuntimeError(f"verl ended with status {status}:\n{fault(log.read_text(errors='replace'))}")
    found: list[Mapping[str, Any]] = [loop.measurements.evaluation(0, 0, final=True)]
    for step in range(loop.config.eval.every, loop.config.steps + 1, loop.config.eval.every):
        checkpoint = settings.out / "checkpoints" / f"global_step_{step}" / "actor" / "huggingface"
        loop.policy.model.load_state_dict(load_file(checkpoint / "model.safetensors"), strict=False)
        found.append(loop.measurements.evaluation(step, step, final=step == loop.config.steps))
    return found


def _written(loop: Loop, folder: Path) -> tuple[Path, Path]:
    """The policy as a folder that verl loads, and the training prompts as verl's Parquet file."""
    import copy

    import pandas as pd

    loop.policy.save(folder / "model")
    tokenizer = copy.deepcopy(loop.policy.tokenizer)
    # verl asks every tokenizer of a Qwen model for these two; no response has them.
    tokenizer.add_special_tokens({"additional_special_tokens": ["\n", "<|im_end|>"]})
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    tokenizer.save_pretrained(folder / "model")
    rows = [
        {
            "data_source": loop.config.task.name,
            "prompt": [{"role": "user", "content": prompt.text}],
            "reward_model": {"style": "rule", "ground_truth": ""},
            "extra_info": {"index": index},
        }
        for index, prompt in enumerate(loop.train_prompts)
    ]
    path = folder / "train.parquet"
    pd.DataFrame(rows).to_parquet(path)
    return folder / "model", path


def _of_run(loop: Loop, method: str) -> list[str]:
    """What differs from the smoke run: sizes, optimiser, rewards, checkpoints for transformers, no validation."""
    config, actor, rollout = loop.config, "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
    group = config.rollout.group_size
    rows = config.update.minibatch_size or config.rollout.prompts * group
    return [
        f"data.train_batch_size={config.rollout.prompts}",
        f"data.max_response_length={loop.task.max_new_tokens}",
        f"{rollout}.n={group}",
        f"{rollout}.temperature={config.rollout.temperature}",
        f"{rollout}.agent.num_workers=2",  # most of a step is their work: they set up a loop for each rollout
        f"{rollout}.log_prob_micro_batch_size_per_gpu={rows}",
        f"{actor}.ppo_mini_batch_size={rows // group}",
        f"{actor}.ppo_micro_batch_size_per_gpu={rows}",
        f"{actor}.loss_agg_mode=token-mean",  # divides by the tokens of the minibatch, as update.normalizer does
        f"{actor}.entropy_coeff=0",
        f"{actor}.optim.lr={config.optimizer.lr}",
        f"{actor}.optim.weight_decay={config.optimizer.weight_decay}",
        f"{actor}.optim.clip_grad={config.optimizer.max_grad_norm or 1e9}",
        f"{actor}.checkpoint.save_contents=[model,hf_model]",
        "reward.reward_manager.source=importlib",
        "reward.reward_manager.name=TaskRewards",
        "reward.reward_manager.module.path=pkg://docs.generators.verl_rewards",
        "trainer.val_before_train=False",
        "trainer.test_freq=-1",
        f"trainer.save_freq={config.eval.every}",
        "trainer.rollout_data_dir=null",
        *_OF_METHOD[method],
    ]
