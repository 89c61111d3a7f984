"""The sampler that drops rows: what it keeps, what it clears, how many updates follow and how the last one is scaled.

Most tests have a store in memory in the place of TransferQueue; one uses TransferQueue itself.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from tensordict import TensorDict
from transfer_queue import KVBatchMeta
from verl.trainer.ppo import padding_utils
from verl.trainer.ppo.v1 import replay_buffer
from verl.utils.import_utils import load_extern_type
from verl.utils.tensordict_utils import list_of_dict_to_tensordict, make_iterator

from analysis import UsageError
from analysis.engines.verl.objectives import dropped_rows_sampler
from analysis.engines.verl.objectives.dropped_rows_sampler import DroppedRows

from .objective_batches import MODES, Rollouts, actor_config, weights_by_verl

TOKENS = 4  # of each response


class Store:
    """TransferQueue's functions of keys and values, in memory."""

    def __init__(self) -> None:
        self.tags: dict[str, dict[str, dict[str, Any]]] = {}
        self.values: dict[str, dict[str, dict[str, Any]]] = {}

    def kv_list(self, partition_id: str | None = None) -> dict[str, dict[str, dict[str, Any]]]:
        return copy.deepcopy({name: held for name, held in self.tags.items() if partition_id in (None, name)})

    def kv_batch_put(self, keys, partition_id, fields=None, tags=None) -> None:
        for row, key in enumerate(keys):
            if tags is not None:
                self.tags.setdefault(partition_id, {}).setdefault(key, {}).update(tags[row])
            if fields is not None:
                values = self.values.setdefault(partition_id, {}).setdefault(key, {})
                values.update({name: value[row] for name, value in fields.items()})

    def kv_batch_get(self, keys, partition_id, select_fields=None) -> TensorDict:
        rows = [self.values[partition_id][key] for key in keys]
        names = rows[0] if select_fields is None else select_fields
        return list_of_dict_to_tensordict([{name: row[name] for name in names} for row in rows])

    def kv_clear(self, keys, partition_id) -> None:
        for key in keys:
            self.tags[partition_id].pop(key, None)
            self.values.get(partition_id, {}).pop(key, None)


@pytest.fixture
def store(monkeypatch) -> Store:
    made = Store()
    for module in (replay_buffer, padding_utils, dropped_rows_sampler):
        monkeypatch.setattr(module, "tq", made)
    return made


def put(queue: Any, rewards: list[list[float]], *, step: int = 1, partition: str = "train", first: int = 0) -> None:
    """Finished prompts with one response for each reward."""
    keys, fields, tags = [], [], []
    for prompt, of_prompt in enumerate(rewards, first):
        uid = f"{prompt:04d}"
        queue.kv_batch_put(
            keys=[uid], partition_id=partition, tags=[{"is_prompt": True, "status": "finished", "global_steps": step}]
        )
        for session, reward in enumerate(of_prompt):
            length = TOKENS - (session + prompt) % 2  # ragged, as responses are
            scores = torch.zeros(length)
            scores[-1] = reward
            keys.append(f"{uid}_{session}_0")
            tags.append({"status": "success", "seq_len": length + 2, "prompt_len": 2, "response_len": length})
            ids = torch.ones(length, dtype=torch.long)
            fields.append({"rm_scores": scores, "response_mask": ids, "responses": ids, "uid": uid})
    queue.kv_batch_put(keys=keys, partition_id=partition, fields=list_of_dict_to_tensordict(fields), tags=tags)


def sampler(
    estimator: str = "psr",
    refill=None,
    algorithm: dict[str, Any] | None = None,
    record: dict[str, Any] | None = None,
    **kwargs: Any,
) -> DroppedRows:
    """As verl's trainer makes it: the class by its path, the settings as nodes of the whole configuration."""
    config = OmegaConf.create(
        {
            "actor_rollout_ref": {"actor": {"fsdp_config": {} if record is None else {"record": record}}},
            "algorithm": {"adv_estimator": estimator, **(algorithm or {})},
            "trainer": {"v1": {"trainer_mode": "sync", "sampler": {"sampler_kwargs": kwargs}}},
        }
    )
    made = load_extern_type("pkg://analysis.engines.verl.objectives.dropped_rows_sampler", "DroppedRows")
    return made(
        trainer_mode="sync",
        trainer_config={},
        max_off_policy_threshold=8,
        max_off_policy_strategy="drop",
        sampler_kwargs=config.trainer.v1.sampler.sampler_kwargs,
        poll_interval=0.0,
        refill_fn=refill,
    )


