"""The page of the paper's runs: its queries against pandas, its arithmetic by hand, and the files that it names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis import Run
from analysis.recipes.devices import GPUS
from docs.generators import full_scale
from docs.generators.full_scale_estimates import MODELS, hours, memory_parts, updates_table

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/how_to/full_scale_runs.md").read_text(encoding="utf-8")
SIZE = full_scale.StepSize(prompts=12, group=4, tokens=300)
BY_SIGN, BELOW, CLIPPED, TOP, HALF, LENGTHS = full_scale.QUERIES.values()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("runs") / "mine"
    rows = full_scale.write_folder(folder, SIZE, 1 / 2, steps=2)
    assert rows == 2 * 6 * 4 * 300
    return Run(folder)


@pytest.fixture(scope="module")
def tokens(run: Run) -> pd.DataFrame:
    return run.table("tokens")


def answer(run: Run, query: str) -> pd.DataFrame:
    duckdb = pytest.importorskip("duckdb", reason="duckdb is not installed (extra duckdb)")
    assert query in PAGE
    frame: pd.DataFrame = duckdb.sql(query.replace("runs/mine", str(run.folder))).df()
    return frame


def same(found: pd.DataFrame, expected: Any) -> None:
    np.testing.assert_allclose(found.to_numpy(float), np.asarray(expected, float), rtol=1e-5)  # sums of float32


def test_weights_by_sign(run: Run, tokens: pd.DataFrame) -> None:
    tokens = tokens[tokens["weight"] != 0].assign(sign=np.sign(tokens["weight"]))
    groups = tokens.groupby(["step", "sign"])
    expected = groups.agg(tokens=("weight", "size"), weight=("weight", "sum"), entropy=("entropy", "mean"))
    same(answer(run, BY_SIGN), expected.reset_index())


def test_the_squeeze_boundary(run: Run, tokens: pd.DataFrame) -> None:
    wrong = tokens[tokens["weight"] < 0]
    below = np.exp(wrong["log_prob"]) < wrong["collision"]
    expected = below.groupby(wrong["position"] // 256 * 256).agg(["size", "mean"])
    same(answer(run, BELOW), expected.reset_index())


def test_clipped_tokens(run: Run, tokens: pd.DataFrame) -> None:
    values = pd.DataFrame({"low": tokens["clip"] < 0, "high": tokens["clip"] > 0, "update": tokens["update"]})
    expected = values.groupby("update").mean()
    expected["largest"] = np.log(tokens["ratio"]).abs().groupby(tokens["update"]).max()
    assert len(expected) == 8
    same(answer(run, CLIPPED), expected.reset_index())


def test_token_ids_with_the_most_weight(run: Run, tokens: pd.DataFrame) -> None:
    size = tokens["weight"].abs().groupby(tokens["token"]).sum().sort_values(ascending=False)
    found = answer(run, TOP)
    assert len(found) == 20
    np.testing.assert_allclose(found["total"], size.head(20), rtol=1e-5)
    assert found["balance"].abs().max() <= 1 + 1e-6


def test_prompts_that_are_solved_half_the_time(run: Run, tokens: pd.DataFrame) -> None:
    rollouts = run.table("rollouts", ["step", "rollout", "prompt_id", "correct"])
    rate = rollouts.groupby(["step", "prompt_id"])["correct"].transform("mean")
    chosen = tokens.merge(rollouts[rate.between(0.375, 0.625)], on=["step", "rollout"])
    assert len(chosen)
    same(answer(run, HALF), chosen.groupby("correct")["entropy"].agg(["size", "mean"]).reset_index())


def test_all_rollouts_are_there(run: Run) -> None:
    found = answer(run, LENGTHS)
    assert found["rollouts"].tolist() == [48, 48]
    assert found["mean_length"].tolist() == [300.0, 300.0]


def test_memory_and_hours_by_hand() -> None:
    small = MODELS[0]
    parts = memory_parts(small, 8, critic=False)
    assert parts["states"] == pytest.approx(16 * 7.6156e9 / 8, rel=1e-3)  # the parameters of Qwen2.5-Math-7B
    assert parts["logits"] == 4 * 2 * 16_384 * 152_064
    assert memory_parts(small, 8, critic=True)["states"] == 2 * parts["states"]
    h200 = next(device for device in GPUS if device.name == "H200")
    passes = hours(small, h200, 8, "GRPO")["passes"]
    by_hand = 140 * 12 * 7.6156e9 * 8192 * 1650 / (8 * 0.35 * 989e12) / 3600
    assert passes == pytest.approx(by_hand, rel=1e-3)


def test_updates_of_dropped_rows() -> None:
    """The released code's numbers: 1, 2, 2, 3, 4 updates, the last one filled to 0.4, 0.2, 1, 0.8, 0.6."""
    rows = [line.split("|")[1:-1] for line in updates_table().splitlines()[2:]]
    assert [int(cells[1]) for cells in rows] == [1, 2, 2, 3, 4, 4]
    assert [float(cells[2]) for cells in rows] == [0.4, 0.2, 1.0, 0.8, 0.6, 1.0]


def test_the_files_that_the_page_names_exist() -> None:
    named = {name.rstrip(".") for name in re.findall(r"recipes/full_scale/[\w./-]+", PAGE)}
    assert len(named) > 8
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
    for name in re.findall(r"`(settings/[\w.-]+)`", PAGE):
        assert (ROOT / "recipes/full_scale" / name).exists()


def test_the_settings_of_the_estimates_are_those_of_the_recipes() -> None:
    for size, name in zip(MODELS, ("qwen2.5-math-7b", "qwen3-4b"), strict=True):
        lines = (ROOT / f"recipes/full_scale/settings/{name}.txt").read_text().splitlines()
        assert f"actor_rollout_ref.model.path={size.path}" in lines
        assert f"actor_rollout_ref.actor.ppo_max_token_len_per_gpu={size.micro_batch}" in lines
