"""A recipe of the paper's runs trains from end to end on a CPU, with its own objective, loss, sampler and records."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import pytest

from analysis import load_trace
from analysis.engines.verl.smoke.child import Child, fault
from analysis.engines.verl.smoke.model import make_model
from analysis.engines.verl.smoke.settings import MINIBATCH_PROMPTS, PROMPTS, ROLLOUTS, Settings, overrides
from analysis.engines.verl.smoke.task import write_data

RECIPES = Path(__file__).parents[3] / "recipes" / "full_scale"
METHOD = ("algorithm.adv_estimator", "actor_rollout_ref.actor.policy_loss")  # stay those of the recipe


@pytest.mark.slow
def test_nsr_of_qwen_2_5_math_7b(tmp_path: Path) -> None:
    """With the model, the task and the sizes of the smoke run."""
    settings = Settings(out=tmp_path, method="nsr", steps=2)
    make_model(tmp_path / "model", 0)
    ray_folder = Path(tempfile.mkdtemp(prefix="rlvr-", dir="/tmp"))  # a short path for Ray's sockets
    small = overrides(settings, write_data(tmp_path / "data"), tmp_path / "model", ray_folder)
    command = ["-m", "analysis.engines.verl", "train", "--out", str(settings.records), "--tokens", "1"]
    command += [f"@{RECIPES / 'qwen2.5-math-7b_nsr.txt'}", *[line for line in small if not line.startswith(METHOD)]]
    command += ["actor_rollout_ref.model.custom_chat_template=null"]  # the small model knows no chat
    log, metrics = tmp_path / "verl.log", tmp_path / "metrics.jsonl"
    child = Child(command, log, metrics)
    try:
        status = child.wait(lambda step, row: None)
    finally:
        child.stop()
        shutil.rmtree(ray_folder, ignore_errors=True)
    assert status == 0, fault(log.read_text(errors="replace"))

    logged = [json.loads(line)["data"] for line in metrics.read_text().splitlines()]
    kept = [int(row["training/dropped_rows/kept"]) for row in logged if "training/dropped_rows/kept" in row]
    dropped = [int(row["training/dropped_rows/dropped"]) for row in logged if "training/dropped_rows/dropped" in row]
    assert [sum(pair) for pair in zip(kept, dropped, strict=True)] == [PROMPTS * ROLLOUTS] * 2
    run = load_trace(settings.records, verify=True)
    assert (run.status, run.label) == ("complete", "NSR")
    rollouts = run.table("rollouts")
    trained, left_out = (rollouts[rollouts["dropped"] == flag] for flag in (False, True))
    assert trained.groupby("step").size().tolist() == kept
    assert left_out.groupby("step").size().tolist() == dropped
    assert (set(trained["reward"]), set(left_out["reward"])) == ({0.0}, {1.0})
    assert set(trained["advantage"]) == {-1.0}
    minibatch = MINIBATCH_PROMPTS * ROLLOUTS
    assert run.table("updates").groupby("step").size().tolist() == [-(-count // minibatch) for count in kept]
    tokens = run.table("tokens")
    assert (tokens["weight"] <= 0).all()
    assert (tokens["entropy_weight"] > 0).all()  # the bonus of the released code
