"""Bad rewards, errors and interruptions under `watch`: what was recorded before is whole and readable."""

from __future__ import annotations

import errno
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import analysis
from analysis import RecordSpec, UsageError
from analysis.engines import self_check
from analysis.engines.trl import refusals
from analysis.records import writer as record_writer

from .objective_runs import even_sum
from .watched_runs import make_trl_trainer

SPEC = RecordSpec(tokens=1.0, chunk=1)


class FailsAt:
    """The usual reward, until the call number `call`, which fails in some way."""

    __name__ = "reward"

    def __init__(self, call: int, failure: Any) -> None:
        self.call, self.failure, self.calls = call, failure, 0

    def __call__(self, completion_ids: list[list[int]], **kwargs: Any) -> list[Any]:
        self.calls += 1
        if self.calls != self.call:
            return even_sum(completion_ids)
        if isinstance(self.failure, BaseException):
            raise self.failure
        return [self.failure if row == 1 else value for row, value in enumerate(even_sum(completion_ids))]


def whole(folder: Path, updates: int, status: str = "interrupted") -> Any:
    """The run in the folder, whose committed updates must be these, each with its tokens, rollouts and prompts."""
    run = analysis.load_trace(folder, verify=True)
    assert run.status == status
    assert run.table("updates")["update"].tolist() == list(range(updates))
    tokens = run.table("tokens")
    assert sorted(tokens["update"].unique()) == list(range(updates))
    rollouts = run.table("rollouts")
    keys = set(zip(rollouts["step"], rollouts["rollout"], strict=True))
    assert set(zip(tokens["step"], tokens["rollout"], strict=True)) <= keys
    assert set(rollouts["prompt_id"]) <= set(run.table("prompts")["prompt_id"])
    return run


def is_restored(trainer: Any) -> bool:
    return not any(hasattr(value, "__wrapped__") for value in vars(trainer).values())


@pytest.mark.parametrize("value", [None, float("nan")])
def test_a_missing_reward_is_recorded_as_missing(value, tmp_path):
    trainer = make_trl_trainer(tmp_path, reward=FailsAt(1, value))
    analysis.watch(trainer, out=tmp_path / "run", record=SPEC, correct=0.5)
    trainer.train()
    rollouts = whole(tmp_path / "run", 2, "complete").table("rollouts").set_index("rollout")
    assert rollouts.reward.isna().tolist() == [number == 1 for number in range(16)]
    assert rollouts.correct.isna().tolist() == [number == 1 for number in range(16)]
    assert rollouts.advantage[1] == 0
    assert np.isnan(rollouts.reward_values[1]).all()


@pytest.mark.parametrize("on_error", ["stop", "warn"])
@pytest.mark.parametrize("failure", [RuntimeError("the judge is down"), KeyboardInterrupt()])
def test_what_was_recorded_before_a_failing_reward_function_is_whole(failure, on_error, tmp_path):
    """Errors of training are never held back, whatever `on_error` says."""
    trainer = make_trl_trainer(tmp_path, reward=FailsAt(2, failure), max_steps=4)
    analysis.watch(trainer, out=tmp_path / "run", record=RecordSpec(tokens=1.0), on_error=on_error)
    with pytest.raises(type(failure)):
        trainer.train()
    whole(tmp_path / "run", 2)
    assert is_restored(trainer)


def test_an_infinite_reward_stops(tmp_path):
    trainer = make_trl_trainer(tmp_path, reward=FailsAt(2, float("inf")), max_steps=4)
    analysis.watch(trainer, out=tmp_path / "run", record=SPEC)
    with pytest.raises(
        UsageError, match=r"rewards: expected finite numbers or None, got inf from reward for comp.* 1;"
    ):
        trainer.train()
    whole(tmp_path / "run", 2)


def test_an_infinite_reward_ends_recording_where_training_is_to_go_on(tmp_path):
    trainer = make_trl_trainer(tmp_path, reward=FailsAt(2, float("inf")), max_steps=6)
    watch = analysis.watch(trainer, out=tmp_path / "run", record=SPEC, on_error="warn")
    with pytest.warns(UserWarning, match="recording ends at update 2, training goes on: rewards: expected finite"):
        trainer.train()
    assert trainer.state.global_step == 6
    assert is_restored(trainer)
    assert watch.updates == 2
    whole(tmp_path / "run", 2)


def fill_disk(monkeypatch: pytest.MonkeyPatch, commits: set[int]) -> None:
    """Let the commits of these numbers fail as on a full disk."""
    write, count = record_writer.write_durably, SimpleNamespace(commits=0)

    def failing(path: Path, data: Any) -> Any:
        if path.parent.name == "updates":
            count.commits += 1
            if count.commits in commits:
                raise OSError(errno.ENOSPC, f"cannot write {path}: No space left on device")
        return write(path, data)

    monkeypatch.setattr(record_writer, "write_durably", failing)


