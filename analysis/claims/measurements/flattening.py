"""One step of an entropy bonus beside one of NSR, of equal size: what happens to the tail.

Both directions are gradients at the same base: that of the mean token entropy, −Σ_v π_v(log π_v + H)∂z_v, and that of
NSR's loss over wrong responses. Each is followed by plain gradient ascent until a given quantity is reached, the norm
of the parameter step or the mean KL(π ‖ π') over the contexts of the responses; then the distributions are compared.
A change of entropy is not matched: NSR often lowers it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from toy_models import Policy, evaluation_mode, response_logits

from ...common.randomness import seed_of
from ...errors import DivergedError
from ...gradient_noise.exact import trained_parameters
from ..evidence import Progress
from .responses import SampledResponses, base_and_task, sampled

__all__ = ["DIRECTIONS", "tail_changes", "tail_log_change"]

DIRECTIONS = ("bonus", "NSR", "random")
_TAIL = 0.01  # π_v below which a token belongs to the tail of its context
_KL = 1e-3  # nats
_NORM = 0.01  # of the parameters' own norm
_TRIALS, _CLOSE = 40, 1e-2  # a relative error of 1% of the KL is one of 0.5% in the step


def tail_log_change(before: Tensor, after: Tensor) -> float:
    """log of the mass of the tail after the step over that before, the tail being the tokens with π_v < 0.01 before.

    Args:
        before: log π, (contexts, V).
        after: log π', (contexts, V).

    Example:
        >>> before = torch.tensor([[0.98, 0.005, 0.015]], dtype=torch.float64).log()
        >>> after = torch.tensor([[0.96, 0.010, 0.030]], dtype=torch.float64).log()
        >>> round(tail_log_change(before, after), 6)  # 0.005 became 0.01
        0.693147
    """
    tail = before.exp() < _TAIL
    masses = [torch.where(tail, log_probs.exp(), 0.0).sum() for log_probs in (after, before)]
    return float((masses[0] / masses[1]).log())


def tail_changes(
    base: str, seeds: int, progress: Progress, *, prompts: int = 32, group_size: int = 4
) -> dict[tuple[str, str], np.ndarray]:
    """Of bases and of responses to validation prompts, in float64.

    Returns:
        (matching, direction) -> per seed `tail_log_change` and the change of the mean entropy in nats, (seeds, 2).
        Matchings are "KL" and "step norm"; "random" is a direction that has nothing to do with the policy.
    """
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for seed in range(seeds):
        generator = torch.Generator().manual_seed(seed_of(seed, "gradient_noise"))
        policy, task = base_and_task(base, seed)
        policy.model.double()
        drawn = sampled(policy, task, task.prompts("validation")[:prompts], group_size, generator)
        with evaluation_mode(policy.model):
            before, directions = _directions(policy, drawn, generator)
            parameters = trained_parameters(policy)
            start = torch.cat([p.detach().reshape(-1) for p in parameters])
            for name, direction in directions.items():

                def at(
                    size: float,
                    direction: Tensor = direction,
                    policy: Policy = policy,
                    drawn: SampledResponses = drawn,
                    start: Tensor = start,
                ) -> Tensor:
                    _set(trained_parameters(policy), start + size * direction)
                    return _log_probs(policy, drawn)

                norm = _NORM * float(start.norm())
                for matching, size in (("KL", _size_of(at, before)), ("step norm", norm)):
                    after = at(size)
                    change = (_entropy(after) - _entropy(before)).mean()
                    found.setdefault((matching, name), []).append((tail_log_change(before, after), float(change)))
            _set(parameters, start)
        progress(f"entropy bonus and NSR from {base}", seed + 1, seeds)
    return {key: np.array(rows) for key, rows in found.items()}


def _directions(
    policy: Policy, drawn: SampledResponses, generator: torch.Generator
) -> tuple[Tensor, dict[str, Tensor]]:
    """log π at all contexts, (contexts, V), and the directions as unit vectors over all parameters."""
    parameters = trained_parameters(policy)
    with torch.enable_grad():
        mask = drawn.batch.mask
        log_probs = response_logits(policy.model, drawn.batch).log_softmax(-1)
        chosen = log_probs.gather(-1, drawn.batch.tokens[..., None])[..., 0]
        wrong = mask & ~drawn.correct[:, None]
        values = {"bonus": _entropy(log_probs[mask]).mean(), "NSR": -chosen[wrong].sum() / mask.sum()}
        gradients = [torch.autograd.grad(value, parameters, retain_graph=True) for value in values.values()]
    flat = {
        name: torch.cat([g.reshape(-1) for g in gradient]) for name, gradient in zip(values, gradients, strict=True)
    }
    flat["random"] = torch.randn(len(flat["bonus"]), generator=generator, dtype=torch.float64)
    return log_probs[mask].detach(), {name: flat[name] / flat[name].norm() for name in DIRECTIONS}


def _size_of(at: Callable[[float], Tensor], before: Tensor) -> float:
    """The step size at which the mean KL(π ‖ π') is 0.001 nats; KL is nearly quadratic in the size."""
    size = 1e-3
    for _ in range(_TRIALS):
        kl = float((before.exp() * (before - at(size))).sum(-1).mean())
        if abs(kl / _KL - 1) < _CLOSE:
            return size
        size *= min(10.0, max(0.1, math.sqrt(_KL / max(kl, 1e-12))))
    raise DivergedError(f"entropy bonus and NSR: no step of KL {_KL:g} nats was found within {_TRIALS} trials")


def _log_probs(policy: Policy, drawn: SampledResponses) -> Tensor:
    with torch.no_grad():
        return response_logits(policy.model, drawn.batch).log_softmax(-1)[drawn.batch.mask]


def _entropy(log_probs: Tensor) -> Tensor:
    return -(log_probs.exp() * log_probs).sum(-1)


def _set(parameters: list[Tensor], values: Tensor) -> None:
    with torch.no_grad():
        for parameter, part in zip(parameters, values.split([p.numel() for p in parameters]), strict=True):
            parameter.copy_(part.view_as(parameter))
