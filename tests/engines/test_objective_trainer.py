"""`ObjectiveTrainer` against independent routes: weights in float64, AdamW by hand, steps that must change nothing.

Weights are measured on TRL's log-probs, as gradients. They are compared with closed forms at the same log-probs, with
divisors written out here. 2e-6 of the largest weight of a run is the rounding of float32 log-probs of about 3 nats.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from analysis import UsageError, objectives
from analysis.objectives import TokenBatch

from .objective_runs import make_model, make_trainer, observed, plain_log_probs
from .objective_weights import TOLERANCE, Snapshots, compare, same


@objectives.register("engines-square")
def square(log_probs: Tensor, batch: TokenBatch) -> Tensor:
    return -batch.per_token("advantages") * log_probs.exp() ** 2


FORMS = [
    (family, form, {"form": form} | ({"lambda_": 0.1} if family == "w-reinforce" else {}))
    for family in ("psr", "nsr", "w-reinforce")
    for form in ("ratio", "probability", "log")
]
SETTINGS: dict[str, dict[str, Any]] = {
    "keep": {"max_steps": 4},
    "drop": {"rows": "drop", "max_steps": 4},
    "keep, 2 accumulated, 2 iterations": {"gradient_accumulation_steps": 2, "num_iterations": 2, "max_steps": 4},
    "drop, 2 accumulated, 2 iterations": {
        "rows": "drop",
        "gradient_accumulation_steps": 2,
        "num_iterations": 2,
        "max_steps": 4,
    },
    "drop, 4 accumulated": {"rows": "drop", "gradient_accumulation_steps": 4, "max_steps": 1},
}


BOTH_ENDS = ("keep", "drop, 2 accumulated, 2 iterations")  # of the forms without a ratio, which differ less by setting
GRID = [
    pytest.param(family, form, parameters, setting, id=f"{family}-{form}: {setting}")
    for family, form, parameters in FORMS
    for setting in SETTINGS
    if form == "ratio" or setting in BOTH_ENDS
]


@pytest.mark.parametrize(("family", "form", "parameters", "setting"), GRID)
def test_weights_of_the_papers_objectives(family, form, parameters, setting, tmp_path):
    run = observed(make_trainer(tmp_path, family, parameters=parameters, **SETTINGS[setting]))
    assert compare(run, family, form) < TOLERANCE


@pytest.mark.parametrize("rows", ["keep", "drop"])
@pytest.mark.parametrize("loss_type", ["bnpo", "grpo", "dr_grpo", "luspo"])
def test_weights_under_each_divisor(loss_type, rows, tmp_path):
    run = observed(
        make_trainer(
            tmp_path,
            "w-reinforce" if rows == "keep" else "psr",
            parameters={"form": "ratio"} | ({"lambda_": 0.1} if rows == "keep" else {}),
            rows=rows,
            loss_type=loss_type,
            gradient_accumulation_steps=2,
            max_steps=2,
        )
    )
    assert compare(run, "w-reinforce" if rows == "keep" else "psr", "ratio") < TOLERANCE


OTHERS: dict[str, dict[str, Any]] = {
    "psr-released": {},
    "nsr-released": {},
    "reinforce": {"form": "ratio", "dual_clip": 1.5},
    "grpo": {"clip_low": 0.2, "clip_high": 0.28},
    "rloo": {"whiten": "responses"},
    "maxrl": {},
    "opo": {},
    "rewarding-unlikely": {},
    "rewarding-unlikely-paper": {},
    "gdpo": {},
    "reinforce-plus-plus": {},
    "cispo": {},
    "sapo": {},
    "dppo-kl": {},
    "gspo": {},
    "gmpo": {},
    "vespo": {},
    "topr": {},
    "kimi-1.5": {"tau": 0.1},
    "nft": {},
    "sequence-nft": {},
    "unlikelihood": {},
    "sft": {},
    "dft": {},
    "dro": {"tau": 0.1},
    "kto": {"beta": 0.1},
    "kl-k1": {"beta": 0.1},
    "engines-square": {},
    "high-entropy": {},
    "kl-cov": {},
}


@pytest.mark.parametrize("name", OTHERS)
def test_weights_of_every_kind_of_objective(name, tmp_path):
    reads_reference = name in ("dro", "kto", "kl-k1")
    model = make_model(tmp_path / "base") if reads_reference else None
    run = observed(
        make_trainer(
            tmp_path,
            name,
            model=model,
            parameters=OTHERS[name],
            num_iterations=2,
            learning_rate=5e-3,
            per_device_train_batch_size=8,
            steps_per_generation=2,
            max_steps=4,
        )
    )
    assert compare(run, name, None) < TOLERANCE
    if reads_reference:
        assert run.trainer.ref_model is not None
        assert run.trainer.args.beta == run.trainer.beta == 0


# -- updates -------------------------------------------------------------------------------------------------------


def test_an_update_with_dropped_rows_is_adamw_by_hand(tmp_path):
    snapshots = Snapshots()
    trainer = make_trainer(
        tmp_path,
        "nsr",
        parameters={"form": "probability"},
        rows="drop",
        gradient_accumulation_steps=2,
        max_steps=1,
        learning_rate=1e-3,
        weight_decay=0.1,
    )
    trainer.add_callback(snapshots)
    run = observed(trainer)
    model = make_model().double()
    wrong = tokens = 0.0
    for part in run.parts:
        rewards = run.generations[0].rewards[part.inputs["test_row"]]
        assert bool((rewards[part.mask.any(1)] == 0).all())  # wrong responses alone
        losses = plain_log_probs(model, part.inputs).exp() * part.mask  # −A·π_y with A = −1
        wrong, tokens = wrong + losses.sum(), tokens + part.mask.sum()
    assert int(tokens) > 0
    (wrong / tokens).backward()
    rate, decay, eps = 1e-3, 0.1, trainer.args.adam_epsilon
    for name, parameter in model.named_parameters():
        decayed = not ("norm" in name or name.endswith("bias"))  # transformers' rule
        start, gradient = parameter.detach(), parameter.grad
        assert gradient is not None
        # the first step of AdamW: the corrected moments are the gradient and its square
        expected = start * (1 - rate * decay * decayed) - rate * gradient / (gradient.abs() + eps)
        # where |g| is near eps the step depends on its rounding; elsewhere float32 parameters of size 1 round by 6e-8
        certain = gradient.abs() > 1e-6
        difference = (snapshots.after[0][0][name].double() - expected)[certain].abs()
        assert difference.numel() == 0 or difference.max() < 2e-7, name


def test_an_empty_step_changes_neither_parameters_nor_moments(tmp_path):
    snapshots = Snapshots()
    trainer = make_trainer(tmp_path, "psr", parameters={"form": "log"}, rows="drop", max_steps=8, weight_decay=0.1)
    trainer.add_callback(snapshots)
    run = observed(trainer)
    empty = [not bool(part.mask.any()) for part in run.parts]
    assert any(empty)
    assert not all(empty)
    pairs = zip(snapshots.before, snapshots.after, strict=True)
    assert [same(before, after) for before, after in pairs] == empty


def test_kept_rows_without_a_weight_still_make_a_step_of_adamw(tmp_path):
    """What dropping changes: with every row kept a batch without wrong responses moves the moments of AdamW."""
    steps = {}
    for rows in ("keep", "drop"):
        snapshots = Snapshots()
        trainer = make_trainer(
            tmp_path,
            "nsr",
            reward=lambda completion_ids, **_: [1.0] * len(completion_ids),
            parameters={"form": "log"},
            rows=rows,
            max_steps=2,
        )
        trainer.add_callback(snapshots)
        trainer.train()
        steps[rows] = {int(values["step"]) for values in snapshots.after[-1][1].values()}
    assert steps == {"keep": {2}, "drop": set()}


def test_the_released_codes_scale_of_a_last_step(tmp_path):
    """bnpo: the last step that has rows is scaled by the fraction of its microbatches that hold some."""
    trainer = make_trainer(
        tmp_path,
        "psr",
        reward=lambda completion_ids, **_: [float(row < 4) for row in range(len(completion_ids))],
        parameters={"form": "log"},
        rows="drop",
        gradient_accumulation_steps=4,
        loss_type="bnpo",
        max_steps=1,
    )
    run = observed(trainer)
    summed = sum(float(part.weights.sum()) for part in run.parts)
    assert [bool(part.mask.any()) for part in run.parts] == [True, False, False, False]
    assert summed == pytest.approx(1 / 4, rel=1e-6)  # A = 1 on every token of one microbatch of four


# -- rewards, logs -------------------------------------------------------------------------------------------------


def test_a_threshold_on_real_valued_rewards(tmp_path):
    def reward(completion_ids, **_):
        return [0.3 + 0.4 * (sum(ids) % 2 == 0) for ids in completion_ids]

    run = observed(make_trainer(tmp_path, "psr", reward=reward, threshold=0.5, parameters={"form": "log"}, max_steps=2))
    assert compare(run, "psr", "log") < TOLERANCE
    trainer = make_trainer(tmp_path, "psr", reward=reward, parameters={"form": "log"})
    with pytest.raises(UsageError, match=r"rewards: psr-log is defined for 0 and 1, got 0\.[37] for .*threshold="):
        trainer.train()


def test_completions_without_a_reward(tmp_path):
    def reward(completion_ids, **_):
        return [None if row == 0 else 1.0 for row in range(len(completion_ids))]

    run = observed(make_trainer(tmp_path, "psr", reward=reward, parameters={"form": "log"}, max_steps=4))
    assert [float(run.generations[0].output["advantages"][row]) for row in (0, 1)] == [0.0, 1.0]
    with pytest.raises(UsageError, match=r"grpo compares the responses.* got None of every reward .* completion 0"):
        make_trainer(tmp_path, "grpo", reward=reward).train()


def test_logs_count_the_objectives_clips_and_show_its_advantages(tmp_path):
    run = observed(
        make_trainer(
            tmp_path, "w-reinforce-released", parameters={"lambda_": 0.1}, num_iterations=2, log_completions=False
        )
    )
    high, low = 0, 0
    for part, log in zip(run.parts, run.trainer.state.log_history, strict=False):
        ratio = (part.log_probs - part.inputs["old_per_token_logps"]).exp()
        advantages, tokens = part.inputs["advantages"][:, None], part.mask.sum()
        above = ((ratio > 1.2) & (advantages > 0) & part.mask).sum() / tokens
        below = ((ratio < 0.8) & (advantages < 0) & part.mask).sum() / tokens
        assert log["clip_ratio/high_mean"] == pytest.approx(float(above), abs=1e-6)
        assert log["clip_ratio/low_mean"] == pytest.approx(float(below), abs=1e-6)
        assert log["clip_ratio/region_mean"] == pytest.approx(float(above + below), abs=1e-6)
        assert "clip_ratio/low_min" not in log
        high, low = high + above, low + below
    assert high > 0
    assert low > 0
    shown = sorted({round(float(value), 6) for value in run.trainer._logs["advantages"]})
    assert shown == [-1.0, 0.1]


def test_evaluation_uses_the_objective_too(tmp_path):
    from datasets import Dataset

    from analysis import ObjectiveTrainer

    from .objective_runs import even_sum, make_tokenizer

    base = make_trainer(
        tmp_path, "psr", parameters={"form": "log"}, num_generations_eval=2, per_device_eval_batch_size=4
    )
    prompts = Dataset.from_list([{"prompt": "3 4"}, {"prompt": "5"}])
    trainer = ObjectiveTrainer(
        make_model(),
        even_sum,
        base.args,
        prompts,
        eval_dataset=prompts,
        processing_class=make_tokenizer(),
        objective="psr-log",
    )
    metrics = trainer.evaluate()
    assert metrics["eval_objective/selected"] == metrics["eval_reward"]  # A = r


# -- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("objective", "parameters", "config", "message"),
    [
        ("psr", {}, {}, "objective.form: psr needs a form; choose ratio"),
        ("prs-ratio", {}, {}, "objective.name: unknown value 'prs-ratio'; did you mean"),
        ("w-reinforce", {"form": "ratio"}, {}, "objective.lambda: w-reinforce-ratio needs it, got none"),
        ("psr-ratio", {"clip_lo": 0.2}, {}, "objective.clip_lo: unknown parameter; did you mean"),
        (3, {}, {}, "objective: expected a name or an Objective, got int"),
        (
            objectives.get("grpo"),
            {"clip_low": 0.2},
            {},
            "objective: expected its name beside clip_low, got an Objective",
        ),
        ("dpo", {"beta": 0.1}, {}, "objective: dpo compares pairs of responses, which TRL's batch lacks"),
        ("opd", {}, {}, "objective: opd learns from a teacher"),
        ("remax", {}, {}, "objective: remax subtracts the reward of each prompt's greedy response"),
        ("optimal-token-baseline", {}, {}, "weighs positions by .* which TRL's batch lacks; choose rloo"),
        ("entropy-bonus", {"alpha": 0.1}, {}, "entropy-bonus is a regulariser over the vocabulary"),
        ("pass-at-k", {"k": 8}, {}, "rollout.group_size: pass-at-k takes 8 of the responses"),
        (
            "high-entropy",
            {},
            {"gradient_accumulation_steps": 2},
            "high-entropy chooses tokens over a minibatch.* got 2",
        ),
        ("grpo", {"rollout_is": "token-truncate", "rollout_is_high": 2.0}, {}, "got rollouts of the model itself"),
        ("psr-log", {}, {"loss_type": "cispo"}, "args.loss_type: expected dapo.* got cispo"),
        ("psr-log", {}, {"epsilon": 0.3}, r"args.epsilon: expected TRL's default \(0.2\).* got 0.3; .* clip_low"),
        ("psr-log", {}, {"scale_rewards": "none"}, "args.scale_rewards: .* got none; .* parameter advantage"),
        ("psr-log", {}, {"rows": "leave"}, "rows: expected keep or drop, got 'leave'"),
        ("psr-log", {}, {"threshold": float("nan")}, "threshold: expected a finite number, got nan"),
        (
            "psr-log",
            {},
            {"rows": "drop", "gradient_accumulation_steps": 8},
            "rows: drop expects steps_per_generation to be a multiple .* got 4 and 8",
        ),
    ],
)
def test_what_cannot_be_expressed_is_refused_before_training(objective, parameters, config, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        make_trainer(tmp_path, objective, parameters=parameters, **config)


def test_importing_the_package_imports_no_trl():
    code = "import analysis, analysis.engines, sys; assert not {'trl', 'torch'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