@pytest.mark.parametrize(("estimator", "kept"), [("psr", 1.0), ("nsr", 0.0)])
def test_rows_of_the_other_sign_are_dropped_and_cleared(store, estimator, kept):
    rewards = [[1, 0, 0], [0, 0, 0], [1, 1, 1]]
    put(store, rewards)
    batch, metrics = sampler(estimator).sample(1, "train", 3)
    expected = [f"{p:04d}_{s}_0" for p, row in enumerate(rewards) for s, reward in enumerate(row) if reward == kept]
    assert sorted(batch.keys) == expected
    assert sorted(store.values["train"]) == expected
    assert all(tag["status"] == "success" for tag in batch.tags)
    assert metrics == {
        "training/dropped_rows/kept": len(expected),
        "training/dropped_rows/dropped": 9 - len(expected),
        "training/dropped_rows/correct": pytest.approx(4 / 9),
        "training/dropped_rows/skipped_batches": 0,
    }
    assert not [name for name in metrics if "max" in name or "min" in name]


def test_lambda_of_zero_drops_correct_rows(store):
    put(store, [[1, 0]])
    batch, _ = sampler("w_reinforce", algorithm={"rlvr_lambda": 0.0}).sample(1, "train", 1)
    assert batch.keys == ["0000_1_0"]


def test_validation_keeps_all_rows(store):
    put(store, [[1, 0], [0, 0]], partition="val")
    batch, metrics = sampler().sample(1, "val", 2)
    assert len(batch) == 4
    assert metrics == {}


def test_real_rewards_need_a_threshold(store):
    put(store, [[0.7, 0.2]])
    with pytest.raises(UsageError, match=r"got 0.7.*\+algorithm.rlvr_threshold=0.5"):
        sampler().sample(1, "train", 1)
    put(store, [[0.7, 0.2]])
    batch, _ = sampler(algorithm={"rlvr_threshold": 0.5}).sample(1, "train", 1)
    assert batch.keys == ["0000_0_0"]


def test_a_batch_without_a_row_is_skipped_for_the_next_prompts(store):
    put(store, [[0, 0], [0, 0]])
    asked = []

    def refill(prompts):
        asked.append(prompts)
        put(store, [[0, 0], [0, 1]], first=2)

    batch, metrics = sampler(refill=refill).sample(1, "train", 2)
    assert batch.keys == ["0003_1_0"]
    assert asked == [2]
    assert metrics["training/dropped_rows/skipped_batches"] == 1
    assert metrics["training/dropped_rows/correct"] == 0.25
    assert list(store.values["train"]) == ["0003_1_0"]


def test_several_batches_in_a_row_without_a_row_are_an_error(store):
    put(store, [[0, 0]])
    asked = []

    def refill(prompts):
        asked.append(prompts)
        put(store, [[0, 0]], first=len(asked))

    message = (
        "expected a row with a weight under psr-ratio among 2 rollouts, got 3 batches in a row without one in step 7, "
        "all of reward 0"
    )
    with pytest.raises(UsageError, match=message):
        sampler(refill=refill, skips=2).sample(7, "train", 1)
    assert asked == [1, 1]


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        ("grpo", "got adv_estimator=grpo of verl"),
        ("maxrl", "weighs a response by its own reward alone, got maxrl"),
        ("reinforce", "got reinforce, which weighs both"),
        ("w_reinforce", "algorithm.rlvr_lambda: w_reinforce needs λ"),
    ],
)
def test_what_the_trainer_would_start_with_is_refused_when_the_sampler_is_made(estimator, message):
    with pytest.raises(UsageError, match=message):
        sampler(estimator)


@pytest.mark.parametrize("skips", [-1, True, "2", 1.5])
def test_skips_is_a_count(skips):
    with pytest.raises(UsageError, match="expected skips alone, a whole number ≥ 0"):
        sampler(skips=skips)


