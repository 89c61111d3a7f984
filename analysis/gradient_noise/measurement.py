"""Gradient noise of a policy, measured: the exact gradient of success and replicates of its estimators beside it.

Prompts x_1 … x_m are given and fixed, G responses are drawn to each, n = mG. With s = ∇θ log π_T(y | x), summed over
the tokens of a response, and A the advantage that an objective gives it, an estimator is the mean over rollouts

    g = (1/n) Σ_i A_i s_i        E g = a·∇p, ∇p = mean_x ∇p_x, a = 1 for PSR and NSR, 1 + λ, 2 for REINFORCE

(constant normaliser, one update on-policy: there the log and the ratio form have the same gradient and no clip binds).
Its *variance per sample* is n·E‖g − E g‖², the trace of the covariance times the number of rollouts. For estimators
whose A depends on the own reward alone that is mean_x tr Cov(A·s | x), whatever n is. It leaves out how the ∇p_x
differ between prompts: a training step that also draws its prompts has that variance on top, the same for every
estimator. GRPO's A depends on the whole group: its variance is around its own expectation, which re-weights prompts and
is no multiple of ∇p, and it belongs to this group size.

Covariances of PSR and NSR differ by mean_x E[(2r − 1)·s sᵀ | x].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from toy_models import Policy, Prompt, Samples, Task, evaluation_mode, response_logits, sample, teacher_batch
from toy_models.end_tokens import policy_end_tokens
from toy_models.truncation import check_truncation, truncates

from ..common.batching import check_batching
from ..errors import DivergedError, UsageError
from ..evaluation import success_probability
from ..objectives import Objective, get
from .exact import flat_gradient, listed_solutions, trained_parameters
from .moments import LEAST_REPLICATES, GradientNoise

__all__ = ["gradient_noise", "standard_estimators"]

_ROWS = 512  # responses in one backward pass


def standard_estimators(group_size: int, lambda_: float = 0.1) -> dict[str, Objective]:
    """PSR, NSR, W-REINFORCE(λ), REINFORCE, and GRPO where the group is large enough to be normalised.

    Args:
        group_size: responses to each prompt.
        lambda_: weight of correct samples in W-REINFORCE.

    Example:
        >>> list(standard_estimators(1))
        ['PSR', 'NSR', 'W-REINFORCE', 'REINFORCE']
    """
    estimators = {
        "PSR": get("psr-log"),
        "NSR": get("nsr-log"),
        "W-REINFORCE": get("w-reinforce-log", lambda_=lambda_),
        "REINFORCE": get("reinforce-log"),
    }
    return estimators | ({"GRPO": get("grpo")} if group_size > 1 else {})


def gradient_noise(
    policy: Policy,
    task: Task,
    prompts: Sequence[Prompt],
    *,
    generator: torch.Generator,
    group_size: int = 8,
    replicates: int = 16,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    max_new_tokens: int | None = None,
    sampler: Any = None,
    estimators: Mapping[str, Objective] | None = None,
    batch_checked: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> GradientNoise:
    """Measure the noise of several estimators around the exact gradient of mean success over `prompts`.

    Args:
        generator: draws the uniforms of the rollouts, replicate by replicate.
        replicates: K independent batches of len(prompts)·group_size rollouts; at least 3.
        temperature: of the distribution that is sampled and differentiated.
        top_k, top_p: truncation of the distribution that is sampled; 0 and 1 for none.
        max_new_tokens: longest response; unset: the task's own. Success is that of responses no longer than this.
        sampler: the model that draws the rollouts; unset: the policy's own. With another model, or a truncated
            distribution, what is sampled is not what is differentiated, and projections that differ from their
            expectation show how biased the estimators are.
        estimators: by name; unset: `standard_estimators(group_size)`. Comparisons are with the first.
        batch_checked: whether it is known that the model's numbers for a row do not depend on the rest of its batch, as
            after `analysis.common.batching.check_batching`; unset: it is checked.
        progress: receives (replicates done, of how many).

    Cost: the prefix tree of the solutions forwards twice and backwards once, each rollout sampled, forwarded and
    backwarded once, whatever the number of estimators; memory: estimators × replicates gradients in the parameters'
    dtype. Neither parameters, their `.grad`, nor any global generator changes.

    Raises:
        UsageError: a task that cannot list its solutions, no prompts, too few replicates, the probability form,
            or a model whose numbers for a row depend on the rest of its batch.
        DivergedError: the policy's distribution is not finite.
    """
    estimators = standard_estimators(group_size) if estimators is None else estimators
    limit = max_new_tokens or task.max_new_tokens
    try:
        check_truncation(top_k, top_p)
    except ValueError as error:
        raise UsageError(str(error)) from error
    listed = _checked(task, prompts, group_size, replicates, estimators)
    if not batch_checked:
        check_batching(policy, prompts, limit)
    solutions = [[y for y in known if len(y) <= limit] for known in listed]
    draw = partial(
        sample,
        policy.model if sampler is None else sampler,
        [p.ids for p in prompts],
        group_size=group_size,
        max_new_tokens=limit,
        eos_id=policy_end_tokens(policy),
        pad_id=policy.pad_id,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
    )
    parameters = trained_parameters(policy)
    drawn = torch.zeros(
        len(estimators),
        replicates,
        sum(p.numel() for p in parameters),
        dtype=parameters[0].dtype,
        device=parameters[0].device,
    )
    with evaluation_mode(policy.model), torch.enable_grad():
        success = success_probability(policy.model, [p.ids for p in prompts], solutions, temperature)
        # prompts without any solution leave nothing to differentiate
        exact = flat_gradient(success.mean(), parameters) if success.requires_grad else torch.zeros_like(drawn[0, 0])
        for k in range(replicates):
            try:
                samples = draw(
                    uniforms=torch.rand(len(prompts) * group_size, limit, generator=generator, dtype=torch.float64)
                )
            except FloatingPointError as error:
                raise DivergedError(f"gradient noise: {error}") from error
            _add_estimates(drawn[:, k], policy, task, prompts, samples, list(estimators.values()), temperature)
            progress(k + 1, replicates)
    return GradientNoise(
        estimators=tuple(estimators),
        expected=np.array(
            [
                estimator.contrast() if estimator.weighs_alone and estimator.advantage == "none" else np.nan
                for estimator in estimators.values()
            ]
        ),
        gram=np.stack([(gradients.double() @ gradients.double().T).cpu().numpy() for gradients in drawn]),
        dots=np.stack([(gradients.double() @ exact.double()).cpu().numpy() for gradients in drawn]),
        gradient_sq=float(exact.double().square().sum()),
        p=success.detach().cpu().numpy(),
        group_size=group_size,
        temperature=temperature,
        on_policy=not truncates(top_k, top_p) and (sampler is None or sampler is policy.model),
    )


def _add_estimates(
    out: Tensor,
    policy: Policy,
    task: Task,
    prompts: Sequence[Prompt],
    samples: Samples,
    objectives: list[Objective],
    temperature: float,
) -> None:
    """Add the estimates (E, P) from one batch of rollouts to `out`, which is zero."""
    n = len(samples.lengths)
    group_size = n // len(prompts)
    parameters = trained_parameters(policy)
    responses = [
        row[:length] for row, length in zip(samples.response_ids.tolist(), samples.lengths.tolist(), strict=True)
    ]
    owners = [prompts[i // group_size].ids for i in range(n)]
    rewards = torch.tensor(
        [float(task.verify(x, y).correct) for x, y in zip(owners, responses, strict=True)], dtype=torch.float64
    )
    means = (samples.log_probs.double().sum(1) / samples.lengths).cpu()
    advantages = torch.stack(
        [
            objective.advantages(rewards, group_size, mean_log_probs=means, lengths=samples.lengths.cpu())
            for objective in objectives
        ],
        1,
    )
    # Rollouts that each estimator weighs alike share a backward pass: those of one reward in groups as successful.
    kinds, kind = advantages.unique(dim=0, return_inverse=True)
    for weights, rows in ((kinds[i], (kind == i).nonzero()[:, 0]) for i in range(len(kinds)) if kinds[i].any()):
        for some in rows.split(_ROWS):
            batch = teacher_batch([owners[i] for i in some], [responses[i] for i in some], policy.pad_id, out.device)
            log_probs = (response_logits(policy.model, batch) / temperature).log_softmax(-1)
            chosen = log_probs.gather(-1, batch.tokens[..., None])[..., 0].masked_fill(~batch.mask, 0)
            score = flat_gradient(chosen.sum(), parameters)
            out += (weights / n).to(out)[:, None] * score


def _checked(
    task: Task, prompts: Sequence[Prompt], group_size: int, replicates: int, estimators: Mapping[str, Objective]
) -> list[list[tuple[int, ...]]]:
    """The solutions of each prompt, once the request has been found valid."""
    solutions = listed_solutions(task, prompts, "gradient noise")
    if group_size < 1:
        raise UsageError(f"group_size: expected at least 1, got {group_size}")
    if replicates < LEAST_REPLICATES:
        raise UsageError(
            f"replicates: expected at least {LEAST_REPLICATES}, got {replicates}; standard errors come "
            "from leaving one out"
        )
    for name, objective in estimators.items():
        objective.check_use("the noise of gradients")
        objective.check_group_size(group_size)
        if objective.form == "probability":
            raise UsageError(
                f"estimators: {name} has form probability, which weighs tokens by their probability and "
                "estimates another gradient; give it form ratio or log"
            )
        if objective.form is None:
            raise UsageError(
                f"estimators: {name} is {objective.name}, whose weights are no plain advantages; choose form ratio "
                "or log"
            )
    return solutions
