"""Rows that the sampler drops: held back where a run is recorded, and in its batch of rollouts as dropped ones."""

from __future__ import annotations

import pytest
import torch
from verl.utils import tensordict_utils as tu

from analysis.engines.verl import left_out
from analysis.engines.verl.observing.response_rows import ResponseRows
from analysis.engines.verl.observing.rollouts import RolloutBatch, left_out_of, read_rollouts

from .observed_setup import make_batch, make_rows
from .test_dropped_rows import Store, put, sampler, store  # noqa: F401 - a fixture

REWARDS = [[1, 0, 0], [0, 0, 0], [1, 1, 0]]
DROPPED = sorted(f"{p:04d}_{s}_0" for p, row in enumerate(REWARDS) for s, reward in enumerate(row) if not reward)


@pytest.fixture
def queue(store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:  # noqa: F811
    monkeypatch.setattr(left_out, "tq", store)
    put(store, REWARDS)
    return store


def test_dropped_rows_are_held_back_until_the_next_batch(queue: Store) -> None:
    made = sampler(record={"out": "runs/mine"})
    batch, _ = made.sample(1, "train", 3)
    assert not set(batch.keys) & set(DROPPED)
    assert set(DROPPED) <= set(queue.values["train"])
    named = [key for row in batch.keys for key in queue.values["train"][row][left_out.KEYS].data]
    assert sorted(named) == DROPPED
    queue.kv_clear(batch.keys, "train")  # as verl does after the step
    put(queue, [[1, 0]], step=2, first=3)
    again, _ = made.sample(2, "train", 1)
    assert list(again.keys) == ["0003_0_0"]
    assert not set(DROPPED) & set(queue.values["train"])


def test_without_records_nothing_is_named(queue: Store) -> None:
    batch, _ = sampler().sample(1, "train", 3)
    assert sorted(queue.values["train"]) == sorted(batch.keys)
    assert not any(left_out.KEYS in values for values in queue.values["train"].values())


def test_they_are_rollouts_of_their_batch_without_a_weight() -> None:
    rows = make_rows(1, prompts=2, per_prompt=4)
    kept, others = (
        [row for row in rows if row["rm_scores"].sum() > 0],
        [row for row in rows if not row["rm_scores"].sum()],
    )
    data = make_batch(kept)
    tu.assign_non_tensor_stack(data, left_out.KEYS, [[f"key {i}"] for i in range(len(others))])
    places = ResponseRows.of(data)
    found = read_rollouts(data, places, places.of_responses(data["response_mask"]).bool())
    batch = RolloutBatch(step=0)
    batch.name_left_out(batch.add(found), left_out_of(data))
    asked = []

    def fetch(keys: list[str]) -> object:
        asked.extend(keys)
        return make_batch([{name: value for name, value in row.items() if name != "advantages"} for row in others])

    batch.add_left_out(fetch)
    assert sorted(asked) == [f"key {i}" for i in range(len(others))]
    numbered = batch.number(lambda facts: [facts])
    table = sorted(batch.rollout_rows(numbered, 0, 0.5, frozenset([1]), str), key=lambda row: row.rollout)
    assert [row.rollout for row in table] == list(range(len(rows)))
    for row, source in zip(table, rows, strict=True):
        assert list(row.response_ids) == source["responses"].tolist()
        assert row.dropped == (row.reward == 0.0) == (row.advantage == 0.0)
    step = batch.step_row(numbered, 0.5)
    assert step["correct_ratio"] == step["reward_mean"] == 0.5
    assert step["length_neg"] is None
    assert torch.equal(batch.add(found), torch.arange(len(kept)))  # the next minibatch asks for none again
    assert not batch.left_out
