"""`problems`: every fault of a configuration's objective has one message before anything is started."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from analysis.engines.verl.__main__ import main
from analysis.engines.verl.configuration import checks
from analysis.engines.verl.configuration.composition import compose
from analysis.engines.verl.objectives.objective_names import listing, problems
from analysis.engines.verl.objectives.objective_settings import lacks
from analysis.objectives import names

from .objective_batches import names_restored

BASE = ("actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=4", "actor_rollout_ref.rollout.n=8")
LOSS = "actor_rollout_ref.actor.policy_loss"
CLASS = f"{LOSS}._target_=analysis.engines.verl.ObjectiveLossConfig"
ENGINE = "+ray_kwargs.ray_init.runtime_env.env_vars.VERL_ENGINE_VENDOR=dynamics"
SAMPLER = (
    "trainer.v1.sampler.custom_sampler.path=pkg://analysis.engines.verl.objectives.dropped_rows_sampler",
    "trainer.v1.sampler.custom_sampler.name=DroppedRows",
)
WHOLE = (
    "trainer.n_gpus_per_node=1",
    "data.train_batch_size=4",
    "actor_rollout_ref.actor.ppo_mini_batch_size=4",
    "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=32",
)


def found(estimator: str, mode: str | None = None, *overrides: str) -> list[str]:
    loss = [] if mode is None else [f"{LOSS}.loss_mode={mode}"]
    return problems(compose([*BASE, f"algorithm.adv_estimator={estimator}", *loss, *overrides]))


@pytest.mark.parametrize(
    ("estimator", "mode", "overrides"),
    [
        ("grpo", None, ()),
        ("gae", None, ()),
        ("psr", None, ()),
        ("psr", None, SAMPLER),
        ("nsr", "nsr_probability", (*SAMPLER, "+trainer.v1.sampler.sampler_kwargs.skips=0")),
        ("psr_released", "psr_ratio", ()),
        ("w_reinforce", "w_reinforce_ratio", ("+algorithm.rlvr_lambda=0.1",)),
        ("w_reinforce", "vanilla", ("+algorithm.rlvr_parameters.lambda=0.1",)),
        ("maxrl", "vanilla", ()),
        ("kl_k1+", "kl_k1+", (ENGINE, "actor_rollout_ref.actor.use_kl_loss=True")),
        ("kimi_1.5", "kimi_1.5", ()),
        ("grpo", "grpo", (CLASS, f"+{LOSS}.rlvr_parameters.clip_low=0.2")),
        ("dynamics_grpo", "grpo_log", ("+algorithm.rlvr_parameters.advantage=group_mean",)),
        ("gspo", "gspo", ()),
        ("gmpo", "geo_mean", ()),
        ("nft", "nft", (ENGINE,)),
        ("dro", "dynamics_dro", (ENGINE, "actor_rollout_ref.actor.use_kl_loss=True")),
        ("kto", "kto", (ENGINE, "actor_rollout_ref.actor.use_kl_loss=True", *WHOLE)),
        ("high_entropy", "high_entropy", (ENGINE, *WHOLE)),
        ("pass_at_k", "pass_at_k", ("+algorithm.rlvr_parameters.k=4",)),
    ],
)
def test_healthy_configurations(estimator, mode, overrides):
    assert found(estimator, mode, *overrides) == []


FAULTS = {
    "psrr": ("psrr", None, (), "expected an estimator that verl knows, got 'psrr'; did you mean psr"),
    "hyphen": ("w-reinforce", None, (), "got 'w-reinforce'; write w_reinforce"),
    "pairs": ("dpo", None, (), "dpo compares pairs of responses"),
    "no form": ("psr", "psr", (), "got 'psr'; choose psr_ratio, psr_probability, psr_log, which are different updates"),
    "no λ": ("w_reinforce", "w_reinforce_log", (), "w_reinforce needs λ"),
    "stray λ": ("psr", None, ("+algorithm.rlvr_lambda=0.1",), "algorithm.rlvr_lambda: only w-reinforce has it"),
    "λ beside grpo": ("grpo", None, ("+algorithm.rlvr_lambda=0.1",), "got adv_estimator=grpo, which does not read it"),
    "misspelt": ("psr", None, ("+algorithm.rlvr_lamda=0.1",), "rlvr_lamda: expected one of rlvr_lambda"),
    "other side": (
        "psr",
        None,
        ("+algorithm.rlvr_parameters.clip_low=0.2",),
        f"expected a parameter that the advantages of psr-ratio read.*{LOSS}.rlvr_parameters.clip_low",
    ),
    "other side, loss": (
        "w_reinforce",
        "w_reinforce_ratio",
        ("+algorithm.rlvr_lambda=0.1", CLASS, f"+{LOSS}.rlvr_parameters.advantage=group_mean"),
        r"that the loss of w-reinforce-ratio read.*\+algorithm.rlvr_parameters.advantage",
    ),
    "class": (
        "psr",
        "psr_ratio",
        (f"+{LOSS}.rlvr_parameters.clip_low=0.2",),
        "_target_: expected .*ObjectiveLossConfig",
    ),
    "loss of another": ("psr", "nsr_ratio", (), "expected a loss of psr.*got nsr_ratio; choose psr_ratio or"),
    "advantages of another": ("grpo", "psr_ratio", (), "expected the advantages of psr-ratio.*choose psr$"),
    "vanilla": ("nft", None, (), "expected the loss of nft, which is more than its advantages, got verl's vanilla"),
    "verl's dro": ("dro", "dro", (), "expected the loss of dro.*choose dynamics_dro"),
    "KL": ("psr", None, ("algorithm.use_kl_in_reward=True",), "use_kl_in_reward: expected False"),
    "estimator of verl": (
        "dynamics_grpo",
        None,
        ("algorithm.norm_adv_by_std_in_grpo=False",),
        r"norm_adv_by_std_in_grpo: expected verl's default \(True\).*those of grpo",
    ),
    "n": ("maxrl", None, ("actor_rollout_ref.rollout.n=1",), "^actor_rollout_ref.rollout.n: maxrl compares"),
    "engine": ("nft", "nft", (), "nft reads accuracy.*got verl's; set VERL_ENGINE_VENDOR=dynamics"),
    "reference": ("dro", "dynamics_dro", (ENGINE,), "use_kl_loss: expected True, since dynamics_dro reads"),
    "whole": ("kto", "kto", (ENGINE, "actor_rollout_ref.actor.use_kl_loss=True"), "one micro batch of its 2048 rows"),
    "entropy": (
        "high_entropy",
        "high_entropy",
        (ENGINE, *WHOLE, "actor_rollout_ref.actor.ppo_epochs=2"),
        "expected one update of a batch",
    ),
    "engine's log-probs": (
        "ppo",
        "ppo",
        (
            ENGINE,
            CLASS,
            "actor_rollout_ref.rollout.calculate_log_probs=False",
            f"+{LOSS}.rlvr_parameters.rollout_is=token-truncate",
            f"+{LOSS}.rlvr_parameters.rollout_is_high=2",
        ),
        "calculate_log_probs: expected True",
    ),
    "clip of verl": (
        "psr",
        "psr_ratio",
        ("actor_rollout_ref.actor.clip_ratio_c=1e6",),
        r"clip_ratio_c: expected verl's default \(3.0\)",
    ),
    "verl's loss parameters": (
        "psr",
        "psr_ratio",
        (f"{LOSS}.ppo_kl_coef=0.5",),
        r"ppo_kl_coef: expected verl's default \(0.1\)",
    ),
    "threshold": (
        "oreal",
        "oreal",
        (ENGINE, "+algorithm.rlvr_threshold=0.5"),
        "rlvr_threshold: expected the 0.5 of algorithm.rlvr_threshold",
    ),
    "sampler of grpo": ("grpo", None, SAMPLER, "drops rows by the objective of this project"),
    "sampler compares": ("maxrl", None, SAMPLER, "weighs a response by its own reward alone, got maxrl"),
    "sampler of both": ("reinforce", None, SAMPLER, "got reinforce, which weighs both"),
    "sampler setting": (
        "psr",
        None,
        (*SAMPLER, "+trainer.v1.sampler.sampler_kwargs.skip=3"),
        "sampler_kwargs: expected skips alone",
    ),
    "sampler name": ("psr", None, SAMPLER[:1], "custom_sampler.name: expected DroppedRows"),
    "sampler mode": (
        "psr",
        None,
        (*SAMPLER, "trainer.v1.trainer_mode=colocate_async"),
        "trainer_mode=sync, got colocate",
    ),
    "judge": (
        "psr",
        None,
        (*SAMPLER, "reward.reward_model.enable=True"),
        "enable_resource_pool: DroppedRows reads rewards",
    ),
    "filter": ("psr", None, (*SAMPLER, "algorithm.filter_groups.enable=True"), "filter_groups.enable: expected False"),
}


@pytest.mark.parametrize(("estimator", "mode", "overrides", "message"), FAULTS.values(), ids=FAULTS)
def test_one_message_for_each_fault(estimator, mode, overrides, message, monkeypatch):
    monkeypatch.delenv("VERL_ENGINE_VENDOR", raising=False)
    messages = found(estimator, mode, *overrides)
    assert len(messages) == 1, messages
    assert re.search(message, messages[0]), messages[0]


@names_restored()
def test_a_module_of_the_user_adds_names_before_they_are_checked(tmp_path, monkeypatch):
    (tmp_path / "verl_own_loss.py").write_text(
        "from analysis.engines import verl\n\n\n"
        "def loss(log_probs, batch):\n    return -batch.per_token('advantages') * log_probs\n\n\n"
        "verl.offer('mine', 'verl_own_loss:loss')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    overrides = [*BASE, "algorithm.adv_estimator=mine", f"{LOSS}.loss_mode=mine"]
    library = "actor_rollout_ref.model.external_lib=[analysis.engines.verl,verl_own_loss]"
    config = compose([*overrides, library])
    assert not [message for message in checks.problems(config, files=False) if "mine" in message]
    assert problems(config) == []
    assert ("estimator", "mine", "verl_own_loss:loss") in listing()


def test_several_faults_are_all_named():
    messages = found("w_reinforce", "nsr_ratio", "algorithm.use_kl_in_reward=True", "+algorithm.rlvr_threshold=nan")
    assert any("rlvr_threshold" in message for message in messages)
    assert any("expected a loss of w-reinforce" in message for message in messages)


def test_a_plug_in_that_takes_a_name_afterwards_is_named(monkeypatch):
    from verl.trainer.ppo import core_algos

    monkeypatch.setitem(core_algos.ADV_ESTIMATOR_REGISTRY, "psr", lambda **_: None)
    (message,) = found("psr")
    assert f"got one that {__name__} registered" in message


def test_the_listing_names_every_objective_that_verl_can_train():
    listed = listing()
    assert {objective for _, _, objective in listed} == {name for name in names() if lacks(name) is None}
    assert ("policy loss", "dynamics_gspo", "gspo") in listed


def test_the_command_lists_objectives_by_their_names_in_verl(capsys):
    assert main(["objectives"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split("  ")[0] == "objective"
    (nft,) = [line.split() for line in lines if line.startswith("nft ")]
    assert nft == ["nft", "nft", "nft", "accuracy"]
    (gspo,) = [line.split() for line in lines if line.startswith("gspo ")]
    assert gspo == ["gspo", "gspo", "dynamics_gspo"]
    assert any(line.startswith("dpo compares pairs") for line in lines)
    assert main(["objectives", "psr"]) == 2
    assert "expected no arguments, got psr" in capsys.readouterr().err


def test_the_page_names_what_is_not_called_by_its_own_name():
    page = (Path(__file__).parents[3] / "docs" / "how_to" / "train_with_verl.md").read_text()
    for _, name, _ in listing():
        assert not name.startswith("dynamics_") or f"`{name}`" in page, name
