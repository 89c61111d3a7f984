"""Settings that cannot train are named before anything starts, each with one message, all at once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from analysis.engines.verl.configuration import checks, installation
from analysis.engines.verl.configuration.checks import check, problems
from analysis.engines.verl.configuration.composition import compose
from analysis.engines.verl.configuration.loading import Route
from analysis.engines.verl.configuration.overview import _bytes
from analysis.engines.verl.observing.facts import Marker
from analysis.errors import UsageError
from analysis.records import RunWriter

ROOT = Path(__file__).resolve().parents[3]
ENGINE = "analysis.engines.verl.ObservedEngineConfig"
ACTOR = "actor_rollout_ref.actor"
RECORD = f"{ACTOR}.fsdp_config.record"
HEALTHY = (
    "actor_rollout_ref.model.external_lib=analysis.engines.verl",
    "actor_rollout_ref.model.path=Qwen/Qwen2.5-Math-7B",
    "actor_rollout_ref.rollout.name=vllm",
    "actor_rollout_ref.rollout.n=8",
    f"{ACTOR}.use_dynamic_bsz=True",
    f"{ACTOR}.strategy=fsdp2",
    "algorithm.adv_estimator=grpo",
)
OBSERVED = (
    f"{ACTOR}.fsdp_config._target_={ENGINE}",
    "+ray_kwargs.ray_init.runtime_env.env_vars.VERL_ENGINE_VENDOR=dynamics",
)


def run_of(engine: str, folder: Path) -> None:
    """A run folder, as its engine begins one."""
    fields = dict.fromkeys(["recipe", "hash", "seed"]) | {"run_id": "a", "label": "A", "temperature": 1.0}
    RunWriter(folder, run_json=fields | {"engine": engine})


def messages(*overrides: str, files: bool = False, environment: dict[str, str] | None = None) -> list[str]:
    return problems(compose([*HEALTHY, *overrides]), files=files, environment=environment or {})


def test_a_healthy_configuration_passes() -> None:
    assert messages() == []
    checked = check(compose(HEALTHY), files=False, environment={})
    assert (checked.route, checked.notes) == (Route.EXTERNAL_LIB, ())


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["algorithm.adv_estimator=grp"], r"algorithm\.adv_estimator: .*got 'grp'; did you mean grpo"),
        ([f"{ACTOR}.policy_loss.loss_mode=vanila"], r"loss_mode: .*got 'vanila'; did you mean vanilla"),
        (["trainer.use_v1=False"], r"trainer\.use_v1: expected True"),
        (["trainer.v1.trainer_mode=colocate_async"], r"trainer_mode: expected sync.*got colocate_async"),
        (
            [f"{ACTOR}.grad_clip=0.5"],
            rf"grad_clip: expected it unset.*is 1\.0, got 0\.5; set {ACTOR}\.optim\.clip_grad=0\.5",
        ),
        ([f"{ACTOR}.clip_ratio=0.3"], r"clip_ratio: expected it equal to clip_ratio_low and clip_ratio_high.*got 0\.3"),
        ([f"+{ACTOR}.entropy_coef=1e-3"], r"entropy_coef: expected a key that verl reads.*did you mean entropy_coeff"),
        (["+data.sead=1"], r"data\.sead: expected a key that verl reads of data, got 'sead'; did you mean seed"),
        (
            ["algorithm.adv_estimator=nsr"],
            r"clip_ratio_c: expected no dual clip, which nsr does not have, got a bound of 3\.0.*clip_ratio_c=1e6$",
        ),
        (["algorithm.adv_estimator=gae"], r"critic\.model\.path: .*set critic\.model\.path=Qwen/Qwen2\.5-Math-7B"),
        (
            [
                "critic.enable=True",
                "critic.model.path=x",
                "+critic.fsdp.record.out=x",
                f"critic.fsdp._target_={ENGINE}",
            ],
            r"critic\.fsdp: expected no records, since value models are not observed",
        ),
        (
            [f"{ACTOR}.use_dynamic_bsz=False"],
            r"verl: \[actor\] Please set at least one of 'actor\.ppo_micro_batch_size'",
        ),
        (["actor_rollout_ref.model.external_lib=no_such_module"], r"external_lib: .*got no_such_module, which raises"),
    ],
)
def test_what_cannot_train_is_one_message(overrides: Sequence[str], expected: str) -> None:
    (message,) = messages(*overrides)
    with pytest.raises(UsageError, match=expected):
        raise UsageError(message)


@pytest.mark.parametrize(
    "overrides",
    [
        [f"{ACTOR}.grad_clip=0.5", f"{ACTOR}.optim.clip_grad=0.5"],
        [f"{ACTOR}.clip_ratio=0.3", f"{ACTOR}.clip_ratio_low=0.3", f"{ACTOR}.clip_ratio_high=0.3"],
        ["algorithm.adv_estimator=psr"],  # no response has a negative advantage, on which alone the dual clip acts
        ["algorithm.adv_estimator=nsr", f"{ACTOR}.clip_ratio_c=1e6"],
        ["algorithm.adv_estimator=nsr", f"{ACTOR}.policy_loss.loss_mode=nsr_ratio"],
        [f"+{ACTOR}.use_rollout_log_probs=True"],  # a field that is not in the files of verl
        ["+algorithm.gdpo_reward_keys=[a]"],
        ["+reward.custom_reward_function.reward_kwargs.scale=2"],
        ["+actor_rollout_ref.model.override_config.attn_implementation=sdpa"],
        ["+mine.anything=1"],
        ["algorithm.adv_estimator=gae", "critic.model.path=x"],
    ],
)
def test_what_does_train_is_left_alone(overrides: Sequence[str]) -> None:
    assert messages(*overrides) == []


def test_all_messages_come_at_once() -> None:
    config = compose([*HEALTHY, f"{ACTOR}.grad_clip=0.5", "trainer.use_v1=False"])
    with pytest.raises(
        UsageError, match=r"got 2 settings to change:\ntrainer\.use_v1: .*\nactor_rollout_ref.*grad_clip"
    ):
        check(config, files=False, environment={})


def test_packages_that_verl_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert installation.unmet_requirements() == []
    versions = {"transformers": "5.23.0", "TransferQueue": None}
    real = installation.version

    def version(name: str) -> str:
        held = versions.get(name, "")
        if held is None:
            raise installation.PackageNotFoundError(name)
        return held or real(name)

    monkeypatch.setattr(installation, "version", version)
    transformers, queue = installation.unmet_requirements()
    assert transformers.startswith(
        "transformers: expected transformers!=5.6.0,<5.11,>=5.5.3, which verl needs, got 5.23"
    )
    assert queue.startswith("TransferQueue: expected TransferQueue>=0.1.10, which verl needs, got none; install")


def test_the_routes_by_which_the_package_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    config = compose([*HEALTHY, "actor_rollout_ref.model.external_lib=null"])
    modules = {"VERL_USE_EXTERNAL_MODULES": "other,analysis.engines.verl"}
    assert check(config, files=False, environment=modules).route is Route.EXTERNAL_MODULES
    point = type("Point", (), {"name": "rlvr-dynamics", "value": "analysis.engines.verl"})
    monkeypatch.setattr("analysis.engines.verl.configuration.loading.entry_points", lambda group: [point])
    quiet = check(config, files=False, environment={})
    assert quiet.route is Route.ENTRY_POINT
    assert "passes over an error of its import; add actor_rollout_ref.model.external_lib" in quiet.notes[0]
    monkeypatch.setattr(checks, "is_ours", lambda config: True)
    (message,) = problems(config, files=False, environment={"VERL_USE_EXTERNAL_PLUGINS": "none"})
    assert message.endswith("got none; add actor_rollout_ref.model.external_lib=analysis.engines.verl")


class TestObserving:
    def test_the_engine_without_records_and_records_without_the_engine(self) -> None:
        (message,) = messages(OBSERVED[1])
        assert message.startswith("VERL_ENGINE_VENDOR: expected records beside the observing engine")
        assert messages(environment={"VERL_ENGINE_VENDOR": "dynamics"}) == [message]
        (target, vendor, *_) = messages(f"+{RECORD}.out=runs/x")
        assert target.startswith(f"{ACTOR}.fsdp_config._target_: expected analysis.engines.verl.ObservedEngineConfig")
        assert vendor.startswith("VERL_ENGINE_VENDOR: expected dynamics, which makes verl choose the observing engine")

    def test_several_nodes_need_it_in_the_environment_of_their_workers(self) -> None:
        overrides = [OBSERVED[0], f"+{RECORD}.out=/shared/x"]
        environment = {"VERL_ENGINE_VENDOR": "dynamics"}
        found = [m for m in messages(*overrides, environment=environment) if m.startswith("VERL_ENGINE_VENDOR")]
        assert found == []
        for more, variables in ((["trainer.nnodes=2"], {}), ([], {"RAY_ADDRESS": "auto"})):
            found = messages(*overrides, *more, environment=environment | variables)
            assert any(m.startswith("VERL_ENGINE_VENDOR: expected it in the environment of the workers") for m in found)

    @pytest.mark.parametrize(
        ("override", "expected"),
        [
            (f"{ACTOR}.ulysses_sequence_parallel_size=2", f"{ACTOR}.ulysses_sequence_parallel_size: expected 1"),
            (f"{ACTOR}.strategy=fsdp_turbo", f"{ACTOR}.strategy: expected fsdp or fsdp2"),
            ("distillation.enabled=True", "distillation.enabled: expected False"),
            (
                "actor_rollout_ref.model={use_fused_kernels: true, lora_rank: 8}",
                "actor_rollout_ref.model.use_fused_kernels: expected False with LoRA",
            ),
        ],
    )
    def test_engines_that_are_not_observed(self, override: str, expected: str) -> None:
        overrides = [*OBSERVED, f"+{RECORD}.out=runs/x", "actor_rollout_ref.model.use_remove_padding=True", override]
        assert any(message.startswith(expected) for message in messages(*overrides))

    def test_megatron(self) -> None:
        overrides = ["model_engine=megatron", f"+{ACTOR}.fsdp_config.record.out=runs/x", OBSERVED[1]]
        known = [override for override in HEALTHY if "strategy" not in override]
        found = problems(compose([*known, *overrides]), files=False, environment={})
        assert any(message.startswith(f"{ACTOR}.strategy: expected fsdp or fsdp2") for message in found)


class TestFiles:
    def test_files_that_are_missing(self, tmp_path: Path) -> None:
        module = tmp_path / "reward.py"
        module.write_text("def compute_score(): ...\n")
        overrides = [
            f"data.train_files={tmp_path}/none.parquet",
            f"data.val_files=[{module},hdfs://there/val.parquet]",
            f"actor_rollout_ref.model.path={tmp_path}/model",
            f"reward.custom_reward_function.path={module}",
            "reward.custom_reward_function.name=compute_reward",
        ]
        found = messages(*overrides, files=True)
        keys = [message.partition(":")[0] for message in found]
        assert keys[:3] == [
            "data.train_files",
            "actor_rollout_ref.model.path",
            "reward.custom_reward_function.name",
        ]
        assert "expected a name that" in found[2]
        (tmp_path / "text.parquet").write_text("text")
        overrides[0] = f"data.train_files={tmp_path}/text.parquet"
        assert messages(*overrides, files=True)[0].startswith("data.train_files: expected Parquet files, got one that")
        assert not any("compute" in m for m in messages(*overrides[:-1], files=True))

    def test_the_folder_of_records(self, tmp_path: Path) -> None:
        def found(*overrides: str) -> list[str]:
            return [m for m in messages(*OBSERVED, *overrides, files=True) if m.startswith(f"{RECORD}.out")]

        out, checkpoints = tmp_path / "out", tmp_path / "checkpoints"
        keys = (f"+{RECORD}.out={out}", f"trainer.default_local_dir={checkpoints}")
        assert found(*keys) == []
        (relative,) = found(f"+{RECORD}.out=runs/x", "trainer.nnodes=2")
        assert "expected an absolute path of a folder that all nodes share" in relative
        file = tmp_path / "file"
        file.write_text("")
        (unwritable,) = found(f"+{RECORD}.out={file}/x")
        assert f"{file} cannot; choose another" in unwritable

        run_of("trl", out)
        (of_another,) = found(*keys)
        assert f"got {out}, which holds a run of trl; choose another folder" in of_another
        (out / "run.json").write_text("{")
        (damaged,) = found(*keys)
        assert "run.json" in damaged

    def test_a_run_is_resumed_with_its_records(self, tmp_path: Path) -> None:
        out, checkpoints = tmp_path / "out", tmp_path / "checkpoints"
        checkpoint = checkpoints / "global_step_3"
        (checkpoint / "actor").mkdir(parents=True)
        (checkpoints / "latest_checkpointed_iteration.txt").write_text("3")
        overrides = [*OBSERVED, f"+{RECORD}.out={out}", f"trainer.default_local_dir={checkpoints}"]

        def found(*more: str) -> list[str]:
            return [m for m in messages(*overrides, *more, files=True) if m.startswith(f"{RECORD}.out")]

        anew = "trainer.resume_mode=disable"
        assert found() == []  # from now on there are records
        run_of("verl", out)
        (message,) = found()
        assert f"expected a new folder, since verl resumes {checkpoint}, which has no records" in message
        (message,) = found(anew)
        assert "expected a new folder, since verl starts from the beginning" in message
        Marker("a", json.loads((out / "run.json").read_text())["created"], 6).write(checkpoint / "actor")
        assert found() == []
        assert len(found(anew)) == 1
        assert found("trainer.resume_mode=resume_path", f"trainer.resume_from_path={checkpoint}") == []
        (out / "run.json").unlink()
        (message,) = found()
        assert f"expected the folder of a, whose checkpoint this is, got {out}, which holds no run" in message


def test_the_estimate_of_bytes_is_the_measured_one() -> None:
    measured = json.loads((ROOT / "docs/results/full_scale.json").read_text(encoding="utf-8"))
    eighth = measured["written"]["0.125"]
    tokens = measured["rollouts"] * measured["tokens_each"]
    written = sum(eighth["bytes"].values())
    more = [
        "data.train_batch_size=1024",
        f"data.max_response_length={measured['tokens_each']}",
        f"+{RECORD}.out=runs/x",
    ]
    config = compose([*HEALTHY, *OBSERVED, *more])
    assert tokens == 1024 * 8 * measured["tokens_each"]
    assert _bytes(config, 0.125, 0) == pytest.approx(written, rel=0.02)
    assert _bytes(config, 0.125, 4) - _bytes(config, 0.125, 0) == pytest.approx(tokens / 8 * 32)
