"""Gradient noise in a run: what is recorded is the measurement of the policy as it is, and it disturbs nothing."""

from __future__ import annotations

import itertools

import pandas as pd
import pytest
import torch

from analysis.common.randomness import Streams
from analysis.errors import UsageError
from analysis.gradient_noise import gradient_noise, standard_estimators
from analysis.recipes import Recipe
from analysis.recipes.config import config_from_dict
from analysis.records import digest, load_trace
from analysis.training.loop import train
from analysis.training.noise_rows import check_enumerable
from toy_models import get_task, load_policy

MEASURED = {"record.noise_every": 2, "record.noise_prompts": 5, "record.noise_replicates": 3}


def tiny(**changes):
    settings = {
        "steps": 3,
        "eval.prompts": 4,
        "eval.final_prompts": 4,
        "record.chunk": 1,
        "rollout.prompts": 8,
        "record.contexts": 0,
        "record.jvp_every": 0,
        **changes,
    }
    return next(run.config for run in Recipe.load("tiny").set(**settings).expand() if run.label == "NSR")


def go(folder, config, **options):
    assert train(config, folder, run_id="r", label="L", **options) == "complete"
    return load_trace(folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return go(tmp_path_factory.mktemp("noise") / "run", tiny(**MEASURED))


@pytest.mark.slow
def test_the_base_every_second_step_and_the_end_are_measured(run):
    table = run.table("noise")
    assert list(table.step.unique()) == [0, 2, 3]
    assert list(table.estimator[:5]) == ["PSR", "NSR", "W-REINFORCE", "REINFORCE", "GRPO"]
    assert list(table["update"].unique()) == [0, 4, 6]
    assert set(run.table("timings").query("phase == 'noise'").step) == {0, 2, 3}


@pytest.mark.slow
def test_rows_are_those_of_the_measurement(run):
    config = tiny(**MEASURED)
    policy = load_policy("tiny")
    task = get_task("path-small", policy.tokenizer)
    frame = gradient_noise(
        policy,
        task,
        task.prompts("validation")[:5],
        generator=Streams(0)["gradient_noise"],
        group_size=config.rollout.group_size,
        replicates=3,
        estimators=standard_estimators(config.rollout.group_size, 0.1),
    ).frame()
    stored = run.table("noise").query("step == 0").drop(columns=["step", "update"]).reset_index(drop=True)
    assert list(stored) == list(frame)
    pd.testing.assert_frame_equal(stored, frame, check_dtype=False, rtol=1e-12)
    assert stored.expected.isna().sum() == 1


@pytest.mark.slow
def test_measuring_changes_nothing_else(run, tmp_path):
    plain = go(tmp_path / "plain", tiny())
    assert plain.rows("noise") == 0
    for name in ("rollouts", "tokens", "updates", "steps", "evals"):
        pd.testing.assert_frame_equal(plain.table(name), run.table(name))
    a, b = (load_policy(str(one.folder / "checkpoints" / "final")).model.state_dict() for one in (plain, run))
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.slow
def test_resumed_run_measures_the_same(run, tmp_path):
    asked = itertools.count(1)
    stopped = train(tiny(**MEASURED), tmp_path / "run", run_id="r", label="L", should_stop=lambda: next(asked) >= 2)
    assert stopped == "interrupted"
    assert digest(go(tmp_path / "run", tiny(**MEASURED), resume=True).folder) == digest(run.folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"rollout.top_p": 0.6},
        {"rollout.top_k": 3},
        {"rollout.dtype": "bfloat16"},
        {"rollout.temperature": 0.7},
        {"rollout.max_new_tokens": 5},
    ],
)
def test_rollouts_are_drawn_as_the_run_draws_them(run, tmp_path, changes):
    """The same uniforms under another law, from another model or cut off: another measurement."""
    table = go(tmp_path / "run", tiny(**MEASURED, **changes, steps=0)).table("noise")
    assert (table.projection - run.table("noise").query("step == 0").projection).abs().max() > 1e-4
    assert table.temperature.eq(changes.get("rollout.temperature", 1.0)).all()


@pytest.mark.slow
def test_lambda_of_the_run_is_that_of_the_measurement(tmp_path):
    changes = {"objective.name": "w-reinforce", "objective.lambda": 0.5, "update.rows": "keep", "grid": "unset"}
    config = Recipe.load("tiny").set(**{**MEASURED, **changes, "steps": 0}).expand()[0].config
    table = go(tmp_path / "run", config).table("noise").set_index("estimator")
    assert table.expected["W-REINFORCE"] == 1.5


def test_tasks_without_a_list_of_solutions_are_refused():
    task = get_task("path-small")
    prompts = task.prompts("validation")[:2]
    check_enumerable(task, prompts)
    task.solutions = lambda ids: None
    with pytest.raises(
        UsageError, match=r"record.noise_every: expected a task that lists .*, got path-small, which does not"
    ):
        check_enumerable(task, prompts)


@pytest.mark.slow
def test_more_prompts_than_the_task_has_are_refused(tmp_path):
    with pytest.raises(
        UsageError, match=r"record.noise_prompts: expected at most \d+, .* of task path-small, got 9999"
    ):
        go(tmp_path / "run", tiny(**{**MEASURED, "record.noise_prompts": 9999}))


@pytest.mark.parametrize("field", ["noise_prompts", "noise_replicates"])
def test_settings_of_a_measurement_that_is_off_are_refused(field):
    with pytest.raises(UsageError, match=r"record.noise_prompts or record.noise_replicates with record.noise_every"):
        Recipe.load("tiny").set(**{f"record.{field}": 9}).expand()


def test_too_few_replicates_are_refused():
    with pytest.raises(UsageError, match=r"record.noise_replicates: expected an integer ≥ 3, got 2"):
        config_from_dict({"record.noise_replicates": 2})
