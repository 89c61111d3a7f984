"""Faults planted into real records: a loop under `attach`, a trace of rollouts, a trainer of TRL, a training run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import analysis
from analysis.diagnosis import CHECKS
from analysis.offline import trace_rollouts
from analysis.records import Run
from tests.offline.small import WORDS, dense_logits, make_model, make_tokenizer
from tests.probes.causal_lms import small_lm
from tests.probes.loops import batch, token_log_probs

GROUPS, SIZE = 6, 4


def _attached(folder: Path, *, own_length: bool = False, reward: float | None = None) -> Run:
    """Three updates of a small model on random responses of 2 to 16 tokens, by group-relative advantages."""
    model = small_lm("llama", dtype=torch.float64)
    rng = np.random.default_rng(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with analysis.attach(model, out=folder, record=analysis.RecordSpec(tokens=1.0)) as trace:
        for _ in range(3):
            prompts = [[4 + group, 5, 6] for group in range(GROUPS) for _ in range(SIZE)]
            responses = [rng.integers(3, 37, rng.integers(2, 17)).tolist() for _ in prompts]
            rewards = (
                (rng.random(len(prompts)) < 0.5).astype(float) if reward is None else np.full(len(prompts), reward)
            )
            advantages = (rewards.reshape(GROUPS, SIZE) - rewards.reshape(GROUPS, SIZE).mean(1, keepdims=True)).ravel()
            inputs = batch(prompts, responses)
            labels = inputs.pop("labels")
            trace.batch(labels=labels)
            rows = token_log_probs(model(**inputs).logits, labels)
            total = sum(len(row) for row in rows)
            divisors = [len(row) * len(rows) if own_length else total for row in rows]
            loss = -sum(a * row.sum() / n for a, row, n in zip(advantages, rows, divisors, strict=True))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            trace.step(rewards=rewards.tolist(), advantages=advantages.tolist())
    run = analysis.load_trace(folder)
    assert isinstance(run, Run)
    return run


def test_a_loop_that_divides_by_the_length_is_named(tmp_path: Path) -> None:
    plain = _attached(tmp_path / "plain").diagnose()["normaliser"]
    own = _attached(tmp_path / "own", own_length=True).diagnose()["normaliser"]
    assert (plain.severity, own.severity) == ("fine", "alarm")
    assert plain.value == pytest.approx(0.0, abs=1e-3)
    assert own.value == pytest.approx(-1.0, abs=1e-3)


def test_a_loop_whose_verifier_says_no(tmp_path: Path) -> None:
    diagnosis = _attached(tmp_path / "run", reward=0.0).diagnose()
    assert {finding.name for finding in diagnosis.of("alarm")} == {"verifier", "dead-groups", "skipped-updates"}
    assert not diagnosis["sign"].recorded  # no token has a weight other than 0
    assert not diagnosis["truncation"].recorded  # without a tokenizer no end token is known


def _traced(folder: Path, sampler_temperature: float) -> Run:
    """Responses sampled from a model at a temperature, with the sampler's log-probs, traced at temperature 1."""
    model, tokenizer = make_model(dtype=torch.float64), make_tokenizer()
    generator = torch.Generator().manual_seed(0)
    rows = []
    for i in range(20):
        prompt = f"{i % 10} 3 :"
        response: list[str] = []
        log_probs: list[float] = []
        for _ in range(8):
            text = " ".join([*response, "0"])
            logits, _ = dense_logits(model, tokenizer, prompt, text)
            log_q = (logits[-1] / sampler_temperature).log_softmax(-1)
            numbers = log_q.exp() * (torch.arange(len(log_q)) >= 6)  # the words before have other texts
            token = int(torch.multinomial(numbers, 1, generator=generator))
            response.append(WORDS[token])
            log_probs.append(float(log_q[token]))
        rows.append(
            {
                "prompt": prompt,
                "response": " ".join(response),
                "reward": float(i % 3 == 0),
                "old_log_probs": log_probs,
            }
        )
    return trace_rollouts(model, tokenizer, rows, out=folder)


def test_a_trace_names_the_temperature_of_its_sampler(tmp_path: Path) -> None:
    same = _traced(tmp_path / "same", 1.0).diagnose()["sampler-mismatch"]
    assert same.severity == "fine"
    assert same.value == pytest.approx(0.0, abs=1e-4)  # float32 of the records
    cold = _traced(tmp_path / "cold", 0.7).diagnose()["sampler-mismatch"]
    assert cold.severity == "alarm"
    assert 0.5 < cold.details["temperature_ratio"] < 0.9
    assert "is that of another temperature" in cold.sentence


def test_a_trace_has_shares_by_an_assumed_objective(tmp_path: Path) -> None:
    run = _traced(tmp_path / "run", 1.0)
    measured = run.diagnose()
    assert not measured["sign"].recorded
    assert "--objective NAME" in measured["sign"].sentence
    assumed = run.diagnose("reinforce-log")
    assert "by the weights that reinforce-log would give" in assumed["sign"].sentence
    laws = run.laws("reinforce-log")
    share = laws["grad_l2"][laws["weight"] < 0].sum() / laws["grad_l2"].sum()
    assert assumed["sign"].value == pytest.approx(share)
    assert not assumed["normaliser"].recorded  # which was in effect cannot be assumed


@pytest.mark.slow
def test_a_trainer_of_trl_with_a_reward_that_says_no(tmp_path: Path) -> None:
    pytest.importorskip("trl", reason="trl is not installed")
    from tests.engines.watched_runs import make_trl_trainer

    def never(completions: list[str], **_: object) -> list[float]:
        return [0.0] * len(completions)

    rewards: dict[str, Any] = {"no": {"reward": never}, "even": {}}
    for name, reward in rewards.items():
        trainer = make_trl_trainer(tmp_path / name, max_steps=4, **reward)
        analysis.watch(trainer, out=tmp_path / f"run-{name}", record=analysis.RecordSpec(tokens=1.0))
        trainer.train()
    silent, plain = (Run(tmp_path / f"run-{name}").diagnose() for name in ("no", "even"))
    assert {"verifier", "dead-groups"} <= {finding.name for finding in silent.of("alarm")}
    assert [finding.name for finding in plain.findings] == list(CHECKS)
    assert plain["verifier"].severity == "fine"
    assert plain["sign"].recorded
    assert plain["normaliser"].severity == "fine"


@pytest.mark.slow
def test_a_training_run_whose_verifier_says_no(tmp_path: Path) -> None:
    from analysis.recipes import Recipe

    settings = {"task.false_negative": 1.0, "eval.every": 2, "record.contexts": 0}
    recipe = Recipe.load("tiny").set(steps=2, **settings)
    experiment = analysis.run(recipe, out=tmp_path / "runs", workers=1, quiet=True)
    for run in experiment.runs.values():
        diagnosis = run.diagnose()
        assert diagnosis["verifier"].severity == "alarm"
        assert "The verifier rewarded no response of 128" in diagnosis["verifier"].sentence
        assert "contradict the true verdict" in diagnosis["verifier"].sentence
