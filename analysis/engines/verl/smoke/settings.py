"""What a smoke run is asked for, and the overrides of `verl.trainer.main_ppo` that it comes to."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from ....errors import UsageError
from .model import RESPONSE_TOKENS

__all__ = ["METHODS", "Settings", "overrides"]

METHODS: dict[str, tuple[str, ...]] = {
    "grpo": (
        "algorithm.adv_estimator=grpo",
        "actor_rollout_ref.actor.policy_loss.loss_mode=vanilla",
        "actor_rollout_ref.actor.clip_ratio_low=0.2",
        "actor_rollout_ref.actor.clip_ratio_high=0.2",
        "actor_rollout_ref.actor.clip_ratio_c=1e6",  # no dual clip
    ),
    "psr": ("algorithm.adv_estimator=psr", "actor_rollout_ref.actor.policy_loss.loss_mode=psr_ratio"),
    "nsr": ("algorithm.adv_estimator=nsr", "actor_rollout_ref.actor.policy_loss.loss_mode=nsr_ratio"),
    "w-reinforce": (
        "algorithm.adv_estimator=w_reinforce",
        "+algorithm.rlvr_lambda=0.1",
        "actor_rollout_ref.actor.policy_loss.loss_mode=w_reinforce_ratio",
    ),
}

PROMPTS, ROLLOUTS, MINIBATCH_PROMPTS = 8, 4, 4
VALIDATION_SAMPLES = 8
SAVE_EVERY = 2
_FILE = "smoke.json"


@dataclass(frozen=True)
class Settings:
    """A smoke run.

    Attributes:
        out: Its folder.
        method: Of `METHODS`.
        ranks: Processes that train, each with a rollout server.
        steps: Training steps; each has two updates.
        seed: Of the model, the order of the data and the samples.
        extra: Overrides of verl that come after those of the smoke run.
    """

    out: Path
    method: str = "w-reinforce"
    ranks: int = 1
    steps: int = 4
    seed: int = 0
    extra: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UsageError(f"--method: expected one of {', '.join(METHODS)}, got {self.method!r}")
        for name, value, least in (("ranks", self.ranks, 1), ("steps", self.steps, 1), ("seed", self.seed, 0)):
            if value < least:
                raise UsageError(f"--{name}: expected a whole number of at least {least}, got {value}")
        if ROLLOUTS * MINIBATCH_PROMPTS % self.ranks:
            raise UsageError(
                f"--ranks: expected a divisor of the {ROLLOUTS * MINIBATCH_PROMPTS} rows of a minibatch, got "
                f"{self.ranks}; choose 1 or 2"
            )

    @property
    def records(self) -> Path:
        """The run folder that the observing engine writes."""
        return self.out / "run"

    @property
    def validation(self) -> Path:
        """Folder of verl's validation dumps."""
        return self.out / "validation"

    @property
    def updates(self) -> int:
        """Optimiser steps of the whole run."""
        return self.steps * PROMPTS // MINIBATCH_PROMPTS

    def claim(self) -> bool:
        """Take the folder, or recognise it as that of an earlier, interrupted call.

        Returns:
            Whether the folder holds a run of these settings already.

        Raises:
            UsageError: It holds something else.
        """
        path, mine = self.out / _FILE, self._text()
        if path.is_file():
            if path.read_text(encoding="utf-8") == mine:
                return True
            if self.records.exists():
                raise UsageError(f"--out: expected a new folder or one of a run with these settings, got {self.out}")
            shutil.rmtree(self.out)  # of a call that was refused before it trained
        if self.out.exists() and any(self.out.iterdir()):
            raise UsageError(f"--out: expected a new folder, got {self.out}, which holds other files; choose another")
        self.out.mkdir(parents=True, exist_ok=True)
        path.write_text(mine, encoding="utf-8")
        return False

    def _text(self) -> str:
        return json.dumps({**asdict(self), "out": None}, indent=1) + "\n"


