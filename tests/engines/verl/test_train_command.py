"""`python -m analysis.engines.verl`: what `train` adds, prints, runs and says at its end, and what `check` says."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from omegaconf import OmegaConf
from ray.exceptions import RayTaskError
from verl.trainer import main_ppo

from analysis.engines.verl.__main__ import main
from analysis.engines.verl.configuration.composition import compose
from analysis.engines.verl.configuration.launch import observing_overrides, plain_command
from analysis.engines.verl.configuration.loading import VENDOR_KEY
from analysis.errors import UsageError
from analysis.records import RunWriter

ACTOR = "actor_rollout_ref.actor"
LIBRARY = "actor_rollout_ref.model.external_lib=analysis.engines.verl"


@pytest.fixture
def settings(tmp_path: Path) -> list[str]:
    """A configuration that can train on this machine, as far as files go."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    pq.write_table(pa.table({"prompt": ["a"] * 20}), tmp_path / "train.parquet")
    return [
        f"data.train_files={tmp_path}/train.parquet",
        f"data.val_files={tmp_path}/train.parquet",
        "data.train_batch_size=8",
        f"{ACTOR}.ppo_mini_batch_size=4",
        "actor_rollout_ref.rollout.n=4",
        f"actor_rollout_ref.model.path={tmp_path}/model",
        "actor_rollout_ref.rollout.name=sample",
        f"{ACTOR}.use_dynamic_bsz=True",
        f"{ACTOR}.clip_ratio_c=1e6",
        "algorithm.adv_estimator=w_reinforce",
        "+algorithm.rlvr_lambda=0.1",
        f"trainer.default_local_dir={tmp_path}/checkpoints",
    ]


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """Put a function in the place of verl's trainer; the configurations that it is called with."""
    monkeypatch.setattr(ray, "shutdown", lambda: None)

    def put(function: Callable[[Any], None]) -> list[Any]:
        configs: list[Any] = []

        def train(config: Any) -> None:
            configs.append(config)
            function(config)

        monkeypatch.setattr(main_ppo, "main", train)
        return configs

    return put


def run_folder(out: Path, status: str) -> None:
    fields = dict.fromkeys(["recipe", "hash", "seed"]) | {"run_id": "a", "label": "A", "temperature": 1.0}
    writer = RunWriter(out, run_json=fields | {"engine": "verl"})
    if status != "running":
        writer.finish(status)


def status_of(out: Path) -> str:
    return str(json.loads((out / "run.json").read_text())["status"])


def test_what_is_added_to_observe(tmp_path: Path) -> None:
    config = compose(["actor_rollout_ref.model.external_lib=mine"])
    added = observing_overrides(config, tmp_path / "a [b", 0.5)
    composed = compose(["actor_rollout_ref.model.external_lib=mine", *added])
    assert composed.actor_rollout_ref.model.external_lib == ["mine", "analysis.engines.verl"]
    assert composed.actor_rollout_ref.actor.fsdp_config.record == {"out": str(tmp_path / "a [b"), "tokens": 0.5}
    assert OmegaConf.select(composed, VENDOR_KEY) == "dynamics"
    (library,) = observing_overrides(compose(), None, None)
    assert library == LIBRARY
    assert observing_overrides(compose([library]), None, None) == []


def test_the_printed_command_composes_the_same(
    settings: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    template = "actor_rollout_ref.model.custom_chat_template=\"{{ '<a>' + m['b'] }}\""
    given = [*settings, template, "--out", str(tmp_path / "it's")]
    assert main(["train", "--print", *given]) == 0
    words = shlex.split(capsys.readouterr().out.replace("\\\n", ""))
    assert words[:3] == ["python", "-m", "verl.trainer.main_ppo"]
    overrides = [*settings, template]
    expected = compose([*overrides, *observing_overrides(compose(overrides), tmp_path / "it's", None)])
    assert compose(words[3:]) == expected
    assert plain_command(["a=1"], config_dir=Path("x y"), config_name="z") == (
        "python -m verl.trainer.main_ppo \\\n  --config-dir 'x y' \\\n  --config-name z \\\n  a=1"
    )


def test_check_says_what_will_run(settings: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", *settings, LIBRARY]) == 0
    out = capsys.readouterr().out
    for text in ("20 prompts, 2 batches in an epoch; 60 steps", "32 in a step (8 prompts x 4)", "rlvr_lambda = 0.1"):
        assert text in out
    assert "updates    2 in a step, each of 16 responses" in out


def test_check_names_all_that_is_wrong(settings: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", *settings, LIBRARY, f"{ACTOR}.grad_clip=0.5", "~algorithm.rlvr_lambda"]) == 2
    error = capsys.readouterr().err
    assert "got 2 settings to change" in error
    assert main(["check", *settings, LIBRARY, "data.train_batch_size=24"]) == 2
    assert "expected at least the 24 prompts of a batch, got 20; lower data.train_batch_size" in capsys.readouterr().err
    assert "+algorithm.rlvr_lambda=0.1" in error
    assert main(["check", "algorithm.nothing=1"]) == 2
    assert "+algorithm.nothing=1" in capsys.readouterr().err
    assert main(["chek"]) == 2
    assert "did you mean check?" in capsys.readouterr().err


def test_training_starts_only_after_the_checks(settings: list[str], trained: Callable[..., list[Any]]) -> None:
    configs = trained(lambda config: None)
    assert main(["train", *settings, f"{ACTOR}.grad_clip=0.5"]) == 2
    assert configs == []
    assert main(["train", *settings]) == 0
    (config,) = configs
    assert config.actor_rollout_ref.model.external_lib == "analysis.engines.verl"
    assert "record" not in config.actor_rollout_ref.actor.fsdp_config


def failed(cause: Exception) -> RayTaskError:
    """What Ray raises in the driver for an error of a worker of a worker."""
    inner = RayTaskError("update", "the traceback of the worker", cause).as_instanceof_cause()
    return RayTaskError("run", "the traceback of the runner", inner).as_instanceof_cause()


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (failed(UsageError("rewards: expected 0 and 1, got 0.5")), 2, "error: rewards: expected 0 and 1, got 0.5\n"),
        (failed(RuntimeError("out of memory")), 1, "error: RuntimeError: out of memory (traceback: "),
        (KeyboardInterrupt(), 130, "stopped; resume with\n  python -m analysis.engines.verl train "),
        (SystemExit(15), 130, "stopped; resume with\n  python -m analysis.engines.verl train "),
    ],
)
def test_how_a_training_ends(
    settings: list[str],
    tmp_path: Path,
    trained: Callable[..., list[Any]],
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    status: int,
    message: str,
) -> None:
    out = tmp_path / "out"

    def end(config: Any) -> None:
        run_folder(out, "running")
        raise error

    trained(end)
    assert main(["train", *settings, "--out", str(out)]) == status
    assert message in capsys.readouterr().err
    assert status_of(out) == "interrupted"


@pytest.mark.parametrize("status", ["complete", "running"])  # the latter where verl has not announced the last step
def test_a_training_that_ends_well_is_complete(
    settings: list[str], tmp_path: Path, trained: Callable[..., list[Any]], status: str
) -> None:
    trained(lambda config: run_folder(tmp_path / "out", status))
    assert main(["train", *settings, "--out", str(tmp_path / "out")]) == 0
    assert status_of(tmp_path / "out") == "complete"
