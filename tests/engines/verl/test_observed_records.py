"""What the tables hold besides weights, several processes, resuming, metrics in verl's logs, and other losses."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

import analysis
from toy_models.tasks.task import prompt_hash

from .observed_comparison import left_by
from .observed_program import STEPS, rows_of
from .test_observed_weights import program, run_cases, run_program

pytestmark = pytest.mark.slow  # processes that import verl
KEYS = ["update", "step", "rollout", "position"]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_cases(tmp_path_factory.mktemp("records"), ["packed-warm", "kl", "epochs"])


def test_rollouts_have_the_ids_that_were_sampled_and_verl_s_rewards(watched: Path) -> None:
    run = analysis.load_trace(watched / "packed-warm" / "run", verify=True)
    rollouts = run.table("rollouts").set_index(["step", "rollout"])
    prompts = run.table("prompts").set_index("prompt_id")
    for step in range(STEPS):
        rows = [row for row in rows_of(step + 1) if not row["uid"].startswith("pad")]
        assert len(rollouts.loc[step]) == len(rows) == 12
        for number, row in enumerate(rows):
            found = rollouts.loc[step, number]
            assert list(found["response_ids"]) == row["responses"].tolist()
            assert found["prompt_id"] == prompt_hash(row["prompts"].tolist())
            assert list(prompts["token_ids"][found["prompt_id"]]) == row["prompts"].tolist()
            assert prompts["answer"][found["prompt_id"]] == row["reward_model"]["ground_truth"]
            assert found["group"] == row["index"]
            assert found["reward"] == float(row["rm_scores"].sum())
            assert found["correct"] == (found["reward"] > 0.5)
            assert found["length"] == int(row["loss_mask"].sum())
            assert found["finished"] == (row["responses"][-1] == 1)
            assert found["advantage"] == pytest.approx(float(row["advantages"][0]))
            assert not found["dropped"]
    assert run.info["engine"] == "verl"
    assert run.info["temperature"] == 0.7
    assert run.info["record"]["settings"]["loss_mode"] == "vanilla"
    assert run.status == "complete"


def test_steps_follow_from_the_rows(watched: Path) -> None:
    run = analysis.load_trace(watched / "packed-warm" / "run")
    steps = run.table("steps").set_index("step")
    assert steps.index.tolist() == list(range(STEPS))
    for step in range(STEPS):
        rows = [row for row in rows_of(step + 1) if not row["uid"].startswith("pad")]
        rewards = np.array([float(row["rm_scores"].sum()) for row in rows])
        entropy = sum(float((row["entropy"] * row["loss_mask"]).sum()) for row in rows)
        tokens = sum(int(row["loss_mask"].sum()) for row in rows)
        assert steps["n_rollouts"][step] == 12
        assert steps["n_updates"][step] == 2
        assert steps["reward_mean"][step] == rewards.mean() == steps["correct_ratio"][step]
        assert steps["entropy_own"][step] == pytest.approx(entropy / tokens, rel=1e-6)


def test_numbers_in_verl_s_logs_are_those_of_all_tokens_of_the_batch(watched: Path) -> None:
    """verl takes the plain mean of what a minibatch and a rank report; ours are reported once, for the whole batch."""
    for name in ("packed-warm", "kl"):
        run = analysis.load_trace(watched / name / "run")
        tokens, updates = run.table("tokens"), run.table("updates")
        logs = left_by(watched, name)["observed"]["logs"]
        for step in range(STEPS):
            logged = {key: np.mean(values) for key, values in logs[step].items() if key.startswith("dynamics/")}
            rows, made = tokens[tokens["step"] == step], updates[updates["step"] == step]
            weight = rows["weight"].astype(float)
            above, below = weight[weight > 0].sum(), -weight[weight < 0].sum()
            wanted = {
                "weight_pos": above / len(made),
                "weight_neg": below / len(made),
                "lambda": above / below,
                "entropy": rows["entropy"].mean(),
                "entropy_pos": rows["entropy"][rows["advantage"] > 0].mean(),
                "entropy_neg": rows["entropy"][rows["advantage"] < 0].mean(),
                "clip_low": (rows["clip"] < 0).mean(),
                "clip_high": (rows["clip"] > 0).mean(),
                "dead_groups": 0.0,
                "updates": 2.0 * (step + 1),
            }
            for key, value in wanted.items():
                assert logged[f"dynamics/{key}"] == pytest.approx(value, rel=1e-5), key
            assert {"dynamics/dentropy_pos", "dynamics/dentropy_neg", "dynamics/squeezed_neg"} <= set(logged)
            assert not [key for key in logged if "max" in key or "min" in key]


def test_readers_take_such_a_folder(watched: Path) -> None:
    from analysis.diagnosis import diagnose

    run = analysis.load_trace(watched / "packed-warm" / "run")
    assert len(diagnose(run).findings) > 10
    assert run.table("contexts").empty


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resumed")
    finished = run_program("resume", str(folder))
    assert finished.returncode == 0, finished.stderr[-3000:]
    return folder


def test_a_resumed_run_has_the_records_of_one_that_was_not_interrupted(resumed: Path) -> None:
    whole, parts = (analysis.load_trace(resumed / name, verify=True) for name in ("at-once", "run"))
    assert whole.status == parts.status == "complete"
    for table, keys in (
        ("tokens", KEYS),
        ("rollouts", ["step", "rollout"]),
        ("updates", ["update"]),
        ("steps", ["step"]),
    ):
        one, two = (r.table(table).sort_values(keys).reset_index(drop=True) for r in (whole, parts))
        assert_frame_equal(one, two)
    assert sorted(whole.table("prompts")["prompt_id"]) == sorted(parts.table("prompts")["prompt_id"])
    told = json.loads((resumed / "told.json").read_text())
    assert told["same parameters"]
    assert told["lost"] == 2  # commits, of which the second was made again
    assert told["marker"]["updates"] == 6


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("without a checkpoint", "UsageError: out: expected a new folder, got .*/run, which holds a run already"),
        ("of another run", "UsageError: record.out: expected the run run of .*, whose checkpoint this is, got at-once"),
        ("of no run", "UsageError: record.out: expected the folder of run, .* which holds no run; give the folder"),
    ],
)
def test_a_folder_that_does_not_fit_the_checkpoint_is_refused(name: str, message: str, resumed: Path) -> None:
    told = json.loads((resumed / "told.json").read_text())
    assert pd.Series([told[name]]).str.match(message).all(), told[name]


def test_two_processes_record_what_one_records(watched: Path, tmp_path: Path) -> None:
    """With fused kernels both gather the head in each micro batch, also where one of them records no token of it."""
    finished = run_program("ranks", str(tmp_path), processes=2)
    assert finished.returncode == 0, finished.stderr[-3000:]
    run_cases(tmp_path / "fused", ["fused-sampled"])
    for name in ("packed-warm", "kl", "fused-sampled"):
        folder = tmp_path / "fused" if name == "fused-sampled" else watched
        alone, both = analysis.load_trace(folder / name / "run"), analysis.load_trace(tmp_path / name, verify=True)
        assert both.status == "complete"
        one, two = (run.table("tokens").sort_values(KEYS).reset_index(drop=True) for run in (alone, both))
        assert one[[*KEYS, "token", "clip"]].equals(two[[*KEYS, "token", "clip"]])
        for column, tolerance in (("weight", 5e-7), ("log_prob", 1e-5), ("entropy", 1e-5), ("kl_weight", 5e-7)):
            assert np.nan_to_num(np.abs(one[column] - two[column])).max() < tolerance, column
        columns = ["step", "rollout", "prompt_id", "group", "reward", "correct", "length", "dropped", "advantage"]
        rollouts = [r.table("rollouts").sort_values(["step", "rollout"]).reset_index(drop=True) for r in (alone, both)]
        assert rollouts[0][columns].equals(rollouts[1][columns])
        assert set(rollouts[1]["rank"]) == {0, 1}
        assert sorted(alone.table("prompts")["prompt_id"]) == sorted(both.table("prompts")["prompt_id"])
        for table in ("updates", "steps"):
            first, second = alone.table(table), both.table(table)
            for column in first:
                values, others = first[column].to_numpy(float), second[column].to_numpy(float)
                assert np.allclose(values, others, rtol=1e-4, atol=1e-6, equal_nan=True), column
        ours = json.loads((tmp_path / f"{name}.json").read_text())[0]
        theirs = left_by(folder, name)["observed"]["logs"][STEPS - 1]
        for key in (key for key in theirs if key.startswith("dynamics/")):
            assert np.mean(ours[key]) == pytest.approx(np.mean(theirs[key]), rel=1e-4), key


def test_an_error_in_one_process_ends_both(tmp_path: Path) -> None:
    finished = run_program("ranks", str(tmp_path), "fails", processes=2)
    assert finished.returncode != 0
    told = [(tmp_path / f"rank-{rank}.txt").read_text() for rank in (0, 1)]
    assert told == ["UsageError: recording has failed in rank 1: planted", "ValueError: planted"]
    run = analysis.load_trace(tmp_path / "packed-warm", verify=True)
    assert run.table("updates")["update"].tolist() == [0, 1]
    assert run.status == "interrupted"


def test_a_process_that_dies_leaves_whole_records(tmp_path: Path) -> None:
    finished = run_program("ranks", str(tmp_path), "dies", processes=2)
    assert finished.returncode != 0
    run = analysis.load_trace(tmp_path / "packed-warm", verify=True)
    assert run.table("updates")["update"].tolist() == [0, 1]
    assert sorted(run.table("tokens")["update"].unique()) == [0, 1]
    assert run.status in ("running", "interrupted")


def test_a_slow_disk_of_one_process_delays_commits_and_tears_none(watched: Path, tmp_path: Path) -> None:
    """Read all the while, the folder holds the tokens of both processes up to some update, or nothing yet."""
    expected = analysis.load_trace(watched / "packed-warm" / "run").table("tokens").groupby("update").size()
    folder, seen = tmp_path / "packed-warm", set()
    with (tmp_path / "log.txt").open("w") as log:
        ranks = subprocess.Popen(**program("ranks", str(tmp_path), "slow", processes=2), stdout=log, stderr=log)
        while ranks.poll() is None:
            if any((folder / "commits").glob("*.json")):
                found = analysis.load_trace(folder, verify=True).table("tokens").groupby("update").size()
                assert found.equals(expected[: len(found)])
                seen.add(len(found))
            time.sleep(0.1)
    assert ranks.returncode == 0, (tmp_path / "log.txt").read_text()[-3000:]
    assert len(seen) > 1, "read only before or after training"
    assert len(analysis.load_trace(folder, verify=True).table("updates")) == len(expected)