def overrides(settings: Settings, data: tuple[Path, Path], model: Path, ray_folder: Path) -> list[str]:
    """The overrides of a run, those of the records left out.

    Args:
        settings: Of the run.
        data: Parquet files of training and validation.
        model: Folder of the model.
        ray_folder: Ray's temporary folder. Its path is short: that of a Unix socket below it ends at 107 characters.
    """
    actor, rollout, out = "actor_rollout_ref.actor", "actor_rollout_ref.rollout", settings.out.resolve()
    return [
        f"data.train_files={data[0].resolve()}",
        f"data.val_files={data[1].resolve()}",
        f"data.train_batch_size={PROMPTS}",
        "data.max_prompt_length=8",
        f"data.max_response_length={RESPONSE_TOKENS}",
        "data.dataloader_num_workers=0",
        f"data.seed={settings.seed}",
        f"actor_rollout_ref.model.path={model.resolve()}",
        "actor_rollout_ref.model.use_remove_padding=False",
        "actor_rollout_ref.model.enable_gradient_checkpointing=False",
        "+actor_rollout_ref.model.override_config.attn_implementation=sdpa",
        # What a CPU can do: FSDP2 in float32.
        f"{actor}.strategy=fsdp2",
        f"+{actor}.fsdp_config.mixed_precision={{param_dtype: fp32, reduce_dtype: fp32, buffer_dtype: fp32}}",
        f"{actor}.fsdp_config.use_torch_compile=False",
        f"{actor}.use_torch_compile=False",
        f"{actor}.ppo_mini_batch_size={MINIBATCH_PROMPTS}",
        f"{actor}.ppo_micro_batch_size_per_gpu=8",
        f"{actor}.optim.lr=1e-3",
        f"{actor}.entropy_coeff=1e-3",
        "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu=16",
        f"{rollout}.name=sample",
        f"{rollout}.n={ROLLOUTS}",
        f"{rollout}.seed={settings.seed}",
        f"{rollout}.tensor_model_parallel_size=1",
        f"{rollout}.log_prob_micro_batch_size_per_gpu=16",
        f"{rollout}.agent.num_workers=1",
        f"+{rollout}.engine_kwargs.sample.dump={out / 'samples'}",
        f"{rollout}.val_kwargs.n={VALIDATION_SAMPLES}",
        f"{rollout}.val_kwargs.do_sample=True",
        f"{rollout}.val_kwargs.temperature=0.6",
        f"{rollout}.val_kwargs.top_p=0.95",
        "reward.num_workers=1",
        "reward.custom_reward_function.path=pkg://toy_models.verifiers.math_reward",
        "reward.custom_reward_function.name=compute_score",
        "transfer_queue.backend.SimpleStorage.num_data_storage_units=1",
        "trainer.device=cpu",
        "trainer.nnodes=1",
        f"trainer.n_gpus_per_node={settings.ranks}",
        "trainer.logger=[console,file]",
        f"trainer.total_training_steps={settings.steps}",
        "trainer.val_before_train=True",
        f"trainer.test_freq={SAVE_EVERY}",
        f"trainer.save_freq={SAVE_EVERY}",
        f"trainer.default_local_dir={out / 'checkpoints'}",
        f"trainer.validation_data_dir={out / 'validation'}",
        f"trainer.rollout_data_dir={out / 'rollouts'}",
        # Ray on this machine alone: GPUs are a number that it counts, and actors wait for no processor.
        f"ray_kwargs.ray_init.num_cpus={6 + 4 * settings.ranks}",
        f"+ray_kwargs.ray_init.num_gpus={settings.ranks}",
        "+ray_kwargs.ray_init.include_dashboard=False",
        f"+ray_kwargs.ray_init._temp_dir={ray_folder}",
        "+ray_kwargs.ray_init.object_store_memory=200000000",
        *METHODS[settings.method],
        *settings.extra,
    ]