PROMPTS, GROUP, MINIBATCH = 20, 5, 25  # 100 rows, four minibatches where none is dropped


@pytest.mark.parametrize(
    ("percent", "updates", "filled"), [(10, 1, 0.4), (30, 2, 0.2), (50, 2, 1.0), (70, 3, 0.8), (90, 4, 0.6)]
)
def test_updates_and_the_scale_of_the_last_one(store, percent, updates, filled):
    """The numbers of the paper's code: ⌈N/M⌉ updates, the last scaled by the filled fraction of its minibatch."""
    correct = PROMPTS * GROUP * percent // 100
    flat = torch.zeros(PROMPTS * GROUP)
    flat[torch.randperm(len(flat), generator=torch.Generator().manual_seed(percent))[:correct]] = 1
    put(store, flat.view(PROMPTS, GROUP).tolist())
    kept, _ = sampler().sample(1, "train", PROMPTS)
    assert len(kept) == correct
    padded = padding_utils.upsample_batch_to_divisible_size(kept, MINIBATCH, eos_token_id=0)
    data = store.kv_batch_get(padded.keys, "train", ["response_mask"])
    masks = torch.nn.functional.pad(data["response_mask"].to_padded_tensor(0), (0, 0)).bool()
    minibatches = list(make_iterator(TensorDict({"mask": masks}, [len(masks)]), MINIBATCH, epochs=1))
    assert len(minibatches) == updates
    last = minibatches[-1]["mask"]
    rows = int(last.any(1).sum())
    assert rows / MINIBATCH == pytest.approx(filled)
    for mode in MODES:
        weights = weights_of(last, mode)
        full = weights_of(last[:rows].repeat(MINIBATCH // rows + 1, 1)[:MINIBATCH], mode)
        scale = {"token-mean": 1.0, "token-sum": filled}.get(mode, filled)
        assert float(weights.sum() / full.sum()) == pytest.approx(scale, rel=0.05)  # rows differ in length by one
        if mode == "seq-mean-token-mean":
            assert float(weights.sum()) == pytest.approx(filled, rel=1e-6)
        if mode == "token-mean":
            assert float(weights.sum()) == pytest.approx(1, rel=1e-6)


def weights_of(mask: torch.Tensor, mode: str) -> torch.Tensor:
    """Weights of a minibatch whose tokens all have A = ρ = 1 and that verl holds to be full."""
    zeros = torch.full(mask.shape, -1.0, dtype=torch.float64)
    ones = mask.double()
    lengths = [mask.shape[1]] * len(mask)
    rewards, uids = torch.ones(len(mask), dtype=torch.float64), None
    rollouts = Rollouts(zeros, zeros, zeros, zeros, zeros, mask, lengths, rewards, uids)
    config = actor_config("psr_ratio", mode)
    return weights_by_verl(config, rollouts, ones, ones, global_batch_size=MINIBATCH)[0]


@pytest.mark.slow
def test_with_transfer_queue_itself(tmp_path_factory, monkeypatch):
    import ray
    import transfer_queue

    folder = tmp_path_factory.mktemp("r")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # else a busy machine lets them wait for minutes
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False, _temp_dir=str(folder)[:60])
    try:
        transfer_queue.init(OmegaConf.create({"backend": {"SimpleStorage": {"num_data_storage_units": 1}}}))
        put(transfer_queue, [[0, 0], [0, 0]])
        refills = []

        def refill(prompts):
            refills.append(prompts)
            put(transfer_queue, [[1, 0], [0, 1]], first=2)

        batch, metrics = sampler(refill=refill).sample(1, "train", 2)
        assert sorted(batch.keys) == ["0002_0_0", "0003_1_0"]
        assert metrics["training/dropped_rows/skipped_batches"] == 1
        assert sorted(transfer_queue.kv_list()["train"]) == sorted(batch.keys)
        scores = transfer_queue.kv_batch_get(keys=batch.keys, partition_id="train", select_fields=["rm_scores"])
        assert all(float(row.sum()) == 1 for row in scores["rm_scores"])
        assert isinstance(batch, KVBatchMeta)
    finally:
        transfer_queue.close()
        ray.shutdown()
