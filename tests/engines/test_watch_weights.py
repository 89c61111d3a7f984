"""Recorded weights, statistics and clips of every loss of TRL against losses written out in float64.

Parameters are copied before each update. From them a plain float64 forward pass gives log π and H of every token; the
loss of tests/reference/trl_losses.py, from the recorded rewards alone, gives the weights. Nothing of that is read from
TRL but which rows make a microbatch. Only log π_old is the recorded one, which is compared with the parameters of the
generation: with a ratio from rounded log-probs the losses agree to 2e-6 of the largest weight, and no clip is decided
otherwise.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import analysis
from analysis import RecordSpec
from tests.reference.trl_losses import Row, Setting, loss_of, setting_of

from .objective_runs import make_model
from .watched_runs import Parameters, make_trl_trainer

WEIGHTS = 2e-6  # of the largest weight of an update: float32 log-probs of some nats, and their exponentials
OF_RESPONSES = 5e-6  # RLOO's ratio is of a whole response: five rounded log-probs and their sum
LOG_PROBS = ENTROPIES = 5e-6  # nats, of logits in float32


@dataclass
class Observed:
    """A watched training: records, rows of its microbatches, parameters before each update."""

    trainer: Any
    watch: Any
    parts: list[list[int]]  # rollouts of each microbatch
    parameters: list[dict[str, Tensor]]


def train(folder: Any, **config: Any) -> Observed:
    trainer = make_trl_trainer(folder, **config)
    parameters = Parameters()
    trainer.add_callback(parameters)
    watch = analysis.watch(trainer, record=RecordSpec(tokens=1.0, top_k=3))
    parts, compute_loss = [], trainer._compute_loss

    def seen(model: Any, inputs: dict[str, Any]) -> Tensor:
        parts.append(inputs["watch_row"].tolist())
        return compute_loss(model, inputs)

    trainer._compute_loss = seen
    trainer.train()
    return Observed(trainer, watch, parts, parameters.before)


def plain(parameters: dict[str, Tensor], prompt: list[int], response: list[int], temperature: float) -> Any:
    """(log π, H) in float64 of the response tokens under softmax(z/T), by one forward pass over this row alone."""
    model = make_model().double()
    model.load_state_dict(parameters)
    logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1] / temperature
    log_probs = logits.log_softmax(-1)
    chosen = log_probs.gather(-1, torch.tensor(response)[:, None])[:, 0]
    return chosen.detach(), -(log_probs.exp() * log_probs).sum(-1).detach()


def advantages_of(rollouts: pd.DataFrame, kind: str) -> pd.Series:
    """(r − mean)/(std + 1e-4) of the group; RLOO the reward without the mean of the others, divided by nothing."""
    groups = rollouts.groupby("group").reward
    mean = groups.transform("mean")
    if kind == "rloo":
        size = groups.transform("size")
        return (rollouts.reward - mean) * size / (size - 1)
    return (rollouts.reward - mean) / (groups.transform("std") + 1e-4)


def compare(run: Observed) -> dict[str, float]:
    """The greatest distances of the records from the plain route."""
    records, args = run.watch.records(), run.trainer.args
    tokens, rollouts = records["tokens"], records["rollouts"]
    prompts = records["prompts"].set_index("prompt_id").token_ids
    setting, kind = setting_of(run.trainer), setting_of(run.trainer).loss_type
    worst = dict.fromkeys(("weight", "kl_weight", "entropy_weight", "log_prob", "entropy", "ratio", "old"), 0.0)
    clips = 0
    base = run.parameters[0]
    for update, row in records["updates"].set_index("update").iterrows():
        of_step = rollouts[rollouts["step"] == row.step].set_index("rollout", drop=False)
        advantages = advantages_of(of_step, kind)
        of_update = tokens[tokens["update"] == update]
        accumulation = args.gradient_accumulation_steps
        first = int(update) * accumulation
        sampled_at = records["updates"].query("step == @row.step")["update"].min()
        tokens_in_generation = int(of_step.length[~truncated(run, of_step)].sum())
        whole = dataclasses.replace(setting, tokens_in_generation=tokens_in_generation)
        expected = [
            by_hand(run, part, of_step, of_update, prompts, advantages, whole, base, int(update), int(sampled_at))
            for part in run.parts[first : first + accumulation]
        ]
        merged = of_update.merge(pd.concat(expected), on=["rollout", "position"], suffixes=("", "_hand"), how="outer")
        assert len(merged) == len(of_update) == sum(len(frame) for frame in expected)
        largest = max(merged[name].abs().max() for name in ("weight_hand", "kl_weight_hand") if name in merged)
        for name, scale in (("weight", largest), ("kl_weight", largest), ("entropy_weight", largest)):
            if f"{name}_hand" in merged:
                worst[name] = max(worst[name], float((merged[name] - merged[f"{name}_hand"]).abs().max() / scale))
        for name in ("log_prob", "entropy", "ratio", "old"):
            recorded = merged["old_log_prob"] if name == "old" else merged[name]
            if not recorded.isna().all():
                scale = merged["ratio_hand"] if name == "ratio" else 1.0
                worst[name] = max(worst[name], float(((recorded - merged[f"{name}_hand"]) / scale).abs().max()))
        assert (merged["clip"] == merged["clip_hand"]).all()
        clips += int((merged["clip"] != 0).sum())
        if kind in ("grpo", "bnpo", "dr_grpo", "dapo", "luspo") and setting.quantile == 1 and setting.beta == 0:
            zero = merged.weight == 0
            assert (zero == ((merged["clip"] != 0) | (merged.advantage == 0))).all()
    return worst | {"clips": clips}


def truncated(run: Observed, of_step: pd.DataFrame) -> pd.Series:
    masked = getattr(run.trainer.args, "mask_truncated_completions", False)
    return of_step.response_ids.map(lambda ids: bool(masked and ids[-1] not in (0, 2)))


def by_hand(
    run: Observed,
    part: list[int],
    of_step: pd.DataFrame,
    of_update: pd.DataFrame,
    prompts: pd.Series,
    advantages: pd.Series,
    setting: Setting,
    base: dict[str, Tensor],
    update: int,
    sampled_at: int,
) -> pd.DataFrame:
    """Weights, statistics and clips of the tokens of one microbatch."""
    rows, facts = [], []
    temperature = run.trainer.args.temperature
    skipped = truncated(run, of_step)
    for number in part:
        rollout = of_step.loc[number]
        response = [] if skipped[number] else rollout.response_ids.tolist()
        prompt = prompts[rollout.prompt_id].tolist()
        whole = prompt, rollout.response_ids.tolist()
        log_probs, entropies = (x[: len(response)] for x in plain(run.parameters[update], *whole, temperature))
        old = plain(run.parameters[sampled_at], *whole, temperature)[0][: len(response)]
        ref = plain(base, *whole, temperature)[0][: len(response)] if setting.beta else None
        recorded = of_update[of_update.rollout == number].sort_values("position")
        if not recorded.old_log_prob.isna().any():  # the float32 numbers that TRL made the ratio of
            gap = recorded.log_prob.to_numpy(dtype=np.float64) - recorded.old_log_prob.to_numpy(dtype=np.float64)
            old_used = log_probs - torch.tensor(gap)
        else:
            old_used = log_probs if update == sampled_at else old
        rows.append(
            Row(
                log_probs.requires_grad_(),
                entropies.requires_grad_(),
                old_used.detach(),
                ref,
                float(advantages[number]),
            )
        )
        facts.append((number, old))
    loss = loss_of(rows, setting)
    leaves = [row.log_probs for row in rows] + [row.entropies for row in rows]
    gradients = torch.autograd.grad(loss, leaves, allow_unused=True, retain_graph=True)
    without = gradients
    if setting.beta:
        without = torch.autograd.grad(loss_of(rows, dataclasses.replace(setting, beta=0.0)), leaves, allow_unused=True)
    frames = []
    for place, (row, (number, old)) in enumerate(zip(rows, facts, strict=True)):
        n = len(row.log_probs)
        zeros = torch.zeros(n, dtype=torch.float64)
        policy = -(zeros if without[place] is None else without[place])
        frame = {
            "rollout": np.full(n, number),
            "position": np.arange(n),
            "weight": policy.numpy(),
            "log_prob": row.log_probs.detach().numpy(),
            "entropy": row.entropies.detach().numpy(),
            "old": old.numpy(),
        }
        if setting.beta:
            frame["kl_weight"] = (-(gradients[place]) - policy).numpy()
        if setting.entropy_coef:
            frame["entropy_weight"] = -gradients[len(rows) + place].numpy()
        log_ratio = row.log_probs - row.old
        if setting.level == "sequence":
            log_ratio = log_ratio.mean().expand_as(log_ratio) if n else log_ratio
        if setting.loss_type == "rloo":
            log_ratio = log_ratio.sum().expand_as(log_ratio)
        log_ratio = log_ratio.detach()
        frame["ratio"] = log_ratio.exp().numpy()
        frame["clip"] = clip_of(log_ratio, row.advantage, setting)
        frames.append(
            pd.DataFrame(frame)
            .add_suffix("_hand")
            .rename(columns={"rollout_hand": "rollout", "position_hand": "position"})
        )
    return pd.concat(frames)


def clip_of(log_ratio: Tensor, advantage: float, setting: Setting) -> np.ndarray:
    ratio = log_ratio.exp().numpy()
    low, high = 1 - setting.epsilon_low, 1 + setting.epsilon_high
    if setting.loss_type in ("sapo", "vespo"):
        return np.zeros(len(ratio), dtype=int)
    if setting.loss_type == "cispo":
        return (ratio > setting.epsilon_high).astype(int)
    if setting.loss_type == "gmpo":
        low, high = np.exp(-setting.epsilon_low), np.exp(setting.epsilon_high)
    first, second = (high, np.inf) if setting.delta is None else sorted([high, setting.delta])
    above = ratio > (first if advantage > 0 else second)
    return above.astype(int) * (advantage != 0) - ((ratio < low) & (advantage < 0))


THREE = {"num_iterations": 3, "max_steps": 6}
CASES: dict[str, dict[str, Any]] = {
    "grpo": {"loss_type": "grpo", **THREE},
    "bnpo": {"loss_type": "bnpo", **THREE},
    "dr_grpo": {"loss_type": "dr_grpo", **THREE},
    "dapo": {"epsilon_high": 0.28, **THREE},
    "cispo": {"loss_type": "cispo", "epsilon_high": 1.5, **THREE},
    "sapo": {"loss_type": "sapo", **THREE},
    "luspo": {"loss_type": "luspo", "importance_sampling_level": "sequence", **THREE},
    "vespo": {"loss_type": "vespo", **THREE},
    "gspo": {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 0.05, **THREE},
    "rloo": {"kind": "rloo", "normalize_advantages": False, **THREE},
    "gmpo": {"kind": "gmpo", "epsilon": 0.1, "epsilon_high": 0.1, **THREE},
    "temperature": {"temperature": 0.7, **THREE},
    "kl": {"beta": 0.1, **THREE},
    "kl of gmpo": {"kind": "gmpo", "beta": 0.1, **THREE},
    "uncorrected kl": {"beta": 0.1, "use_bias_correction_kl": False, **THREE},
    "kl and clip": {"loss_type": "grpo", "beta": 0.2, "delta": 1.5, **THREE},
    "delta": {"delta": 1.5, **THREE},
    "delta below the clip": {"delta": 1.1, **THREE},
    "quantile": {"top_entropy_quantile": 0.5, **THREE},
    "truncated": {"mask_truncated_completions": True, **THREE},
    "entropy bonus": {"entropy_coef": 0.05, **THREE},
    "quantile and bonus": {"top_entropy_quantile": 0.5, "entropy_coef": 0.05, "beta": 0.1},
    "4 accumulated": {"gradient_accumulation_steps": 4, "loss_type": "bnpo"},
    "checkpointing": {"gradient_checkpointing": True, **THREE},
    "lora": {"lora": True, **THREE},
}


@pytest.mark.parametrize("name", CASES)
def test_records_agree_with_losses_in_float64(name, tmp_path):
    config = dict(CASES[name])
    if config.pop("lora", False):
        config["peft_config"] = pytest.importorskip("peft").LoraConfig(
            r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False
        )
    if config.get("beta"):  # TRL loads the reference from a folder
        config["model"] = make_model(tmp_path / "base")
    worst = compare(train(tmp_path, **config))
    assert worst["log_prob"] < LOG_PROBS
    assert worst["old"] < LOG_PROBS
    assert worst["entropy"] < ENTROPIES
    assert worst["ratio"] < 1e-5  # of itself: two rounded log-probs
    slack = OF_RESPONSES if name == "rloo" else WEIGHTS
    assert max(worst["weight"], worst["kl_weight"], worst["entropy_weight"]) < slack
    if name in ("grpo", "dapo", "cispo", "luspo", "gspo", "rloo", "gmpo", "delta", "kl and clip"):
        assert worst["clips"] > 0


def test_weights_under_bfloat16_are_those_of_the_log_probs_that_it_gave(tmp_path):
    """Log-probs differ from those of a plain pass by the rounding of bfloat16; the weights follow from them exactly."""
    run = train(tmp_path, bf16=True, loss_type="dr_grpo", **THREE)
    tokens = run.watch.records()["tokens"]
    rows, length = 4, run.trainer.max_completion_length
    inside = tokens["clip"] == 0
    expected = tokens.advantage * tokens.ratio * inside / (rows * length * 2)
    assert ((tokens.weight - expected).abs().max()) < 1e-6 * tokens.weight.abs().max()
    assert (tokens.weight != 0).sum() > 20
    records = run.watch.records()
    rollouts = records["rollouts"].set_index(["step", "rollout"])
    prompts = records["prompts"].set_index("prompt_id").token_ids
    off = []
    for (update, step, number), part in tokens.groupby(["update", "step", "rollout"]):
        rollout = rollouts.loc[(step, number)]
        prompt, response = prompts[rollout.prompt_id].tolist(), rollout.response_ids.tolist()
        log_probs, _ = plain(run.parameters[update], prompt, response, 1.0)
        off += np.abs(part.log_prob.to_numpy() - log_probs.numpy()).tolist()
    assert 1e-5 < np.mean(off) < 0.02  # bfloat16 has 8 bits: logits of some nats are off by 2^-8 of themselves
