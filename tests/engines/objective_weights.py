"""Weights of a run of `ObjectiveTrainer` by closed forms in float64, and snapshots of its parameters and moments."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from analysis.objectives import TokenBatch, accuracy_of

from .objective_runs import GROUP, Generation, Microbatch, Run

TOLERANCE = 2e-6  # of the largest weight of a run: float32 log-probs of some nats, and their exponentials


def hand_advantage(family: str, rewards: Tensor) -> Tensor:
    return {"psr": rewards, "nsr": rewards - 1, "w-reinforce": 0.1 * rewards - (1 - rewards)}[family]


def hand_weight(form: str, advantage: Tensor, log_probs: Tensor, old: Tensor) -> Tensor:
    return advantage[:, None] * {"ratio": (log_probs - old).exp(), "probability": log_probs.exp(), "log": 1.0}[form]


def hand_divisor(part: Microbatch, run: Run) -> Tensor:
    """(B, 1) float64: what each token's loss is divided by, from TRL's documentation of the loss types."""
    args, lengths = run.trainer.args, part.mask.sum(1, keepdim=True).double()
    rows, accumulation = len(lengths), args.gradient_accumulation_steps
    if args.loss_type == "dapo":
        if run.trainer.rows == "keep":
            tokens = run.generations[part.generation].mask.sum() * accumulation / args.steps_per_generation
        else:
            index = run.parts.index(part) // accumulation * accumulation
            tokens = sum(part.mask.sum() for part in run.parts[index : index + accumulation])
        return torch.full_like(lengths, float(tokens)).clamp(min=1)
    if args.loss_type == "bnpo":
        return torch.full_like(lengths, float(lengths.sum())).clamp(min=1) * accumulation
    if args.loss_type == "grpo":
        return lengths.clamp(min=1) * rows * accumulation
    constant = rows * accumulation * (args.max_completion_length if args.loss_type == "dr_grpo" else 1)
    return torch.full_like(lengths, float(constant))


def compare(run: Run, name: str, form: str | None) -> Tensor:
    """The greatest distance of a measured weight from the closed form, over the largest weight; also the parts' count
    of tokens with a weight."""
    distances, sizes = [], []
    for part in run.parts:
        assert part.log_probs is not None
        assert part.weights is not None
        generation = run.generations[part.generation]
        rows, real = part.inputs["test_row"], part.mask
        log_probs = part.log_probs.double().masked_fill(~real, 0)
        old = part.inputs.get("old_per_token_logps")
        old = log_probs if old is None else old.double().masked_fill(~real, 0)
        advantages = advantages_of(run, generation, name)[rows]
        if name in ("psr", "nsr", "w-reinforce"):
            assert form is not None
            expected = hand_weight(form, advantages, log_probs, old)
        else:
            expected = run.trainer.objective.weights(batch_of(run, part, log_probs, old, advantages)).weight
        expected = (expected / hand_divisor(part, run)).masked_fill(~real, 0)
        distances.append((part.weights.double() - expected).abs().max())
        sizes.append(expected.abs().max())
    largest = torch.stack(sizes).max()
    assert largest > 0
    return torch.stack(distances).max() / largest


def advantages_of(run: Run, generation: Generation, name: str) -> Tensor:
    """float64 (N,), from the completions alone."""
    rewards, objective = generation.rewards, run.trainer.objective
    if name in ("psr", "nsr", "w-reinforce"):
        return hand_advantage(name, rewards)
    log_probs, mask = generation.log_probs.double().masked_fill(~generation.mask, 0), generation.mask
    more: dict[str, Any] = {"lengths": mask.sum(1), "mean_log_probs": log_probs.sum(1) / mask.sum(1)}
    if "reward_components" in objective.reads():
        more |= {"reward_components": rewards[:, None], "component_weights": torch.ones(1, dtype=torch.float64)}
    return objective.advantages(rewards, GROUP, **more)


def batch_of(run: Run, part: Microbatch, log_probs: Tensor, old: Tensor, advantages: Tensor) -> TokenBatch:
    generation, rows, real = run.generations[part.generation], part.inputs["test_row"], part.mask
    ref = part.inputs.get("ref_per_token_logps")
    baseline = None
    if "kl_baseline" in run.trainer.objective.needs():
        gaps = (generation.log_probs - generation.output["ref_per_token_logps"]).masked_fill(~generation.mask, 0)
        baseline = gaps.double().sum(1).mean().clamp(min=0).expand(len(rows))
    assert part.entropies is not None
    batch = TokenBatch(
        log_probs,
        old,
        advantages,
        real,
        generation.rewards[rows],
        accuracy_of(generation.rewards, GROUP)[rows],
        entropy=part.entropies.double(),
        ref_log_probs=None if ref is None else ref.double().masked_fill(~real, 0),
        kl_baseline=baseline,
    )
    return run.trainer.objective.prepare(batch)


class Snapshots(TrainerCallback):
    """Parameters and the state of the optimiser before and after every step."""

    def __init__(self) -> None:
        self.before: list[tuple[dict[str, Tensor], Any]] = []
        self.after: list[tuple[dict[str, Tensor], Any]] = []

    def on_step_begin(self, args, state, control, model=None, optimizer=None, **_):
        self.before.append(self.take(model, optimizer))

    def on_step_end(self, args, state, control, model=None, optimizer=None, **_):
        self.after.append(self.take(model, optimizer))

    def take(self, model, optimizer):
        state = {
            index: {name: torch.as_tensor(value).clone() for name, value in values.items()}
            for index, values in optimizer.state_dict()["state"].items()
        }
        return {name: value.detach().clone() for name, value in model.named_parameters()}, state


def same(first: Any, second: Any) -> bool:
    """Bit by bit: parameters and every entry of the optimiser's state."""
    (parameters, state), (others, other_state) = first, second
    return (
        all(torch.equal(parameters[name], others[name]) for name in parameters)
        and state.keys() == other_state.keys()
        and all(torch.equal(state[i][name], other_state[i][name]) for i in state for name in state[i])
    )
