"""Traces against dense float64 distributions of one rollout at a time; interruption, memory, verdicts, folders."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from analysis import InterruptedRunError, UsageError, load_trace, trace_rollouts
from analysis.laws import bucket_sums
from analysis.objectives import parse_objective
from analysis.offline import forward, rounds
from analysis.offline.response_statistics import bucket_masses
from analysis.records import Run, digest
from analysis.records.folders import read_commits
from analysis.records.schema import BUCKETS
from analysis.report import TraceData
from tests.offline.small import VOCAB, dense_logits, make_model, make_tokenizer, rows_of, write_jsonl


def traced(out: Path, rows: Any = None, model: Any = None, **options: Any) -> Run:
    return trace_rollouts(model or make_model(), make_tokenizer(), rows or rows_of(), out=out, **options)


def dense_statistics(logits: torch.Tensor, tokens: torch.Tensor) -> dict[str, np.ndarray]:
    """The quantities of a token by their definitions, float64."""
    log_probs = logits.log_softmax(-1)
    probs = log_probs.exp()
    own = log_probs.gather(-1, tokens[:, None])[:, 0]
    direction = torch.nn.functional.one_hot(tokens, VOCAB) - probs
    top = probs.topk(8, -1)
    found = {
        "log_prob": own,
        "one_minus_prob": 1 - own.exp(),
        "entropy": -(probs * log_probs).sum(-1),
        "collision": (probs**2).sum(-1),
        "collision_log_prob": (probs**2 * log_probs).sum(-1),
        "direction_norm": direction.norm(dim=-1),
        "argmax_token": probs.argmax(-1),
        "argmax_prob": probs.amax(-1),
        "token_rank": (probs > own.exp()[:, None]).sum(-1),
        "top_ids": top.indices,
        "top_probs": top.values,
    }
    sums = bucket_sums(logits, BUCKETS)
    return {
        name: value.numpy()
        for name, value in (found | {"bucket_mass": sums.mass, "bucket_mass_sq": sums.mass_sq}).items()
    }


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("kind", ["qwen3", "llama", "gpt2"])
def test_against_dense_distributions(tmp_path: Path, kind: str, temperature: float) -> None:
    rows = rows_of(8)
    run = traced(tmp_path, rows, make_model(kind), temperature=temperature)
    tokens = run.table("tokens")
    assert run.info["engine"] == "offline"
    assert (tokens["update"] == -1).all()
    assert tokens["weight"].isna().all()
    model, tokenizer = make_model(kind), make_tokenizer()
    for index, row in enumerate(rows):
        logits, ids = dense_logits(model, tokenizer, row["prompt"], row["response"])
        of = tokens[tokens["rollout"] == index]
        assert of["token"].tolist() == ids.tolist()
        assert of["position"].tolist() == list(range(len(ids)))
        for name, expected in dense_statistics(logits / temperature, ids).items():
            got = np.stack(of[name].tolist()) if expected.ndim == 2 else of[name].to_numpy()
            if expected.dtype.kind == "i":
                np.testing.assert_array_equal(got, expected, err_msg=name)
            else:  # the model itself computes in float32
                np.testing.assert_allclose(got, expected, rtol=2e-4, atol=2e-6, err_msg=name)


def test_tables(tmp_path: Path) -> None:
    rows = [row | {"step": 3, "advantage": float(i)} for i, row in enumerate(rows_of())]
    run = traced(tmp_path, write_jsonl(tmp_path.parent / f"{tmp_path.name}.jsonl", rows))
    rollouts, prompts = run.table("rollouts"), run.table("prompts")
    assert rollouts["response_text"].tolist() == [row["response"] for row in rows]
    assert rollouts["reward"].tolist() == [row["reward"] for row in rows]
    assert rollouts["correct"].tolist() == [row["reward"] == 1 for row in rows]
    assert rollouts["group"].tolist() == [i // 4 for i in range(12)]
    assert rollouts["advantage"].tolist() == [float(i) for i in range(12)]
    assert (rollouts["step"] == 3).all()
    assert prompts["text"].tolist() == [rows[i]["prompt"] for i in (0, 4, 8)]
    assert (prompts["split"] == "offline").all()
    counts = run.table("tokens").groupby("rollout").size()
    assert counts.tolist() == rollouts["length"].tolist()
    assert run.info["trace"]["columns"]["advantage"] == "advantage"
    assert len(run.info["inputs"]["rollouts"]["sha256"]) == 64
    assert isinstance(load_trace(tmp_path, verify=True), Run)


@pytest.mark.parametrize("vocab", [3, 700, 3000])
def test_bucket_masses_are_those_of_the_laws(vocab: int) -> None:
    generator = torch.Generator().manual_seed(vocab)
    logits = torch.cat(
        [
            4 * torch.randn(6, vocab, generator=generator),
            torch.zeros(1, vocab),
            torch.randint(0, 3, (2, vocab), generator=generator).float(),
        ]
    )  # ties across edges
    logits[0, 1] = 60.0
    sums = bucket_sums(logits.double(), BUCKETS, temperature=0.8)
    mass, mass_sq = bucket_masses(logits.clone(), 0.8)
    torch.testing.assert_close(mass.double(), sums.mass, rtol=3e-6, atol=1e-37)
    torch.testing.assert_close(mass_sq.double(), sums.mass_sq, rtol=3e-6, atol=1e-37)


def test_batch_size_changes_rounding_alone(tmp_path: Path) -> None:
    rows = rows_of(24)
    one, many = (traced(tmp_path / str(n), rows, batch_tokens=n) for n in (1, 100_000))
    for table in ("prompts", "rollouts"):
        assert one.table(table, as_="arrow") == many.table(table, as_="arrow")
    a, b = one.table("tokens"), many.table("tokens")
    for name in ("rollout", "position", "token", "token_rank", "argmax_token"):
        assert a[name].tolist() == b[name].tolist()
    for name in ("log_prob", "entropy", "collision", "direction_norm"):
        np.testing.assert_allclose(a[name], b[name], rtol=2e-5, atol=1e-6)


class Stops:
    """A model whose forward passes are counted, and which asks to stop at one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int, error: BaseException) -> None:
        self.calls, hidden = 0, forward.response_hidden

        def counted(*arguments: Any) -> Any:
            self.calls += 1
            if self.calls == at:
                raise error
            return hidden(*arguments)

        monkeypatch.setattr(forward, "response_hidden", counted)


