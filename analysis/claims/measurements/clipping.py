"""The batch gradient with and without the clip of PPO's ratio, while a batch of rollouts is used a second time.

Per token the clip either keeps the gradient or sets it to zero, exactly. Of a batch it removes some tokens and keeps
the others, so that the direction of the sum can turn: by how much is the cosine of the two gradients.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from toy_models import Policy, evaluation_mode

from ...common.randomness import seed_of
from ...gradient_noise.exact import flat_gradient, trained_parameters
from ...objectives import TokenBatch, get
from ..evidence import Progress
from .responses import SampledResponses, base_and_task, sampled

__all__ = ["Clipped", "clip_cosines", "zero_or_same"]

_CLIP = 0.2
_MINIBATCHES, _EPOCHS = 4, 2


@dataclass(frozen=True)
class Clipped:
    """Of one method, over seeds.

    Attributes:
        cosine: Mean over the updates of the second epoch of the cosine of both gradients, (seeds,).
        least: The least of these cosines, (seeds,).
        tokens: Mean fraction of tokens that the clip sets to zero in those updates, (seeds,).
    """

    cosine: np.ndarray
    least: np.ndarray
    tokens: np.ndarray


def zero_or_same(seed: int = 0) -> float:
    """The greatest difference of a token's clipped weight from both 0 and its weight without the clip, over random
    tokens of either sign; it is 0 where clipping does what it should."""
    generator = torch.Generator().manual_seed(seed_of(seed, "gradient_noise"))
    log_probs = -torch.rand(4096, 1, generator=generator, dtype=torch.float64)
    old = log_probs + 0.4 * torch.randn(4096, 1, generator=generator, dtype=torch.float64)
    greatest = 0.0
    for name, sign in (("psr", 1.0), ("nsr", -1.0)):
        batch = TokenBatch(log_probs, old, torch.full((4096,), sign, dtype=torch.float64))
        clipped, plain = (get(name, form="ratio", **clip).weights(batch).weight for clip in (_clip_fields(), {}))
        greatest = max(greatest, float(torch.minimum(clipped.abs(), (clipped - plain).abs()).max()))
    return greatest


def clip_cosines(
    base: str,
    seeds: int,
    progress: Progress,
    *,
    prompts: int = 64,
    group_size: int = 8,
    lr: float = 1.5e-4,
) -> dict[str, Clipped]:
    """PSR and NSR by AdamW with the clip, two passes over one batch of rollouts in four minibatches each.

    The learning rate and the clip are those of the recipe `default`, rows of the other sign are dropped, and the
    summed loss is divided by the tokens of the minibatch.
    """
    rows: dict[str, list[tuple[float, float, float]]] = {"PSR": [], "NSR": []}
    for seed in range(seeds):
        for name, found in rows.items():
            policy, task = base_and_task(base, seed)
            generator = torch.Generator().manual_seed(seed_of(seed, "gradient_noise"))
            drawn = sampled(policy, task, task.prompts("validation")[:prompts], group_size, generator)
            with evaluation_mode(policy.model), torch.enable_grad():
                cosines, tokens = _second_epoch(policy, drawn, name, lr, generator)
            found.append((float(np.mean(cosines)), min(cosines), float(np.mean(tokens))))
        progress(f"clipped gradients of {base}", seed + 1, seeds)
    return {name: Clipped(*np.array(found).T) for name, found in rows.items()}


def _second_epoch(
    policy: Policy, drawn: SampledResponses, name: str, lr: float, generator: torch.Generator
) -> tuple[list[float], list[float]]:
    """Cosine of both gradients and fraction of clipped tokens, of each update of the second epoch."""
    parameters = trained_parameters(policy)
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.0)
    kept = (drawn.correct if name == "PSR" else ~drawn.correct).nonzero()[:, 0]
    with torch.no_grad():
        old, _ = policy.log_probs(drawn.prompts, drawn.responses)
    cosines, fractions = [], []
    for epoch in range(_EPOCHS):
        order = kept[torch.randperm(len(kept), generator=generator)]
        for rows in order.chunk(_MINIBATCHES):
            clipped, active = _gradient(policy, drawn, rows, old, name, parameters, _clip_fields())
            if epoch:
                plain, _ = _gradient(policy, drawn, rows, old, name, parameters, {})
                cosines.append(float(torch.nn.functional.cosine_similarity(clipped.double(), plain.double(), dim=0)))
                fractions.append(active)
            _step(optimizer, parameters, clipped)
    return cosines, fractions


def _gradient(
    policy: Policy,
    drawn: SampledResponses,
    rows: Tensor,
    old: Tensor,
    name: str,
    parameters: list[Tensor],
    clip: dict[str, float],
) -> tuple[Tensor, float]:
    """The gradient of the loss over some rows, and the fraction of their tokens without a weight."""
    prompts, responses = ([part[i] for i in rows] for part in (drawn.prompts, drawn.responses))
    log_probs, mask = policy.log_probs(prompts, responses)
    sign = 1.0 if name == "PSR" else -1.0
    width = mask.shape[1]
    batch = TokenBatch(log_probs.detach(), old[rows][:, :width], torch.full((len(rows),), sign), mask)
    objective = get(name.lower(), form="ratio", **clip)
    loss = objective.loss(log_probs, batch).masked_fill(~mask, 0).sum() / mask.sum()
    weightless = (objective.weights(batch).weight == 0)[mask]
    return flat_gradient(loss, parameters), float(weightless.double().mean())


def _step(optimizer: torch.optim.Optimizer, parameters: list[Tensor], gradient: Tensor) -> None:
    for parameter, part in zip(parameters, gradient.split([p.numel() for p in parameters]), strict=True):
        parameter.grad = part.view_as(parameter).clone()
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    optimizer.zero_grad()


def _clip_fields() -> dict[str, float]:
    return {"clip_low": _CLIP, "clip_high": _CLIP}