def test_a_full_disk_stops(tmp_path, monkeypatch):
    fill_disk(monkeypatch, {3, 4})
    trainer = make_trl_trainer(tmp_path, max_steps=6)
    analysis.watch(trainer, out=tmp_path / "run", record=SPEC)
    with (
        pytest.warns(UserWarning, match="the last commit failed"),
        pytest.raises(OSError, match=r"No space left on device; steps before 2 are safe; free some space"),
    ):
        trainer.train()
    run = analysis.load_trace(tmp_path / "run", verify=True)
    assert run.table("updates")["update"].tolist() == [0, 1]


def test_a_full_disk_that_is_freed_loses_nothing_where_training_goes_on(tmp_path, monkeypatch):
    fill_disk(monkeypatch, {2, 3})
    trainer = make_trl_trainer(tmp_path, max_steps=6)
    analysis.watch(trainer, out=tmp_path / "run", record=SPEC, on_error="warn")
    with pytest.warns(UserWarning, match=r"a commit failed .*No space left.* it is tried again at update 3"):
        trainer.train()
    whole(tmp_path / "run", 6, "complete")


def test_weights_that_differ_from_the_trainers_loss_stop_before_the_update(tmp_path):
    """A loss that also depends on log-probs behind the back of the watch: through a second tensor."""

    class Hidden(type(make_trl_trainer(tmp_path))):
        def _compute_loss(self, model, inputs):
            loss = super()._compute_loss(model, inputs)
            return loss if model is None else loss + 0.1 * self.last.sum()  # the replay has no model

        def _get_per_token_logps_and_entropies(self, *args, **kwargs):
            made = super()._get_per_token_logps_and_entropies(*args, **kwargs)
            self.last = made[0]
            return made

    trainer = make_trl_trainer(tmp_path, trainer_class=Hidden)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    analysis.watch(trainer, record=SPEC)
    with pytest.raises(UsageError, match=r"self-check: expected the recorded weights of update 0 within 1e-04"):
        trainer.train()
    assert all((before[name] == value).all() for name, value in trainer.model.state_dict().items())


@pytest.mark.parametrize("scale", [1 + 2e-4, 1 - 2e-4])
def test_the_self_check_sees_a_factor(scale, tmp_path, monkeypatch):
    check = self_check.check_weights

    def scaled(part, weights):
        part.replayed = part.replayed * scale
        return check(part, weights)

    monkeypatch.setattr("analysis.engines.trl.watch.check_weights", scaled)
    trainer = make_trl_trainer(tmp_path)
    analysis.watch(trainer)
    with pytest.raises(UsageError, match=r"got a distance of 0\.0002"):
        trainer.train()


class _NoGradient(torch.autograd.Function):
    """A kernel that gives None to what its loss does not depend on."""

    @staticmethod
    def forward(context, values):
        return values.sum() * 0

    @staticmethod
    def backward(context, gradient):
        return None


def lossy(folder, how):
    """A trainer whose loss loses what it was given: log-probs that are written over, or a gradient of None."""

    class Lossy(type(make_trl_trainer(folder))):
        def _compute_loss(self, model, inputs):
            loss = super()._compute_loss(model, inputs)
            if model is None:  # the replay
                return loss
            if how == "overwritten":
                self.last.data.fill_(-7.0)
            elif how == "none" and self.state.global_step == 1 and self._step % 2:
                loss = _NoGradient.apply(self.last)
            return loss

        def _get_per_token_logps_and_entropies(self, *args, **kwargs):
            made = super()._get_per_token_logps_and_entropies(*args, **kwargs)
            self.last = made[0]
            return made

    return make_trl_trainer(folder, trainer_class=Lossy)


def test_log_probs_that_the_loss_writes_over(tmp_path):
    records = []
    for how in ("whole", "overwritten"):
        trainer = lossy(tmp_path / how, how)
        watch = analysis.watch(trainer, record=SPEC)
        trainer.train()
        records.append(watch.records())
    for table in ("tokens", "updates"):
        pd.testing.assert_frame_equal(records[0][table], records[1][table])


def test_a_microbatch_whose_gradient_is_none_has_weight_zero(tmp_path):
    trainer = lossy(tmp_path, "none")
    watch = analysis.watch(trainer, record=SPEC)
    trainer.train()
    tokens = watch.records()["tokens"]
    second = tokens[tokens["update"] == 1]
    without = second.groupby("rollout")["weight"].apply(lambda weights: bool((weights == 0).all()))
    assert without.sum() >= 4  # the rows of that microbatch
    assert not without.all()


# -- refusals ------------------------------------------------------------------------------------------------------


def test_a_missing_hook_names_the_version(tmp_path):
    trainer = make_trl_trainer(tmp_path)
    trainer._get_per_token_logps_and_entropies = None
    with pytest.raises(
        UsageError, match=r"expected a GRPOTrainer with the methods .* got TRL [0-9.]+ without some.*analysis\.attach"
    ):
        analysis.watch(trainer)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"use_liger_loss": True}, "got Liger's, which makes none; set use_liger_loss=False"),
        ({"padding_free": True}, "got packed rows; set padding_free=False"),
        ({"packing": True}, "got packed rows"),
        ({"auto_find_batch_size": True}, "got auto_find_batch_size=True"),
    ],
)
def test_what_cannot_be_read_is_refused(setting, message, tmp_path):
    trainer = make_trl_trainer(tmp_path)
    for name, value in setting.items():
        setattr(trainer.args, name, value)
    with pytest.raises(UsageError, match=message):
        analysis.watch(trainer)
    assert is_restored(trainer)


