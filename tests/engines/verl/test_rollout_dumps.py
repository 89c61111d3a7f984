"""What verl itself dumps of rollouts and validations is read: its writers, its names of rows, its padding."""

from __future__ import annotations

import types
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from verl.trainer.ppo.padding_utils import upsample_batch_to_divisible_size
from verl.trainer.ppo.v1 import trainer_base
from verl.utils.tensordict_utils import list_of_dict_to_tensordict

from analysis.offline import read_rollouts
from analysis.offline.verl_dumps import key_of
from analysis.passk import read_graded
from tests.offline.byte_models import byte_tokenizer

PROMPTS, SESSIONS = ("1+1=", "2+3="), 3
UIDS = [str(uuid.UUID(int=i)) for i in range(len(PROMPTS))]


class Store:
    """The calls of TransferQueue that the two functions make, over a dict."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Any]] = {}

    def kv_batch_get(self, keys: Any, partition_id: str, select_fields: Any = None) -> Any:
        fields = select_fields or list(self.rows[keys[0]])
        return list_of_dict_to_tensordict([{name: self.rows[key][name] for name in fields} for key in keys])

    def kv_batch_put(self, keys: Any, partition_id: str, fields: Any, tags: Any) -> None:
        for place, key in enumerate(keys):
            self.rows[key] = {name: fields[name][place] for name in fields.keys()}  # noqa: SIM118 (a TensorDict)


def trainer(tokenizer: Any, step: int) -> Any:
    kind = trainer_base.PPOTrainer
    made = types.SimpleNamespace(
        tokenizer=tokenizer, global_steps=step, _dump_futures=[], _write_generations=kind._write_generations
    )
    made._dump_executor = ThreadPoolExecutor(1)
    made._dump_generations = types.MethodType(kind._dump_generations, made)
    return made


@pytest.fixture
def dumped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A training batch of six rollouts that was filled up to eight."""
    tokenizer, store = byte_tokenizer(), Store()
    for uid, prompt in zip(UIDS, PROMPTS, strict=True):
        for session in range(SESSIONS):
            response = torch.tensor([*tokenizer.encode(str(session), add_special_tokens=False), tokenizer.eos_token_id])
            store.rows[f"{uid}_{session}_0"] = {
                "uid": uid,
                "prompts": torch.tensor(tokenizer.encode(prompt, add_special_tokens=False)),
                "responses": response,
                "rm_scores": torch.tensor([0.0, float(session == 1)]),
                "reward_model": {"ground_truth": "1"},
            }
    for module in (trainer_base, __import__(upsample_batch_to_divisible_size.__module__, fromlist=["tq"])):
        monkeypatch.setattr(module, "tq", store)
    batch = trainer_base.KVBatchMeta(
        keys=list(store.rows), tags=[{"seq_len": 6} for _ in store.rows], partition_id="train"
    )
    batch = upsample_batch_to_divisible_size(batch, 4, tokenizer.eos_token_id)
    assert len(batch.keys) == 8
    made = trainer(tokenizer, 3)
    trainer_base.PPOTrainer._log_rollout_data(made, batch, {}, str(tmp_path / "train"))
    made._dump_executor.shutdown(wait=True)
    return tmp_path / "train"


def test_a_training_dump(dumped: Path) -> None:
    file = read_rollouts(dumped)
    assert file.layout == "rollout dump of verl"
    assert [(r.group, r.response, r.reward, r.step) for r in file.rollouts] == [
        (uid, str(session), float(session == 1), 3) for uid in UIDS for session in range(SESSIONS)
    ]
    assert "2 of 8 rows are left out: verl filled up a batch with them" in " ".join(file.notes)


def test_pass_at_k_of_it(dumped: Path) -> None:
    graded = read_graded(next(dumped.iterdir()))
    assert (graded.prompts, graded.n.tolist(), graded.c.tolist()) == (PROMPTS, [3, 3], [1, 1])


def test_a_validation_dump(tmp_path: Path) -> None:
    """`reward` and `score` stand beside each other, with what the reward function returned besides."""
    keys = [f"{uid}_{session}_0" for uid in UIDS for session in range(SESSIONS)]
    scores = [float(place % 3 == 1) for place in range(6)]
    made = trainer(None, 0)
    made._dump_generations(
        [prompt for prompt in PROMPTS for _ in range(SESSIONS)],
        [str(place) for place in range(6)],
        ["1"] * 6,
        scores,
        {"reward": scores, "acc": [score > 0 for score in scores], "uid": keys},
        str(tmp_path / "val"),
    )
    made._dump_executor.shutdown(wait=True)
    assert all(key_of(key) is not None for key in keys)
    file = read_rollouts(tmp_path / "val" / "0.jsonl")
    assert [r.reward for r in file.rollouts] == scores
    graded = read_graded(tmp_path / "val" / "0.jsonl")
    assert (graded.prompts, graded.n.tolist(), graded.c.tolist()) == (PROMPTS, [3, 3], [1, 1])
