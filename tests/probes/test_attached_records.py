"""Records of `attach`: the run folder, what `RecordSpec` asks for, text, and what an interruption leaves."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import analysis
from analysis import RecordSpec, UsageError
from analysis.token_stats import token_statistics
from tests.probes.causal_lms import small_lm
from tests.probes.loops import batch, clipped, sequences, token_log_probs
from tests.probes.test_attach_fused import add_stand_in
from toy_models.tasks.tokenizer import word_tokenizer


def loop(trace, model, updates: int, *, prompts_seed: int = 0, number: int = 4) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for update in range(updates):
        inputs = batch(*sequences(number, seed=prompts_seed + update))
        log_probs = token_log_probs(model(**inputs).logits, inputs["labels"])
        clipped(log_probs, advantages=[1.0, -1.0] * (number // 2)).backward()
        optimizer.step()
        optimizer.zero_grad()
        trace.step(rewards=[1.0, 0.0] * (number // 2), advantages=[1.0, -1.0] * (number // 2))


def test_a_run_folder_reads_like_any_other(tmp_path):
    frames = []
    for out in (None, tmp_path / "mine"):
        model = small_lm("qwen3")
        with analysis.attach(model, out=out, record=RecordSpec(tokens=1, chunk=2), temperature=0.9) as trace:
            loop(trace, model, 5, number=2)
            middle = trace.records()
        frames.append(trace.records())
        for name in frames[-1]:
            pd.testing.assert_frame_equal(middle[name], frames[-1][name])
    run = analysis.load_trace(tmp_path / "mine", verify=True)
    assert run.status == "complete"
    assert run.committed_step == 5
    assert run.info["engine"] == "attach"
    assert run.info["temperature"] == 0.9
    assert run.info["record"]["head"] == "Qwen3ForCausalLM.lm_head, Linear 16 → 37, not tied"
    for name, table in frames[0].items():
        pd.testing.assert_frame_equal(table, frames[1][name])
        pd.testing.assert_frame_equal(table, run.table(name))
    assert np.isfinite(run.laws()["dentropy"]).all()
    assert len(run.laws("reinforce-log")) == len(run.table("tokens"))
    with pytest.raises(UsageError, match="expected old log-probs for reinforce-ratio, got a run of attach without"):
        run.laws("reinforce-ratio")
    assert run.table("tokens")["advantage"].isin([1.0, -1.0]).all()
    message = r"out: expected a new folder, got .*mine, which holds a run already; attach starts a new run each time"
    with pytest.raises(UsageError, match=message), analysis.attach(model, out=tmp_path / "mine"):
        pass
    assert not model._forward_hooks


def test_a_disk_that_is_full_for_a_while(tmp_path, monkeypatch):
    import errno

    from analysis.records import writer as store

    model = small_lm("qwen3")
    write = store.write_durably

    def full(path, data):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with analysis.attach(model, out=tmp_path / "mine", record=RecordSpec(tokens=1, chunk=2)) as trace:
        loop(trace, model, 1)
        monkeypatch.setattr(store, "write_durably", full)
        with pytest.raises(OSError, match="No space left on device"):
            loop(trace, model, 1, prompts_seed=1)
        assert sorted(set(trace.records()["tokens"]["update"])) == [0, 1]
        monkeypatch.setattr(store, "write_durably", write)
        loop(trace, model, 1, prompts_seed=2)
    tokens = analysis.load_trace(tmp_path / "mine", verify=True).table("tokens")
    assert sorted(set(tokens["update"])) == [0, 1, 2]
    assert not tokens.duplicated(["update", "rollout", "position"]).any()
    pd.testing.assert_frame_equal(trace.records()["tokens"], tokens)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_loop_leaves_what_was_filed(tmp_path, error):
    model = small_lm("qwen3")

    def train():
        with analysis.attach(model, out=tmp_path / "mine", record=RecordSpec(tokens=1, chunk=2)) as trace:
            loop(trace, model, 3)
            model(**batch(*sequences())).loss.backward()
            raise error

    with pytest.raises(error):
        train()
    run = analysis.load_trace(tmp_path / "mine", verify=True)
    assert run.status == "interrupted"
    assert sorted(set(run.table("tokens")["update"])) == [0, 1, 2]


@pytest.mark.slow
def test_a_killed_loop_leaves_its_commits(tmp_path):
    code = f"""
