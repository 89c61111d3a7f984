"""Several processes attached to one run: one folder, which holds what one process would have recorded."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp

import analysis
from analysis import RecordSpec, UsageError
from analysis.probes import attached_tables
from analysis.records import Ranks
from tests.probes.causal_lms import small_lm
from tests.probes.loops import ADVANTAGES, batch, sequences, token_log_probs
from tests.records.together import Together

EVERY = RecordSpec(tokens=1, chunk=2)
UPDATES = 3


@pytest.fixture
def in_threads(monkeypatch: pytest.MonkeyPatch) -> threading.local:
    """Lets each thread say which rank it is."""
    here = threading.local()
    monkeypatch.setattr(attached_tables, "process_ranks", lambda: getattr(here, "ranks", Ranks()))
    return here


def train(out: Path | None, rank: int = 0, count: int = 1, model: Any = None) -> dict[str, Any]:
    """Updates to 4 sequences, of which each rank has its share; gradients are not summed, which no record sees."""
    model = small_lm("qwen3", dtype=torch.float64) if model is None else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    mine = slice(rank * 4 // count, (rank + 1) * 4 // count)
    with analysis.attach(model, out=out, record=EVERY) as trace:
        for update in range(UPDATES):
            prompts, responses = sequences(seed=update)
            prompts[2] = prompts[1]  # a group over both ranks
            inputs = batch(prompts[mine], responses[mine])
            log_probs = token_log_probs(model(**inputs).logits, inputs["labels"])
            terms = [-a * x.sin().mean() for a, x in zip(ADVANTAGES[mine], log_probs, strict=True)]
            (torch.stack(terms).mean() / count).backward()
            optimizer.step()
            trace.step(rewards=[0.5 * i for i in range(4)][mine], advantages=ADVANTAGES[mine])
    return trace.records()


def same_records(folder: Path, other: Path) -> None:
    one, two = analysis.load_trace(other, verify=True), analysis.load_trace(folder, verify=True)
    assert isinstance(one, analysis.Run)
    assert isinstance(two, analysis.Run)
    assert two.status == "complete"
    assert two.info["weights"] == one.info["weights"]
    ours, theirs = two.table("rollouts"), one.table("rollouts")
    assert ours["rank"].tolist() == [0, 0, 1, 1] * UPDATES
    assert ours.drop(columns="rank").equals(theirs.drop(columns="rank"))
    assert ours["group"].tolist() == [0, 0, 0, 1] * UPDATES
    tokens, expected = two.table("tokens"), one.table("tokens")
    key = ["update", "rollout", "position", "token"]
    assert tokens[key].equals(expected[key])
    for name in ("weight", "log_prob", "entropy", "advantage"):
        np.testing.assert_allclose(tokens[name], expected[name], rtol=1e-5, atol=1e-7, err_msg=name)
    assert sorted(two.table("prompts")["prompt_id"]) == sorted(one.table("prompts")["prompt_id"])
    assert len(two.laws()) == len(tokens)


def test_two_ranks_record_what_one_records(tmp_path, in_threads):
    train(tmp_path / "one")
    models = [small_lm("qwen3", dtype=torch.float64) for _ in range(2)]  # here, since threads share a seed

    def work(ranks: Ranks) -> None:
        in_threads.ranks = ranks
        train(tmp_path / "two", ranks.rank, ranks.count, models[ranks.rank])

    assert Together(2).run(work) == [None, None]
    same_records(tmp_path / "two", tmp_path / "one")


def test_a_step_that_one_rank_refuses_is_refused_on_all_and_can_be_repeated(tmp_path, in_threads):
    def work(ranks: Ranks) -> str:
        in_threads.ranks = ranks
        model = small_lm("qwen3")
        with analysis.attach(model, out=tmp_path / "two", record=EVERY) as trace:
            model(**batch(*sequences(seed=ranks.rank))).loss.backward()
            with pytest.raises(UsageError) as refused:
                trace.step(rewards=[1.0] * (4 - ranks.rank))
            trace.step(rewards=[1.0] * 4)
        return str(refused.value)

    messages = Together(2).run(work)
    assert "rewards: expected 4 numbers" in messages[1]
    assert messages[0] == f"rank 1: {messages[1]}"
    assert analysis.load_trace(tmp_path / "two").table("rollouts")["rollout"].tolist() == list(range(8))


def test_a_rank_that_fails_leaves_whole_commits(tmp_path, in_threads):
    """Chunks of 2: an error in the fourth update loses the third on both ranks."""

    def work(ranks: Ranks) -> None:
        in_threads.ranks = ranks
        model = small_lm("qwen3")
        with analysis.attach(model, out=tmp_path / "two", record=EVERY) as trace:
            for update in range(4):
                model(**batch(*sequences(seed=update))).loss.backward()
                if (update, ranks.rank) == (3, 1):
                    raise KeyboardInterrupt
                trace.step()

    survivor, dead = Together(2).run(work)
    assert isinstance(dead, KeyboardInterrupt)
    assert "another rank is gone" in str(survivor)
    run = analysis.load_trace(tmp_path / "two", verify=True)
    assert (run.committed_step, run.status) == (2, "interrupted")
    assert run.table("rollouts")["rollout"].tolist() == list(range(8)) * 2


def test_all_responses_to_a_prompt_are_recorded_on_every_rank_or_none(tmp_path, in_threads):
    def work(ranks: Ranks) -> None:
        in_threads.ranks = ranks
        model = small_lm("qwen3")
        with analysis.attach(model, out=tmp_path / "two", record=RecordSpec(tokens=0.4, chunk=100)) as trace:
            for update in range(8):
                prompts, responses = sequences(seed=update)
                prompts = [prompts[0], prompts[0], prompts[2 + ranks.rank], prompts[2 + ranks.rank]]
                model(**batch(prompts, responses)).loss.backward()
                trace.step()

    assert Together(2).run(work) == [None, None]
    rollouts = analysis.load_trace(tmp_path / "two").table("rollouts")
    sizes = rollouts.groupby(["step", "prompt_id"]).size()
    shared = rollouts.groupby(["step", "prompt_id"])["rank"].nunique() == 2
    assert shared.any()
    assert (sizes[shared] == 4).all()
    assert (~shared).any()


def _process(rank: int, folder: str) -> None:
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(f"{folder}/store", 2), rank=rank, world_size=2)
    try:
        model = small_lm("qwen3", dtype=torch.float64)
        train(Path(folder) / "two", rank, 2, DistributedDataParallel(model))
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_under_ddp(tmp_path):
    train(tmp_path / "one")
    mp.spawn(_process, args=(str(tmp_path),), nprocs=2, join=True)
    same_records(tmp_path / "two", tmp_path / "one")
