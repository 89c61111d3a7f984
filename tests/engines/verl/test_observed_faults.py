"""What the observing engine refuses, what an error of recording does to training, and verl's other losses."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import analysis

from .test_observed_weights import run_program

pytestmark = pytest.mark.slow  # processes that import verl
KEY = "actor_rollout_ref.actor.fsdp_config"


def told_by(mode: str, folder: Path) -> dict[str, Any]:
    finished = run_program(mode, str(folder))
    assert finished.returncode == 0, finished.stderr[-3000:]
    told: dict[str, Any] = json.loads((folder / "told.json").read_text())
    return told


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return told_by("refusals", tmp_path_factory.mktemp("refusals"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no out", f"{KEY}.record.out: expected a folder that all nodes share, got None; add"),
        ("config", f"{KEY}.record.out: expected a folder that all nodes share, got None; add"),
        ("unknown key", f"{KEY}.record: expected the keys out, tokens, .*, got token; remove it"),
        ("tokens", f"{KEY}.record.tokens: expected a fraction above 0 and at most 1, got 'all'"),
        ("fraction", "record.tokens: expected a fraction above 0 and at most 1, got 2"),
        ("chunk", "record.chunk: expected a whole number from 1, got 0"),
        ("correct", f"{KEY}.record.correct: expected a finite number, got 'yes'; a reward above it"),
        ("on_error", f"{KEY}.record.on_error: expected one of stop, warn, got 'ignore'"),
        ("label", f"{KEY}.record.label: expected a text, got 3; it names the method"),
        ("no record", f"{KEY}: expected an ObservedEngineConfig, .* got a FSDPEngineConfig; set"),
        ("ulysses", f"{KEY}.ulysses_sequence_parallel_size: expected 1, got 2; a rank then holds parts"),
        ("fused LoRA", "actor_rollout_ref.model.use_fused_kernels: expected False with LoRA, got True"),
        ("critic", "critic.fsdp._target_: expected verl's FSDPEngineConfig, got an ObservedEngineConfig; value models"),
        ("of TRL", f"{KEY}.record.out: expected a new folder, got .*, which holds a run of trl; choose another"),
        ("second", "engine: expected one engine that is observed in a process, got a second"),
        ("distillation", "distillation: expected a loss of the policy's own log-probs, got distillation"),
        ("no uid", "trainer: expected rows with a uid, as verl's V1 trainer makes them"),
        ("infinite reward", "rewards: expected finite numbers, got inf for row 0"),
        ("pieces", "engine: expected whole logits on each rank, got logits that are cut along the vocabulary"),
        ("loss of entropies", "trainer: expected a gradient through the log-probs of each micro batch, got a backward"),
        ("loss apart", "self-check: expected the recorded weights of update 0 within 1e-04 .* got a distance of 0.01"),
    ],
)
def test_each_unsupported_setting_is_one_message(name: str, message: str, refused: dict[str, Any]) -> None:
    assert re.match(f"UsageError: {message}", refused[name]), refused[name]


def test_a_reference_model_has_an_engine_that_records_nothing(refused: dict[str, Any]) -> None:
    assert refused["reference"] == ""


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("faults")
    return folder, told_by("faults", folder)


def test_an_error_of_recording_stops_training_before_its_update(broken: tuple[Path, dict[str, Any]]) -> None:
    folder, told = broken
    assert told["stop"] == "ValueError: planted"
    run = analysis.load_trace(folder / "stop", verify=True)
    assert run.status == "interrupted"
    assert run.table("updates")["update"].tolist() == [0, 1]


def test_with_warn_training_goes_on_and_recording_ends(broken: tuple[Path, dict[str, Any]]) -> None:
    folder, told = broken
    assert told["warn"] == ""
    (warned,) = told["warn warned"]
    assert warned == "analysis.engines.verl: recording ends at update 2, training goes on: planted"
    assert [log["loss"] for log in told["logs"]] == told["healthy"][1:]
    run = analysis.load_trace(folder / "warn", verify=True)
    assert run.status == "interrupted"
    assert run.table("updates")["update"].tolist() == [0, 1]


def test_a_full_disk_ends_training_and_leaves_what_was_committed(broken: tuple[Path, dict[str, Any]]) -> None:
    folder, told = broken
    assert "No space left on device" in told["full stop"]
    assert analysis.load_trace(folder / "full-stop", verify=True).table("updates")["update"].tolist() == [0, 1]


def test_with_warn_the_next_commit_has_what_a_full_disk_kept_back(broken: tuple[Path, dict[str, Any]]) -> None:
    folder, told = broken
    assert told["full warn"] == ""
    assert "could not write a commit; the next one will have it" in told["full warn warned"][0]
    run = analysis.load_trace(folder / "full-warn", verify=True)
    assert run.table("updates")["update"].tolist() == list(range(6))
    assert run.status == "complete"


def test_every_loss_is_recorded_and_checked_against_float64(tmp_path: Path) -> None:
    told = told_by("losses", tmp_path)
    assert not {name: message for name, message in told.items() if message}
    known = {"vanilla", "gspo", "cispo", "gpg", "psr_ratio", "grpo"}
    for name in told:
        run = analysis.load_trace(tmp_path / name, verify=True)
        tokens, updates = run.table("tokens"), run.table("updates")
        assert tokens["clip"].notna().all() == (name in known), name
        assert tokens["weight"].notna().all()
        assert updates["normalizer"].notna().all() == (name != "geo_mean"), name
        if name in ("vanilla", "gspo", "grpo"):  # a clipped token has no gradient, and no other is without
            assert ((tokens["clip"] != 0) == (tokens["weight"] == 0)).all(), name
            assert name != "vanilla" or (tokens["clip"] != 0).any()
        if name == "psr_ratio":
            assert not (tokens["clip"] != 0).any()