def test_an_asynchronous_trainer_is_refused(tmp_path):
    asynchronous = pytest.importorskip("trl.experimental.async_grpo", exc_type=ImportError)  # older ones need aiohttp

    trainer = asynchronous.AsyncGRPOTrainer.__new__(asynchronous.AsyncGRPOTrainer)
    trainer.args = make_trl_trainer(tmp_path).args
    with pytest.raises(UsageError, match="got the asynchronous AsyncGRPOTrainer; attach to the model instead"):
        analysis.watch(trainer)


def test_an_untested_version_warns(tmp_path, monkeypatch):
    monkeypatch.setattr(refusals, "trl_version", lambda: "9.9.0")
    with pytest.warns(UserWarning, match=r"tested with TRL .*, got 9\.9\.0"):
        analysis.watch(make_trl_trainer(tmp_path))


def test_a_tested_version_does_not_warn(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        analysis.watch(make_trl_trainer(tmp_path))


def test_a_folder_with_a_run_is_refused(tmp_path):
    for status in ("complete", "refused"):
        trainer = make_trl_trainer(tmp_path)
        analysis.watch(trainer, out=tmp_path / "run")
        if status == "complete":
            trainer.train()
        else:
            with pytest.raises(UsageError, match=r"out: expected a new folder, got .*run, which holds a run already"):
                trainer.train()


# -- lifetimes -----------------------------------------------------------------------------------------------------


def test_a_block_ends_the_watch(tmp_path):
    trainer = make_trl_trainer(tmp_path)
    with analysis.watch(trainer, out=tmp_path / "run", record=SPEC) as watch:
        trainer.train()
        assert len(watch.records()["updates"]) == 2
    whole(tmp_path / "run", 2, "complete")
    assert is_restored(trainer)


def test_a_block_without_training_leaves_no_folder(tmp_path):
    trainer = make_trl_trainer(tmp_path)
    with analysis.watch(trainer, out=tmp_path / "run") as watch:
        pass
    assert not (tmp_path / "run").exists()
    assert is_restored(trainer)
    with pytest.raises(UsageError, match=r"watch: expected a run that has started, got one before trainer\.train"):
        watch.records()


def test_a_second_training_within_the_block_is_refused(tmp_path):
    trainer = make_trl_trainer(tmp_path)
    refused = pytest.raises(
        UsageError, match=r"watch: expected one train\(\), got a second; call analysis\.watch again"
    )
    with analysis.watch(trainer, record=SPEC):
        trainer.train()
        with refused:
            trainer.train()
    assert is_restored(trainer)


# -- resuming ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stopped_at", [6, 4])
def test_a_checkpoint_resumes_the_records(stopped_at, tmp_path):
    """Two updates to a batch, a checkpoint after update 3, in the middle of the second batch; more were recorded."""

    def trainer(steps: int) -> Any:
        return make_trl_trainer(tmp_path, max_steps=steps, save_strategy="steps", save_steps=3)

    first = trainer(stopped_at)
    analysis.watch(first, out=tmp_path / "run", record=SPEC, correct=0.5)
    first.train()
    before = whole(tmp_path / "run", stopped_at, "complete").table("tokens")
    second = trainer(6)
    watch = analysis.watch(second, out=tmp_path / "run", record=SPEC, correct=0.5)
    second.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-3"))
    run = whole(tmp_path / "run", 6, "complete")
    tokens = run.table("tokens")
    kept = before[before["update"] < 3].reset_index(drop=True)
    assert (
        tokens[tokens["update"] < 3]
        .reset_index(drop=True)
        .drop(columns="token_text")
        .equals(kept.drop(columns="token_text"))
    )
    updates, steps = run.table("updates"), run.table("steps")
    assert updates["step"].tolist() == [0, 0, 1, 2, 2, 3]  # TRL samples again when it resumes
    assert steps["step"].tolist() == [0, 1, 2, 3]
    assert steps["n_updates"].tolist() == [2, 1, 2, 1]
    assert watch.updates == 6
    rollouts = run.table("rollouts")
    assert rollouts.groupby("step").size().tolist() == [16] * 4
    assert not rollouts.duplicated(["step", "rollout"]).any()
    assert not run.table("prompts").duplicated("prompt_id").any()


def test_a_checkpoint_without_a_commit_is_refused(tmp_path):
    trainer = make_trl_trainer(tmp_path, max_steps=4, save_strategy="steps", save_steps=2)
    trainer.train()
    again = make_trl_trainer(tmp_path, max_steps=6)
    analysis.watch(again, out=tmp_path / "run")
    with pytest.raises(UsageError, match=r"resume: expected the folder of a run with 2 steps, got .*run, which holds"):
        again.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-2"))
