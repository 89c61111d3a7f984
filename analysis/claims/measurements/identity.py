"""PSR and NSR have one expected gradient: exactly on tables and trees, within sampling noise on transformers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from toy_models import Bandit, Tree, ensure_base, get_task, load_policy

from ...common.randomness import seed_of
from ...gradient_noise import gradient_noise
from ..evidence import Progress

__all__ = ["Projections", "exact_differences", "projections"]

_ARMS, _VOCAB, _DEPTH, _POLICIES = 12, 4, 4, 64


def exact_differences(seed: int = 0) -> dict[str, float]:
    """‖E g_PSR − E g_NSR‖/‖∇p‖, the greatest over random policies with random verdicts, in float64.

    PSR weighs a correct response by 1, NSR a wrong one by −1; ∇p is the gradient of the success probability. "tree"
    has sequences of different lengths with summed tokens. "length mean" divides the weight of a response by its length,
    which breaks the identity: it shows that the check can fail.
    """
    generator = torch.Generator().manual_seed(seed_of(seed, "gradient_noise"))
    bandit = Bandit(torch.randn(_POLICIES, _ARMS, generator=generator, dtype=torch.float64))
    tree = Tree.random(_VOCAB, _DEPTH, batch=(_POLICIES,), generator=generator)
    found = {}
    for name, policy in (("table", bandit), ("tree", tree)):
        correct = torch.rand(policy.log_probs().shape, generator=generator) < 0.3
        correct[..., 0], correct[..., 1] = True, False
        positive, negative = correct.double(), correct.double() - 1
        found[name] = _relative(policy.expected_score(positive), policy.expected_score(negative))
        if isinstance(policy, Tree):
            lengths = policy.lengths().double()
            scores = (policy.expected_score(weights / lengths) for weights in (positive, negative))
            found["tree, length mean"] = _relative(*scores)
    return found


def _relative(first: torch.Tensor, second: torch.Tensor) -> float:
    return float(((first - second).norm(dim=-1) / first.norm(dim=-1)).max())


@dataclass(frozen=True)
class Projections:
    """Of one base over seeds, each with a base of its own.

    Attributes:
        base: Name of the base.
        p: Mean success probability of each seed's base, (seeds,).
        psr: ⟨g, ∇p⟩/‖∇p‖² of the mean PSR estimate; its expectation is 1, (seeds,).
        nsr: The same of NSR.
        noise_to_signal: Rollouts at which signal and noise are as large, estimator -> (seeds,).
        correlation: Of the projections of PSR and NSR over replicates, (seeds,): both come from the same rollouts.
    """

    base: str
    p: np.ndarray
    psr: np.ndarray
    nsr: np.ndarray
    noise_to_signal: dict[str, np.ndarray]
    correlation: np.ndarray


def projections(
    base: str, seeds: int, progress: Progress, *, prompts: int = 32, group_size: int = 8, replicates: int = 48
) -> Projections:
    """Exact ∇p against sampled PSR and NSR gradients of the same rollouts, for the bases of seeds 0, 1, …

    Rollouts are drawn by the sampler that training uses, so that a difference between what is sampled and what is
    differentiated would show as a projection that is not 1.
    """
    rows = []
    for seed in range(seeds):
        ensure_base(base, seed)
        policy = load_policy(base, seed=seed)
        task = get_task(_task(base), policy.tokenizer)
        noise = gradient_noise(
            policy,
            task,
            task.prompts("validation")[:prompts],
            generator=torch.Generator().manual_seed(seed_of(seed, "gradient_noise")),
            group_size=group_size,
            replicates=replicates,
            progress=partial(_tell, progress, base, seed, seeds),
        )
        frame = noise.frame().set_index("estimator")
        psr, nsr = noise.dots[:2] / noise.gradient_sq
        rows.append(
            (
                float(noise.p.mean()),
                *frame.loc[["PSR", "NSR"], "projection"],
                *frame.loc[["PSR", "NSR"], "noise_to_signal"],
                float(np.corrcoef(psr, nsr)[0, 1]),
            )
        )
    by_seed = np.array(rows).T
    noise_to_signal = {"PSR": by_seed[3], "NSR": by_seed[4]}
    return Projections(base, by_seed[0], by_seed[1], by_seed[2], noise_to_signal, by_seed[5])


def _tell(progress: Progress, base: str, seed: int, seeds: int, done: int, total: int) -> None:
    progress(f"noise of {base}", seed * total + done, seeds * total)


def _task(base: str) -> str:
    from toy_models import BASES

    return BASES[base].task
