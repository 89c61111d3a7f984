"""A random model in float64 and hand-made rollout batches: enough to check an update against a naive one."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from analysis.objectives import get
from analysis.recipes.fields import (
    ObjectiveFields,
    OptimizerFields,
    RolloutFields,
    RunConfig,
    UpdateFields,
    objective_settings,
)
from analysis.training.optimizer import make_optimizer
from analysis.training.regularizers import Regularizers
from analysis.training.rollouts import RolloutBatch
from analysis.training.sign_passes import PassRunner
from analysis.training.step_targets import StepTargets
from analysis.training.update import Updater
from toy_models import Policy, Prompt, Verdict

VOCAB = 17


def random_policy(seed: int = 0) -> Policy:
    """GPT-2, since the norms of the Llama family round to float32 inside: two backward passes would differ by that."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=VOCAB,
        n_embd=16,
        n_layer=2,
        n_head=2,
        n_positions=32,
        initializer_range=0.4,
        bos_token_id=1,
        eos_token_id=1,
        pad_token_id=0,
    )
    tokenizer = SimpleNamespace(pad_token_id=0, eos_token_id=1)
    return Policy(GPT2LMHeadModel(config).double().eval(), tokenizer)


def random_batch(
    objective,
    *,
    groups: int = 4,
    group_size: int = 4,
    seed: int = 0,
) -> RolloutBatch:
    """Random responses with random rewards."""
    g = torch.Generator().manual_seed(seed)
    n = groups * group_size
    prompts = [
        Prompt(f"p{i}", tuple(torch.randint(2, VOCAB, (3 + i % 2,), generator=g).tolist()), "", "train", None)
        for i in range(groups)
    ]
    lengths = torch.randint(1, 7, (n,), generator=g)
    responses = [torch.randint(2, VOCAB, (int(length),), generator=g).tolist() for length in lengths]
    rewards = (torch.rand(n, generator=g) < 0.5).float()
    advantages = objective.advantages(rewards, group_size)
    width = int(lengths.max())
    return RolloutBatch(
        step=0,
        prompts=prompts,
        group_size=group_size,
        responses=responses,
        lengths=lengths,
        finished=torch.ones(n, dtype=torch.bool),
        sampling_log_probs=torch.zeros(n, width),
        sampling_entropy=torch.zeros(n, width),
        kept_mass=torch.ones(n, width),
        entropy=torch.zeros(n, width),
        verdicts=[Verdict(bool(r), "") for r in rewards],
        correct=rewards > 0,
        rewards=rewards,
        flipped=torch.zeros(n, dtype=torch.bool),
        advantages=advantages,
        selected=advantages != 0,
    )


def off_policy_targets(batch: RolloutBatch, policy: Policy, noise: float, seed: int = 1) -> StepTargets:
    """Targets whose old log-probs are the policy's own with Gaussian noise of this scale."""
    g = torch.Generator().manual_seed(seed)
    old = torch.zeros(batch.sampling_log_probs.shape, dtype=torch.float64)
    for i, values in enumerate(naive_log_probs(policy.model, batch)):
        old[i, : len(values)] = values.detach() + noise * torch.randn(len(values), generator=g, dtype=torch.float64)
    return StepTargets(batch.advantages, old_log_probs=old.clamp(max=-1e-3))


def naive_logits(model, batch: RolloutBatch, i: int) -> torch.Tensor:
    """Logits that predict the response of rollout i: one unpadded forward pass."""
    prompt, response = list(batch.prompt(i).ids), batch.responses[i]
    logits = model(torch.tensor([prompt + response])).logits[0]
    return logits[len(prompt) - 1 : len(prompt) + len(response) - 1]


def naive_log_probs(model, batch: RolloutBatch, temperature: float = 1.0) -> list[torch.Tensor]:
    out = []
    for i in range(len(batch)):
        laws = torch.log_softmax(naive_logits(model, batch, i) / temperature, -1)
        out.append(laws[torch.arange(len(batch.responses[i])), torch.tensor(batch.responses[i])])
    return out


def make_config(**tables) -> RunConfig:
    """RunConfig with some fields of some tables replaced: make_config(objective={"name": "psr"})."""
    base = {
        "objective": ObjectiveFields(name="reinforce", form="ratio", clip_low=0.2, clip_high=0.2),
        "optimizer": OptimizerFields(name="sgd", lr=0.1),
        "rollout": RolloutFields(prompts=4, group_size=4),
        "update": UpdateFields(),
    }
    return RunConfig(**{name: dataclasses.replace(base[name], **tables.get(name, {})) for name in base})


def make_updater(config: RunConfig, policy: Policy | None = None) -> Updater:
    policy = policy or random_policy()
    objective = get(config.objective.name, **objective_settings(config.objective))
    runner = PassRunner(policy, objective, Regularizers.of(config.objective), config.update, config.rollout.temperature)
    optimizer = make_optimizer(policy.model.parameters(), config.optimizer)
    return Updater(runner, optimizer, config.update, max_grad_norm=config.optimizer.max_grad_norm)
