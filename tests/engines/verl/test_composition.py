"""`compose` gives what verl's own command composes, and its errors say what to change."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from analysis.engines.verl.configuration.composition import compose, expanded
from analysis.errors import UsageError


def test_the_configuration_is_that_of_verls_command(tmp_path: Path) -> None:
    overrides = ["algorithm.adv_estimator=grpo", "+algorithm.rlvr_lambda=0.1", "trainer.logger=[console]"]
    command = [sys.executable, "-m", "verl.trainer.main_ppo", *overrides, "--cfg", "job"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    assert compose(overrides) == OmegaConf.create(printed)


def test_a_folder_of_ones_own_configurations(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("defaults:\n- ppo_trainer\n- _self_\nalgorithm:\n  adv_estimator: psr\n")
    config = compose(["data.train_batch_size=64"], config_dir=tmp_path, config_name="mine")
    assert (config.algorithm.adv_estimator, config.data.train_batch_size) == ("psr", 64)
    with pytest.raises(UsageError, match=r"expected a folder with mine\.yaml"):
        compose(config_dir=tmp_path / "none", config_name="mine")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("algorithm.rlvr_lambda=0.1", r"rlvr_lambda.*\+algorithm\.rlvr_lambda=0\.1"),
        ("algorithm.adv_estimator", "algorithm.adv_estimator"),
        ("trainer.logger=[console", "trainer.logger"),
    ],
)
def test_what_hydra_refuses_is_one_message(override: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        compose([override])
    assert "\n" not in str(caught.value)


def test_files_of_overrides(tmp_path: Path) -> None:
    (tmp_path / "settings").mkdir()
    (tmp_path / "settings" / "base.txt").write_text("# shared\n\ntrainer.nnodes=2\ndata.seed=1\n@more.txt\n")
    (tmp_path / "settings" / "more.txt").write_text("  +algorithm.rlvr_lambda=0.1  \n")
    (tmp_path / "run.txt").write_text("@settings/base.txt\ndata.seed=2\n")
    assert expanded(["@run.txt", "trainer.nnodes=3"], tmp_path) == [
        "trainer.nnodes=2",
        "data.seed=1",
        "+algorithm.rlvr_lambda=0.1",
        "data.seed=2",
        "trainer.nnodes=3",
    ]
    config = compose([f"@{tmp_path}/run.txt", "trainer.nnodes=3"])
    assert (config.trainer.nnodes, config.data.seed, config.algorithm.rlvr_lambda) == (3, 2, 0.1)


def test_a_file_that_cannot_be_read_or_names_itself(tmp_path: Path) -> None:
    (tmp_path / "round.txt").write_text("@round.txt\n")
    with pytest.raises(UsageError, match="do not name themselves"):
        compose([f"@{tmp_path}/round.txt"])
    with pytest.raises(UsageError, match=r"@none\.txt: expected a text file with one override on each line"):
        compose(["@none.txt"])