import os, signal, sys
sys.path[:0] = [{str(Path(__file__).parents[2])!r}]
import analysis
from analysis import RecordSpec
from tests.probes.causal_lms import small_lm
from tests.probes.test_attached_records import loop
model = small_lm("qwen3")
with analysis.attach(model, out={str(tmp_path / "mine")!r}, record=RecordSpec(tokens=1, chunk=2)) as trace:
    loop(trace, model, 5)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    run = analysis.load_trace(tmp_path / "mine", verify=True)
    assert run.committed_step == 4
    assert sorted(set(run.table("tokens")["update"])) == [0, 1, 2, 3]


def test_a_share_of_the_prompts():
    """Whole prompt groups, the same ones however the update is cut into passes, another draw for another seed."""
    model = small_lm("qwen3")
    prompts, responses = sequences(40)
    prompts = [prompts[2 * (row // 4)] for row in range(40)]

    def chosen(seed: int, cuts: tuple[int, ...]) -> list[int]:
        with analysis.attach(model, record=RecordSpec(tokens=0.4, seed=seed)) as trace:
            for rows in (slice(a, b) for a, b in pairwise(cuts)):
                model(**batch(prompts[rows], responses[rows])).loss.backward()
            trace.step(rewards=[float(row) for row in range(40)])
        rollouts, tokens = trace.records()["rollouts"], trace.records()["tokens"]
        assert rollouts["reward"].tolist() == rollouts["rollout"].tolist()
        assert sorted(set(tokens["rollout"])) == rollouts["rollout"].tolist()
        assert len(tokens) == rollouts["length"].sum()
        return rollouts["rollout"].tolist()

    first = chosen(0, (0, 40))
    assert 0 < len(first) < 40
    assert len(first) % 4 == 0
    assert {row // 4 for row in first} == {row // 4 for row in first[::4]}
    assert chosen(0, (0, 8, 20, 40)) == first
    assert chosen(1, (0, 40)) != first


def test_each_update_draws_anew():
    model = small_lm("qwen3")
    inputs = batch(*sequences(20))
    with analysis.attach(model, record=RecordSpec(tokens=0.5)) as trace:
        for _ in range(3):
            model(**inputs).loss.backward()
            trace.step()
    drawn = [tuple(rows) for _, rows in trace.records()["rollouts"].groupby("step")["rollout"]]
    assert len(set(drawn)) == 3
    assert set.union(*map(set, drawn)) > set(drawn[0])


def test_the_share_is_about_what_was_asked_for():
    """600 draws at a share of 0.25, at least one in each of 30 updates of 20 prompts: bound at 4 standard errors."""
    model = small_lm("qwen3")
    with analysis.attach(model, record=RecordSpec(tokens=0.25)) as trace:
        loop(trace, model, 30, number=20)
    got = trace.records()["rollouts"].groupby("step").size()
    assert len(got) == 30
    # 19 prompts an update: one is shared by two rollouts; P(none drawn) is 0.4%, which the floor lifts to one
    assert abs(got.sum() - 150) < 4 * (600 * 0.25 * 0.75) ** 0.5 + 5


def test_a_small_share_leaves_one_prompt_in_each_update():
    model = small_lm("qwen3")
    with analysis.attach(model, record=RecordSpec(tokens=1e-9)) as trace:
        loop(trace, model, 4)
    rollouts = trace.records()["rollouts"]
    assert sorted(set(rollouts["step"])) == [0, 1, 2, 3]
    assert (rollouts.groupby("step")["prompt_id"].nunique() == 1).all()


@pytest.mark.parametrize("fused", [False, True])
def test_passes_of_which_nothing_is_recorded(fused):
    """Two accumulated passes of one prompt each, of which the share leaves one."""
    model = small_lm("qwen3")
    if fused:
        add_stand_in(model)
    with analysis.attach(model, record=RecordSpec(tokens=1e-9)) as trace:
        for prompts, responses in (([[4, 5]], [[6, 7]]), ([[8]], [[9, 10]])):
            output = model(**batch(prompts, responses))
            (output.log_probs.sum() if fused else output.loss).backward()
        trace.step(rewards=[1.0, 0.0])
    records = trace.records()
    assert len(records["rollouts"]) == len(records["prompts"]) == 1
    assert len(records["tokens"]) == 2


def test_top_tokens_and_ranks():
    model = small_lm("qwen3", dtype=torch.float64)
    inputs = batch(*sequences())
    with analysis.attach(model, record=RecordSpec(tokens=1, top_k=5, rank=True)) as trace:
        output = model(**inputs)
        output.loss.backward()
    tokens = trace.records()["tokens"]
    counts = inputs["labels"][:, 1:] != -100
    stats = token_statistics(output.logits[:, :-1][counts], inputs["labels"][:, 1:][counts], top_k=5, rank=True)
    assert np.array_equal(np.stack(tokens["top_ids"]), stats.top_ids.numpy())
    assert np.allclose(np.stack(tokens["top_probs"]), stats.top_probs.numpy())
    assert np.array_equal(tokens["token_rank"], stats.token_rank.numpy())
    with analysis.attach(model, record=RecordSpec(tokens=1, top_k=99)) as trace:
        model(**inputs).loss.backward()
    assert {len(ids) for ids in trace.records()["tokens"]["top_ids"]} == {37}
    with analysis.attach(model, record=RecordSpec(tokens=1)) as trace:
        model(**inputs).loss.backward()
    assert trace.records()["tokens"][["top_ids", "top_probs", "token_rank"]].isna().all(axis=None)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tokens": 0.0}, "record.tokens: expected a fraction above 0 and at most 1, got 0.0"),
        ({"top_k": -1}, "record.top_k: expected a whole number from 0, got -1"),
        ({"chunk": 0}, "record.chunk: expected a whole number from 1, got 0"),
        ({"seed": 0.5}, r"record.seed: expected a whole number from 0, got 0.5"),
        ({"rank": 1}, "record.rank: expected True or False, got 1"),
    ],
)
def test_record_specs_that_ask_for_nothing_possible(fields, message):
    with pytest.raises(UsageError, match=message):
        RecordSpec(**fields)


def test_text_and_end_of_text():
    class Letters:
        def decode(self, ids):
            return "".join(chr(ord("a") + i) for i in ids)

    model = small_lm("qwen3")
    with analysis.attach(model, record=RecordSpec(tokens=1), tokenizer=Letters()) as trace:
        model(**batch([[4, 5], [4, 6]], [[3, 2], [3, 3]])).loss.backward()
    records = trace.records()
    assert records["prompts"]["text"].tolist() == ["ef", "eg"]
    assert records["rollouts"]["response_text"].tolist() == ["dc", "dd"]
    assert records["rollouts"]["finished"].tolist() == [True, False]  # 2 is the end token
    with analysis.attach(model, record=RecordSpec(tokens=1)) as trace:
        model(**batch([[4, 5]], [[3, 2]])).loss.backward()
    assert trace.records()["rollouts"]["response_text"].tolist() == [""]


def test_token_text_in_memory_and_from_the_folder(tmp_path):
    tokenizer = word_tokenizer(["<pad>", "$", *(f"w{i}" for i in range(2, 37))], pad="<pad>", eos="$")
    frames = []
    for out in (None, tmp_path / "mine"):
        model = small_lm("qwen3")
        with analysis.attach(model, out=out, record=RecordSpec(tokens=1), tokenizer=tokenizer) as trace:
            loop(trace, model, 1)
            frames.append(trace.records()["tokens"])
    frames.append(analysis.load_trace(tmp_path / "mine").laws())
    for frame in frames:
        assert frame["token_text"].tolist() == [f"w{token}" for token in frame["token"]]
        assert frame.attrs["units"]["log_prob"] == "nats"


def test_what_a_notebook_shows():
    model = small_lm("qwen3")
    with analysis.attach(model, record=RecordSpec(tokens=1)) as trace:
        loop(trace, model, 2)
        assert "updates=2" in repr(trace)
        assert "watching" in repr(trace)
        shown = trace._repr_html_()
    assert "<th>updates</th><td>2</td>" in shown
    assert "Qwen3ForCausalLM.lm_head" in shown
    assert "left" in repr(trace)