def test_what_was_traced_before_a_failure_stays_and_is_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "_COMMIT_SECONDS", 0.0)
    rows, options = rows_of(40), {"batch_tokens": 20}
    whole = traced(tmp_path / "whole", rows, **options)
    with monkeypatch.context() as patch:
        Stops(patch, 20, RuntimeError("the device is gone"))
        with pytest.raises(RuntimeError, match="the device is gone"):
            traced(tmp_path / "part", rows, **options)
    part = load_trace(tmp_path / "part", verify=True)
    assert part.status == "interrupted"
    kept = part.rows("rollouts")
    assert 0 < kept < 40
    assert part.committed_step == kept
    with pytest.raises(InterruptedRunError, match=r"unfinished trace of the same rollouts; resume it with resume"):
        traced(tmp_path / "part", rows, **options)
    counter = Stops(monkeypatch, -1, RuntimeError())
    resumed = traced(tmp_path / "part", rows, resume=True, **options)
    assert 0 < counter.calls < 40
    assert digest(resumed) == digest(whole)
    assert resumed.status == "complete"
    counter.calls = 0
    assert digest(traced(tmp_path / "part", rows, **options)) == digest(whole)  # complete: nothing is traced
    assert counter.calls == 0


def test_stop_requests_end_after_the_batch_and_keep_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os
    import signal

    hidden, calls = forward.response_hidden, []

    def interrupted(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 20:
            os.kill(os.getpid(), signal.SIGINT)
        return hidden(*arguments)

    monkeypatch.setattr(forward, "response_hidden", interrupted)
    rows = rows_of(40)
    with pytest.raises(
        KeyboardInterrupt, match=r"stopped after \d+ of 40 rollouts; resume with the same command and --resume"
    ):
        traced(tmp_path / "a", rows, batch_tokens=20)
    run = load_trace(tmp_path / "a", verify=True)
    assert run.status == "interrupted"
    assert 0 < run.rows("rollouts") < 40
    assert len(calls) <= 21  # the shortest row of the first batch goes through alone, too
    assert digest(traced(tmp_path / "a", rows, batch_tokens=20, resume=True)) == digest(
        traced(tmp_path / "b", rows, batch_tokens=20)
    )


def test_a_second_stop_request_does_not_wait_for_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os
    import signal

    def twice(*arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("it went on")

    monkeypatch.setattr(forward, "response_hidden", twice)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        traced(tmp_path)
    assert load_trace(tmp_path).status == "interrupted"
    assert signal.getsignal(signal.SIGINT) is before


def test_out_of_memory_halves_the_batch_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = rows_of(24)
    whole = traced(tmp_path / "whole", rows)
    hidden, tried = forward.response_hidden, []

    def small(backbone: Any, prompts: Any, responses: Any, device: Any) -> Any:
        lengths = [len(p) + len(r) - 1 for p, r in zip(prompts, responses, strict=True)]
        tried.append(len(lengths) * max(lengths))
        if tried[-1] > 120:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return hidden(backbone, prompts, responses, device)

    monkeypatch.setattr(forward, "response_hidden", small)
    run = traced(tmp_path / "small", rows, quiet=False)
    said = [line for line in capsys.readouterr().err.splitlines() if "out of memory" in line]
    failed = [size for size in tried if size > 120]
    assert said == [f"out of memory with a batch of {n:,} tokens; continuing with {n // 2:,}" for n in failed]
    assert failed == tried[: len(failed)]  # what comes later has the smaller budget
    assert all(later <= earlier // 2 for earlier, later in zip(failed, tried[1:], strict=False))
    assert max(tried[len(failed) :]) > 60
    assert run.rows("tokens") == whole.rows("tokens")
    np.testing.assert_allclose(run.table("tokens")["log_prob"], whole.table("tokens")["log_prob"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:12] CPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
        ),
    ],
)
def test_out_of_memory_with_one_rollout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    monkeypatch.setattr(rounds, "_COMMIT_SECONDS", 0.0)
    hidden = forward.response_hidden

    def none_longer(backbone: Any, prompts: Any, responses: Any, device: Any) -> Any:
        if any(len(r) == 40 for r in responses):
            raise error
        return hidden(backbone, prompts, responses, device)

    monkeypatch.setattr(forward, "response_hidden", none_longer)
    rows = [*rows_of(24), {"prompt": "1 :", "response": "2 " * 40, "reward": 0.0}]
    with pytest.raises(UsageError, match=r"out of memory with a single rollout of 41 tokens \(rollout 24\)"):
        traced(tmp_path, rows, batch_tokens=20)
    assert load_trace(tmp_path).rows("rollouts") > 0


class TestVerdicts:
    ROWS = ({"prompt": "1 + 2 :", "response": "3", "gts": "3"}, {"prompt": "1 + 2 :", "response": "4", "gts": "3"})

    def test_a_named_verifier_gives_the_rewards(self, tmp_path: Path) -> None:
        run = traced(tmp_path, list(self.ROWS), verifier="exact")
        rollouts = run.table("rollouts")
        assert rollouts["reward"].tolist() == [1.0, 0.0]
        assert rollouts["verdict"].tolist() == ["correct", "wrong answer"]
        assert run.info["verifier"] == {"name": "exact"}
        assert run.table("prompts")["answer"].tolist() == ["3"]

    def test_of_token_ids_it_sees_the_text_and_whether_they_end(self, tmp_path: Path) -> None:
        rows = [{"prompt": "1 + 2 :", "response_ids": ids, "answer": "3"} for ids in ([9, 1], [9])]
        rollouts = traced(tmp_path, rows, verifier="exact").table("rollouts")
        assert rollouts["verdict"].tolist() == ["correct", "not finished: no end token"]

    def test_a_function_of_ones_own_and_its_source(self, tmp_path: Path) -> None:
        source = tmp_path / "rule.py"
        rule = "    return int(response) > int(answer) and prompt[0] == '1'\n"
        source.write_text("def score(prompt, response, answer):\n" + rule)
        run = traced(tmp_path / "a", list(self.ROWS), verifier=f"{source}:score")
        assert run.table("rollouts")["reward"].tolist() == [0.0, 1.0]
        assert len(run.info["verifier"]["sha256"]) == 64
        source.write_text("def score(prompt, response, answer):\n    raise KeyError(answer)\n")
        with pytest.raises(UsageError, match=r"verifier .*rule.py:score failed with KeyError: '3'; prompt '1 \+ 2 :'"):
            traced(tmp_path / "b", list(self.ROWS), verifier=f"{source}:score")
        with pytest.raises(UsageError, match=r"verifier: expected one of exact, math, got 'exakt'"):
            traced(tmp_path / "c", list(self.ROWS), verifier="exakt")

    def test_math_verify_with_its_versions(self, tmp_path: Path) -> None:
        rows = [{"prompt": "1 + 2 :", "response": text, "answer": "3"} for text in ("3", "4")]
        run = traced(tmp_path, rows, verifier="math")
        assert run.table("rollouts")["correct"].tolist() == [True, False]
        assert run.info["verifier"]["versions"]["math-verify"]

    def test_threshold(self, tmp_path: Path) -> None:
        rows = [{"prompt": "1 :", "response": "3", "reward": r} for r in (-1.0, 1.0, 0.0)]
        rollouts = traced(tmp_path / "a", rows, threshold=0.0).table("rollouts")
        assert rollouts["reward"].tolist() == [0.0, 1.0, 0.0]
        assert rollouts["correct"].tolist() == [False, True, False]
        assert rollouts["verdict"].tolist()[0] == "reward -1 in the file"
        raw = traced(tmp_path / "b", rows).table("rollouts")
        assert raw["reward"].tolist() == [-1.0, 1.0, 0.0]
        assert raw["correct"].isna().tolist() == [True, False, False]


class TestInputsOfObjectives:
    """Refused before anything is traced, with the column that would help."""

    @pytest.mark.parametrize(
        ("change", "objective", "message"),
        [
            ({"reward": None}, "nsr-log", r"nsr-log needs rewards, and rollouts has no column for them; map one with"),
            (
                {"advantage": 0.5, "reward": None},
                "nsr-log",
                r"advantages alone are enough for objectives that normalise",
            ),
            ({}, "nsr-ratio", r"nsr-ratio needs old log-probs, and rollouts has no column for them; .*say on_policy"),
            (
                {"reward": -1.0},
                "nsr-log",
                r"nsr-log is defined for rewards 0 and 1, and rollouts has others .*; give a",
            ),
            (
                {"group": None},
                "grpo,form=log",
                r"grpo,form=log compares the responses of a group, and 12 of 12 groups in "
                r"rollouts have one response only; map the column that tells groups apart",
            ),
            ({}, "entropy-bonus", r"entropy-bonus is a regulariser, which a trace of recorded rollouts does not have"),
            ({}, "high-entropy", r"high-entropy chooses tokens over a minibatch, which a trace of recorded rollouts"),
            ({}, "remax", r"remax subtracts the reward of each prompt's greedy response, which a trace of recorded"),
            ({}, "gdpo", r"gdpo normalises several rewards of each response apart, which a trace of recorded"),
            ({}, "kto", r"kto refers to a reference policy, which a trace of recorded rollouts does not have"),
            ({}, "orpo", r"orpo compares pairs of responses, which a trace of recorded rollouts does not have"),
            ({}, "pass-at-k,k=99,form=log", r"pass-at-k takes 99 of the responses .*; rollouts has groups of \d"),
            ({}, "pass-at-k-full,k=3,form=log", r"pass-at-k-full compares sets of 3 .*; rollouts has groups of \d"),
            ({}, "nsr-lgo", r"objective.name: unknown value 'nsr-lgo'; did you mean nsr-log"),
        ],
    )
    def test_missing(self, tmp_path: Path, change: Any, objective: str, message: str) -> None:
        rows = [
            {
                name: i if value is None and name == "group" else value
                for name, value in (row | change).items()
                if value is not None or name == "group"
            }
            for i, row in enumerate(rows_of())
        ]
        with pytest.raises(UsageError, match=message):
            traced(tmp_path / "a", rows, objectives=[objective])
        assert not (tmp_path / "a").exists()

    def test_there(self, tmp_path: Path) -> None:
        rows = [
            row | {"advantage": 0.5 - i % 2, "old_log_probs": [-1.0] * len(row["response"].split())}
            for i, row in enumerate(rows_of())
        ]
        run = traced(tmp_path / "a", rows, objectives=["nsr-ratio", "grpo"])
        tokens = run.table("tokens")
        np.testing.assert_allclose(tokens["ratio"], np.exp(tokens["log_prob"].astype(float) + 1), rtol=1e-5)
        for row in rows:
            del row["reward"]
        run = traced(tmp_path / "b", rows, objectives=["grpo,form=log"])
        assert sorted(set(run.laws(parse_objective("grpo,form=log"))["weight"])) == [-0.5, 0.5]
        data = TraceData.of(run)
        assert data.tokens["sign"].tolist() == np.sign(data.tokens["advantage"]).tolist()


class TestModels:
    def test_a_head_that_is_not_supported(self, tmp_path: Path) -> None:
        import transformers as hf

        config = hf.BertConfig(
            vocab_size=VOCAB,
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            is_decoder=True,
        )
        with pytest.raises(UsageError, match=r"model: .*Bert.*supported is a decoder-only causal LM"):
            traced(tmp_path / "a", model=hf.BertLMHeadModel(config).eval())
        assert not (tmp_path / "a").exists()

    def test_logits_that_are_not_what_the_head_says(self, tmp_path: Path) -> None:
        model = make_model()
        model.lm_head.register_forward_hook(lambda module, inputs, output: 2 * output)
        with pytest.raises(
            UsageError, match=r"expected the logits of Qwen3ForCausalLM.lm_head.*, got some that differ by up to"
        ):
            traced(tmp_path, model=model)

    def test_logits_that_are_no_numbers(self, tmp_path: Path) -> None:
        model = make_model()
        model.model.embed_tokens.weight.data[VOCAB - 1] = float("nan")  # of the word 22
        rows = [{"prompt": "1 :", "response": text, "reward": 1} for text in ("2", "3 4", "22 5 6")]
        with pytest.raises(UsageError, match=r"expected finite numbers.*\(in rollout 2 and 2 others\)"):
            traced(tmp_path, rows, model)


class TestFolders:
    def test_what_is_refused(self, tmp_path: Path) -> None:
        rows = rows_of()
        traced(tmp_path / "a", rows)
        for change, part in (
            ({"temperature": 0.5}, r"setting temperature \(1.0 then, 0.5 now\)"),
            ({"model": make_model(scale=0.3)}, "weights"),
            ({"rows": rows_of(seed=1)}, "content of the rollouts; rollouts as they were read"),
        ):
            with pytest.raises(UsageError, match=rf"holds a trace of something else .*what differs: {part}\. Choose"):
                traced(tmp_path / "a", **({"rows": rows} | change))
        (tmp_path / "a" / "notes.txt").write_text("mine")
        other = traced(tmp_path / "a", rows, temperature=0.5, force=True)
        assert other.info["temperature"] == 0.5
        assert (tmp_path / "a" / "notes.txt").read_text() == "mine"
        assert len(read_commits(other.folder)) == 1
        (tmp_path / "b").mkdir()
        (tmp_path / "b" / "thesis.tex").write_text("")
        with pytest.raises(UsageError, match=r"holds something that is not a trace \(thesis.tex\)"):
            traced(tmp_path / "b", rows, force=True)
        (tmp_path / "c").mkdir()
        (tmp_path / "c" / "experiment.json").write_text("{}")
        with pytest.raises(UsageError, match=r"holds an experiment; choose another folder"):
            traced(tmp_path / "c", rows, force=True)
        shutil.copytree(tmp_path / "a", tmp_path / "d")
        text = (tmp_path / "d" / "run.json").read_text().replace('"engine": "offline"', '"engine": "small"')
        (tmp_path / "d" / "run.json").write_text(text)
        with pytest.raises(UsageError, match=r"holds a run of the engine small"):
            traced(tmp_path / "d", rows, force=True)
        with pytest.raises(UsageError, match=r"batch_tokens: expected at least 1, got 0"):
            traced(tmp_path / "e", rows, batch_tokens=0)

    def test_killed_before_run_json_was_written(self, tmp_path: Path) -> None:
        for name in ("tokens", "commits", ".lock", "run.json.tmp"):
            (tmp_path / name).mkdir() if "." not in name else (tmp_path / name).write_text("")
        assert traced(tmp_path).status == "complete"

    def test_two_at_a_time(self, tmp_path: Path) -> None:
        from filelock import FileLock

        (tmp_path / "a").mkdir()
        lock = FileLock(tmp_path / "a" / ".lock")
        with lock, pytest.raises(UsageError, match=r"another process is writing to .*a; wait for it"):
            traced(tmp_path / "a")

    def test_skipped_rows_are_counted_in_run_json(self, tmp_path: Path) -> None:
        rows = [*rows_of(4), '{"prompt"', {"prompt": "1 :", "response": "1 " * 70, "reward": 1}]
        run = traced(tmp_path / "a", write_jsonl(tmp_path / "a.jsonl", rows), skip_bad=True)
        assert run.rows("rollouts") == 4
        assert run.info["trace"]["skipped"] == {"broken line": 1, "tokens that the model cannot take": 1}
        assert "line 5" in run.info["trace"]["skipped_examples"][0]

    def test_the_model_is_left_as_it_was(self, tmp_path: Path) -> None:
        model = make_model().train()
        traced(tmp_path, model=model)
        assert model.training
        assert all(p.requires_grad and p.grad is None for p in model.parameters())


class TestWhatIsRecorded:
    def test_core_columns_are_those_of_full_without_ranks_buckets_and_top_tokens(self, tmp_path: Path) -> None:
        full, core = (traced(tmp_path / name, record_columns=name) for name in ("full", "core"))
        every, few = full.table("tokens"), core.table("tokens")
        gone = ["token_rank", "bucket_mass", "bucket_mass_sq", "top_ids", "top_probs"]
        assert few[gone].isna().all(axis=None)
        assert not every[gone].isna().any(axis=None)
        assert few["argmax_token"].tolist() == every["argmax_token"].tolist()
        for name in ("log_prob", "one_minus_prob", "entropy", "collision", "collision_log_prob", "direction_norm"):
            np.testing.assert_allclose(few[name], every[name], rtol=2e-5, atol=1e-7, err_msg=name)
        assert core.info["record"] == {"tokens": 1.0, "columns": "core", "top_k": 0}

    def test_tokens_of_some_prompts(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        rows = rows_of(80)
        whole, some = traced(tmp_path / "a", rows), traced(tmp_path / "b", rows, record_tokens=0.25)
        assert some.table("rollouts").equals(whole.table("rollouts"))
        drawn = set(some.table("tokens")["rollout"])
        groups = some.table("rollouts").groupby("group")["rollout"].agg(set)
        assert all(group <= drawn or not group & drawn for group in groups)
        assert 0 < sum(group <= drawn for group in groups) < len(groups) / 2
        all_tokens, few = whole.table("tokens"), some.table("tokens")
        expected = all_tokens[all_tokens["rollout"].isin(drawn)]
        assert few[["rollout", "position", "token"]].to_numpy().tolist() == (
            expected[["rollout", "position", "token"]].to_numpy().tolist()
        )
        np.testing.assert_allclose(few["log_prob"], expected["log_prob"], rtol=2e-5, atol=1e-6)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"record_columns": "most"}, r"record_columns: expected one of full, core, got 'most'"),
            ({"record_tokens": 0.0}, r"record_tokens: expected a fraction above 0 and at most 1, got 0.0"),
        ],
    )
    def test_what_is_refused(self, tmp_path: Path, options: dict[str, Any], message: str) -> None:
        with pytest.raises(UsageError, match=message):
            traced(tmp_path / "a", **options)
        assert not (tmp_path / "a").exists()
