"""A sampler of verl that leaves out rows without a weight before minibatches are cut, as the paper's code does.

    trainer.v1.sampler.custom_sampler.path=pkg://analysis.engines.verl.objectives.dropped_rows_sampler
    trainer.v1.sampler.custom_sampler.name=DroppedRows

PSR gives wrong responses the weight 0, and NSR correct ones. The released code of the paper (Zhu et al., arXiv
2506.01347, github.com/TianHongZXY/RLVR-Decomposed, `ray_trainer.py`) takes such rows out of a batch, so that N kept
rows and minibatches of M rows make ⌈N/M⌉ updates. verl fills the last minibatch with rows that have no tokens. What
this sampler shares with that code, and where they differ:

- the same number of updates, of the same rows; an entropy bonus or a KL loss counts kept rows alone.
- the last update: there a mean over the tokens of each micro batch, over the micro batches of a full minibatch, hence
  scaled by the filled fraction f = (N − (⌈N/M⌉ − 1)·M)/M. Here `loss_agg_mode` decides: `seq-mean-token-mean`,
  `seq-mean-token-sum` and `seq-mean-token-sum-norm` divide by M rows, which gives f; `token-mean` divides by the tokens
  that the minibatch has, which gives 1; `token-sum` divides by nothing.
- that code also leaves out up to (ranks − 1) kept rows, so that ranks get equally many; here all are kept.
- that code computes log-probs of the old policy before it drops, here only kept rows pass through the model.
- that code has no case for a batch without a row to keep. Here such a batch is skipped and the next prompts are
  sampled, at most `sampler_kwargs.skips` times in a row (3 unless set); then a `UsageError` says so.

Where the run is recorded, dropped rows stay in verl's TransferQueue until the next batch, so that the observing engine
records them as dropped (`left_out`); those of a skipped batch are recorded by nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import transfer_queue as tq
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

from ....errors import UsageError
from ....objectives import Objective
from ..left_out import name_on_kept
from .estimators import ESTIMATORS, response_rewards
from .objective_settings import ADVANTAGE_SIDE, Settings, read_settings

__all__ = ["DroppedRows", "problems"]

_MODULE = "dropped_rows_sampler"
_SKIPS = 3  # batches in a row that may be left without a row
_RECORD = "actor_rollout_ref.actor.fsdp_config.record"
_WHERE = "trainer.v1.sampler.custom_sampler"


class DroppedRows(ReplayBuffer):  # type: ignore[misc, unused-ignore]
    """verl's sampler for synchronous training, without the rows whose advantage is 0.

    Which rows these are is the objective's: that of `algorithm.adv_estimator`, with its settings. Validation keeps all
    rows. It adds to verl's logs `training/dropped_rows/` with `kept` and `dropped` (numbers of rows), `correct` (share
    of the sampled rows with a reward above 0) and `skipped_batches`; verl's own statistics of rewards are of kept rows.

    Args:
        trainer_mode: As verl passes it; "sync".
        trainer_config: As verl passes it.
        max_off_policy_threshold: As verl passes it.
        max_off_policy_strategy: As verl passes it.
        sampler_kwargs: `trainer.v1.sampler.sampler_kwargs`; may hold `skips`.
        poll_interval: Seconds between two looks at what has been sampled.
        refill_fn: verl's, which sends that many more prompts to be sampled.

    Raises:
        UsageError: An objective that has no rows without a weight or that compares responses, rewards that come only
            after sampling, asynchronous training.
    """

    def __init__(
        self,
        trainer_mode: str,
        trainer_config: Any,
        max_off_policy_threshold: int | None,
        max_off_policy_strategy: str,
        sampler_kwargs: DictConfig,
        poll_interval: float = 2.0,
        refill_fn: Callable[[int], Any] | None = None,
    ) -> None:
        super().__init__(
            trainer_mode,
            trainer_config,
            max_off_policy_threshold,
            max_off_policy_strategy,
            sampler_kwargs,
            poll_interval=poll_interval,
            refill_fn=refill_fn,
        )
        self._objective, self._settings = _objective_of(sampler_kwargs._get_root())
        self._skips = _skips_of(sampler_kwargs)
        self._is_recorded = OmegaConf.select(sampler_kwargs._get_root(), _RECORD) is not None
        self._held_back: list[str] = []  # keys of dropped rows that the engine has yet to record

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[KVBatchMeta, dict[str, Any]]:
        """A batch of verl's sampler without the rows that have no weight.

        Args:
            global_steps: The training step.
            partition_id: "train" or "val".
            batch_size: Prompts of a batch.

        Returns:
            The keys and tags of the kept rows, and numbers for verl's logs.

        Raises:
            UsageError: Rewards that the objective cannot take, several batches in a row without a row to keep.
        """
        if self._held_back:
            tq.kv_clear(keys=self._held_back, partition_id="train")
            self._held_back = []
        for skipped in range(self._skips + 1):
            batch, metrics = super().sample(global_steps, partition_id, batch_size)
            if partition_id == "val":
                return batch, metrics
            rewards = self._rewards(batch)
            kept = self._objective.selected(self._objective.advantages(rewards, 1)).tolist()
            dropped = [key for key, keep in zip(batch.keys, kept, strict=True) if not keep]
            if dropped and any(kept) and self._is_recorded:
                left = [key for key, keep in zip(batch.keys, kept, strict=True) if keep]
                name_on_kept(left, dropped, partition_id)
                self._held_back = dropped
            elif dropped:
                tq.kv_clear(keys=dropped, partition_id=partition_id)
            if any(kept):
                metrics |= {
                    "training/dropped_rows/kept": sum(kept),
                    "training/dropped_rows/dropped": len(dropped),
                    "training/dropped_rows/correct": float((rewards > 0).double().mean()),
                    "training/dropped_rows/skipped_batches": skipped,
                }
                return _rows(batch, kept), metrics
            if skipped < self._skips:
                assert self.refill_fn is not None  # verl passes it to every sampler
                self.refill_fn(batch_size)
        reward = float(rewards[0])
        raise UsageError(
            f"DroppedRows: expected a row with a weight under {self._objective.name} among {len(rewards)} rollouts, "
            f"got {self._skips + 1} batches in a row without one in step {global_steps}, all of reward {reward:g}; "
            "look at the rewards, or train without this sampler, where rows without a weight stay in the batch"
        )

    def _rewards(self, batch: KVBatchMeta) -> Tensor:
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=["rm_scores"])
        sums = torch.stack([torch.as_tensor(scores, dtype=torch.float64).sum() for scores in data["rm_scores"]])
        real = torch.ones_like(sums, dtype=torch.bool)
        remedy = "add +algorithm.rlvr_threshold=0.5"
        return response_rewards(self._objective, sums[:, None], real, self._settings.threshold, remedy)


def _rows(batch: KVBatchMeta, kept: list[bool]) -> KVBatchMeta:
    rows = [row for row, keep in enumerate(kept) if keep]
    return KVBatchMeta(
        keys=[batch.keys[row] for row in rows],
        tags=[batch.tags[row] for row in rows],
        partition_id=batch.partition_id,
        fields=batch.fields,
        extra_info=batch.extra_info,
    )


def problems(config: DictConfig) -> Iterator[str]:
    """What is wrong with this sampler in a composed configuration; nothing where the configuration has another.

    Args:
        config: A composed configuration of `verl.trainer.main_ppo`.

    Yields:
        One message for each fault.
    """
    chosen = config.trainer.v1.sampler.get("custom_sampler", None)
    path, name = (None, None) if chosen is None else (chosen.get("path"), chosen.get("name"))
    if path is None or _MODULE not in str(path):
        return
    if name != DroppedRows.__name__:
        yield f"{_WHERE}.name: expected DroppedRows, which is what {path} holds, got {name}; set it"
    for check in (_objective_of, lambda whole: _skips_of(whole.trainer.v1.sampler.get("sampler_kwargs", None))):
        try:
            check(config)
        except UsageError as error:
            yield str(error)


def _skips_of(kwargs: Any) -> int:
    given = {} if kwargs is None else dict(kwargs)
    skips = given.pop("skips", _SKIPS)
    if given or isinstance(skips, bool) or not isinstance(skips, int) or skips < 0:
        got = ", ".join(given) or repr(skips)
        raise UsageError(
            f"trainer.v1.sampler.sampler_kwargs: expected skips alone, a whole number ≥ 0, got {got}; DroppedRows has "
            "no other setting"
        )
    return skips


def _objective_of(config: DictConfig) -> tuple[Objective, Settings]:
    """The objective that says which rows are dropped; UsageError for a configuration without one that does."""
    name = str(config.algorithm.adv_estimator)
    named = ESTIMATORS.get(name)
    if named is None:
        raise UsageError(
            f"{_WHERE}: DroppedRows drops rows by the objective of this project, got adv_estimator={name} of verl; "
            "choose psr or nsr, or leave the sampler out"
        )
    settings = read_settings(config.algorithm, ADVANTAGE_SIDE)
    objective = named.for_advantages(settings)
    if not objective.weighs_alone:
        raise UsageError(
            f"{_WHERE}: expected an objective that weighs a response by its own reward alone, got {name}, which "
            "compares responses, so that dropping some changes the weights of others; choose psr or nsr, or leave the "
            "sampler out"
        )
    kept = objective.selected(objective.advantages(torch.tensor([0.0, 1.0]), 1)).tolist()
    if all(kept) or not any(kept):
        raise UsageError(
            f"{_WHERE}: expected an objective that gives correct or wrong responses no weight, got {name}, which "
            f"weighs {'both' if all(kept) else 'neither'}; leave the sampler out"
        )
    mode = config.trainer.v1.trainer_mode
    if mode != "sync":
        raise UsageError(f"{_WHERE}: DroppedRows samples for trainer.v1.trainer_mode=sync, got {mode}; set it")
    model = OmegaConf.select(config, "reward.reward_model")
    if model is not None and model.get("enable", False) and not model.get("enable_resource_pool", False):
        raise UsageError(
            "reward.reward_model.enable_resource_pool: DroppedRows reads rewards when it samples, and expected True, "
            "got a reward model that judges afterwards; set it, or use a reward function"
        )
    if OmegaConf.select(config, "algorithm.filter_groups.enable"):
        raise UsageError(
            "algorithm.filter_groups.enable: expected False, since DroppedRows replaces the sampler of verl that "
            "filters groups, got True; leave one of the two out"
        )
    return objective, settings
