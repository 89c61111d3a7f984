"""`analysis.watch`: what it records of a stock trainer, and that it changes nothing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

import analysis
from analysis import RecordSpec, UsageError

from .objective_runs import GROUP, even_sum, is_correct, make_model
from .watched_runs import Parameters, make_trl_trainer

EVERYTHING = RecordSpec(tokens=1.0)
OF_TIME = ("runtime", "per_second", "step_time", "total_flos")  # logs that differ between any two runs


def watched(folder: Any, *args: Any, record: RecordSpec = EVERYTHING, **kwargs: Any) -> Any:
    options = {name: kwargs.pop(name) for name in ("correct", "on_error", "prefix", "out") if name in kwargs}
    trainer = make_trl_trainer(folder, *args, **kwargs)
    watch = analysis.watch(trainer, record=record, **options)
    trainer.train()
    return trainer, watch


def test_rollouts_hold_rewards_groups_and_ids_of_the_batch(tmp_path):
    def length(completion_ids: list[list[int]], **_: Any) -> list[float | None]:
        return [None if len(ids) == 1 else len(ids) / 5 for ids in completion_ids]

    _, watch = watched(tmp_path, reward=[even_sum, length], correct="even_sum", max_steps=4)
    rollouts = watch.records()["rollouts"]
    assert rollouts.groupby("step").size().tolist() == [16, 16]
    assert watch.run.info["reward_functions"] == ["even_sum", "length"]
    for _, row in rollouts.iterrows():
        even, other = row.reward_values
        assert even == is_correct(row.response_ids.tolist())
        assert np.isnan(other) == (len(row.response_ids) == 1)
        assert row.reward == pytest.approx(even + (0 if np.isnan(other) else other))
        assert row.correct == (even > 0)
        assert row.group == row.rollout // GROUP
    assert (rollouts.groupby(["step", "group"]).prompt_id.nunique() == 1).all()
    for _, group in rollouts.groupby(["step", "group"]):
        expected = (group.reward - group.reward.mean()) / (group.reward.std() + 1e-4)
        assert np.allclose(group.advantage, expected, atol=4e-6)


def test_steps_and_updates_count_what_was_made(tmp_path):
    _, watch = watched(tmp_path, correct=0.5, num_iterations=2, max_steps=6)
    records = watch.records()
    updates, steps, rollouts = records["updates"], records["steps"], records["rollouts"]
    assert updates["update"].tolist() == list(range(6))
    assert updates["step"].tolist() == [0, 0, 0, 0, 1, 1]
    assert updates["epoch"].tolist() == [0, 0, 1, 1, 0, 0]
    assert updates["minibatch"].tolist() == [0, 1] * 3
    assert steps["n_updates"].tolist() == [4, 2]
    for step, row in steps.set_index("step").iterrows():
        of_step = rollouts[rollouts["step"] == step]
        assert row.reward_mean == pytest.approx(of_step.reward.mean())
        assert row.correct_ratio == pytest.approx(of_step.correct.astype(float).mean())
    assert watch.run.status == "complete"
    assert not watch.run.laws().empty


def test_a_fraction_of_the_prompts_is_recorded(tmp_path):
    _, watch = watched(tmp_path, record=RecordSpec(tokens=0.3))
    records = watch.records()
    recorded = set(records["rollouts"].set_index("rollout").prompt_id[records["tokens"].rollout.unique()])
    assert 1 <= len(recorded) < records["rollouts"].prompt_id.nunique()
    whole = records["rollouts"][records["rollouts"].prompt_id.isin(recorded)].rollout
    assert set(records["tokens"].rollout) == set(whole)


def test_the_trainer_is_left_as_it_was_found(tmp_path):
    trainer = make_trl_trainer(tmp_path)
    before, callbacks = set(vars(trainer)), list(trainer.callback_handler.callbacks)
    watch = analysis.watch(trainer)
    assert set(vars(trainer)) > before
    trainer.train()
    hooked = {name for name, value in vars(trainer).items() if hasattr(value, "__wrapped__")}
    assert not hooked
    assert trainer.callback_handler.callbacks == callbacks
    assert watch.updates == 2


def test_an_instance_attribute_of_the_user_is_kept(tmp_path):
    trainer = make_trl_trainer(tmp_path)
    calls, original = [], trainer._calculate_rewards

    def own(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return original(*args, **kwargs)

    trainer._calculate_rewards = own
    analysis.watch(trainer)
    trainer.train()
    assert len(calls) == 1
    assert trainer._calculate_rewards is own


def same_logs(first: list[dict[str, float]], second: list[dict[str, float]]) -> bool:
    def kept(logs: dict[str, float]) -> dict[str, Any]:
        return {
            name: "nan" if isinstance(value, float) and math.isnan(value) else value
            for name, value in logs.items()
            if not name.startswith("dynamics/") and not any(word in name for word in OF_TIME)
        }

    return [kept(logs) for logs in first] == [kept(logs) for logs in second]


CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "grpo": {"loss_type": "grpo"},
    "bnpo": {"loss_type": "bnpo"},
    "dr_grpo": {"loss_type": "dr_grpo"},
    "dapo": {},
    "cispo": {"loss_type": "cispo", "epsilon_high": 2.0},
    "sapo": {"loss_type": "sapo"},
    "luspo": {"loss_type": "luspo", "importance_sampling_level": "sequence"},
    "vespo": {"loss_type": "vespo"},
    "gspo": {"loss_type": "grpo", "importance_sampling_level": "sequence"},
    "rloo": {"kind": "rloo"},
    "gmpo": {"kind": "gmpo"},
    "3 iterations": {"num_iterations": 3, "max_steps": 6},
    "temperature": {"temperature": 0.7, "top_p": 0.9},
    "delta": {"delta": 1.5, "num_iterations": 2, "max_steps": 4},
    "quantile": {"top_entropy_quantile": 0.5},
    "truncated": {"mask_truncated_completions": True},
    "checkpointing": {"gradient_checkpointing": True},
    "kl": {"beta": 0.1, "num_iterations": 2, "max_steps": 4},
    "adaptive entropy": {"use_adaptive_entropy": True, "entropy_target": 2.0, "num_iterations": 2, "max_steps": 4},
    "lora": {"lora": True},
    "bfloat16": {"bf16": True},
    "evaluation": {"evaluated": True},
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_training_is_the_same_to_the_last_bit(name, tmp_path):
    runs, config = [], dict(CONFIGURATIONS[name])
    if config.pop("lora", False):
        config["peft_config"] = pytest.importorskip("peft").LoraConfig(r=2, target_modules=["q_proj"])
    for watching in (False, True):
        model = make_model(tmp_path / "base") if "beta" in config else None
        trainer = make_trl_trainer(tmp_path, model=model, **config)
        parameters = Parameters()
        trainer.add_callback(parameters)
        if watching:
            analysis.watch(trainer, record=EVERYTHING)
        trainer.train()
        runs.append((parameters.last, trainer.state.log_history))
    (plain, plain_logs), (seen, seen_logs) = runs
    assert all(torch.equal(plain[name], seen[name]) for name in plain)
    assert same_logs(plain_logs, seen_logs)


def test_a_watched_trainer_is_refused(tmp_path):
    trainer = make_trl_trainer(tmp_path)
    refused = pytest.raises(UsageError, match=r"trainer: expected a GRPOTrainer that is not watched, got one that")
    with analysis.watch(trainer), refused:
        analysis.watch(trainer)
    analysis.watch(trainer).close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"record": 3}, "record: expected a RecordSpec, got int"),
        ({"on_error": "ignore"}, "on_error: expected stop or warn, got 'ignore'"),
        ({"correct": "odd"}, r"correct: expected the name of a reward function \(even_sum\), got 'odd'"),
        ({"correct": float("nan")}, "correct: expected a finite number"),
    ],
)
def test_arguments_are_checked(options, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        analysis.watch(make_trl_trainer(tmp_path), **options)


def test_another_object_is_refused():
    with pytest.raises(
        UsageError, match=r"trainer: expected a Trainer of transformers, got int without .* analysis\.attach"
    ):
        analysis.watch(3)
