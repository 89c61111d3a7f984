"""What the updates of one step hold fixed: log-probs of the old and the reference policy, and advantages made of them.

All of it is computed once, before the step's first update, by the policy and the critic as they are then. The rows of
the first minibatch are the exception: their passes are made before any update, so that there the update's own log-probs
are the old ones and their ratio is exactly 1. Where an earlier policy sampled the rollouts (`rollout.refresh_every`,
`rollout.fixed`), the old log-probs are its own, for every row, and an extra forward pass; a critic's values stay those
of the present policy. With `update.old_log_probs = "rollouts"` the old log-probs of every row are those that the model
computed as it sampled, whichever it was, and cost no pass.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace

import torch

from ..objectives import ResponseBatch, kl_baseline_of
from .critic import advantage_estimates, captured_hidden_states, token_rewards, whitened
from .regularizers import kl_penalty
from .rollouts import RolloutBatch
from .step_targets import StepTargets
from .update import Updater

__all__ = ["StepTargets", "fix_targets"]


def fix_targets(
    batch: RolloutBatch,
    plans: list[list[torch.Tensor]],
    updater: Updater,
    reference: torch.nn.Module | None,
    teacher: torch.nn.Module | None = None,
    earlier: torch.nn.Module | None = None,
) -> StepTargets:
    """The targets that the planned updates (rows of each minibatch, per pass) need, and no others.

    `earlier` is the policy that sampled the rollouts, where that is not the present one.

    Returns:
        `old_log_probs` where an earlier policy sampled, more than one update is made, or a critic or a penalty needs
        them; `ref_log_probs` and
        `teacher_log_probs` where there is a reference or a teacher, and `kl_baseline` where the objective compares with
        it; with a critic `values`, `returns` and `token_advantages`. With objective.kl_placement = "reward" the
        penalties go into the critic's rewards or, without a critic, their sum into `advantages`; with
        "before_baseline" into the rewards that these are made of.
    """
    used = sorted({row for plan in plans for rows in plan for row in rows.tolist()})
    if not used:
        return StepTargets.on_policy(batch)
    runner, critic, penalty = updater.runner, updater.critic, updater.runner.regularizers
    if penalty.kl_before_baseline:
        used = list(range(len(batch)))  # every row of a group has a part in its baseline
    shape, dtype = batch.sampling_log_probs.shape, runner.dtype

    ref, taught = (_under(model, batch, used, updater) for model in (reference, teacher))
    compared = "kl_baseline" in runner.objective.entry.needs
    sampled = updater.fields.old_log_probs == "rollouts"
    single = earlier is None and not sampled and sum(map(len, plans)) == 1
    if critic is None and not penalty.kl_in_reward and not compared and single:
        return StepTargets(
            batch.advantages,
            ref_log_probs=ref,
            token_advantages=batch.token_advantages,
            teacher_log_probs=taught,
        )
    awaited = None
    if earlier is None and not sampled:
        awaited = torch.zeros(shape[0], dtype=torch.bool)
        awaited[plans[0][0]] = True
    everywhere = critic is not None or penalty.kl_in_reward or compared
    needed = used if awaited is None or everywhere else [row for row in used if not awaited[row]]
    old = torch.zeros(shape, dtype=dtype)
    hidden: list[torch.Tensor] = []
    with contextlib.ExitStack() as stack:
        if critic is not None:
            hidden = stack.enter_context(captured_hidden_states(runner.policy.model))
        if needed and not sampled and (earlier is None or critic is not None):
            old[needed] = runner.log_probs(runner.policy.model, batch, needed)
    if sampled:
        old = batch.policy_log_probs().to(dtype)
    elif earlier is not None:
        old[needed] = runner.log_probs(earlier, batch, needed)

    kl = torch.zeros(shape, dtype=dtype)
    if penalty.kl_in_reward:
        assert ref is not None
        kl[used] = kl_penalty(penalty.kl_estimator, old[used], ref[used])
    if critic is None:
        advantages = batch.advantages
        if penalty.kl_before_baseline:
            rewards = batch.rewards.double() - penalty.kl_coef * kl.sum(1).double()
            judged = batch.judged or ResponseBatch(batch.rewards, batch.group_size, lengths=batch.lengths)
            advantages = updater.objective.advantages_of([replace(judged, rewards=rewards)])[0].to(advantages)
        elif penalty.kl_in_reward:
            advantages = advantages.clone()
            advantages[used] -= penalty.kl_coef * kl[used].sum(1).float()
        baseline = None
        if compared:
            assert ref is not None
            baseline = torch.zeros(shape[0], dtype=dtype)
            baseline[used] = kl_baseline_of(old[used], ref[used])  # both are 0 at padding
        own = batch.token_advantages
        return StepTargets(advantages, old, awaited, ref, own, kl_baseline=baseline, teacher_log_probs=taught)
    values = torch.zeros(shape, dtype=dtype)
    for part, states in zip(runner.parts(batch, used), hidden, strict=True):
        values[torch.tensor(used)[part], : states.shape[1]] = critic.values(states.to(dtype)).cpu()
    rewards = token_rewards(batch.advantages.to(dtype), batch.lengths, penalty.kl_coef * kl)
    estimates = advantage_estimates(values, rewards, batch.lengths, critic.fields.gae_lambda)
    token_advantages = whitened(estimates, batch.mask()) if critic.fields.whiten else estimates
    return StepTargets(
        batch.advantages, old, awaited, ref, token_advantages, values, estimates + values, teacher_log_probs=taught
    )


def _under(
    model: torch.nn.Module | None, batch: RolloutBatch, rows: list[int], updater: Updater
) -> torch.Tensor | None:
    """(N, R) log-probs of the rows' tokens under another model, zero elsewhere; None without one."""
    if model is None:
        return None
    out = torch.zeros(batch.sampling_log_probs.shape, dtype=updater.runner.dtype)
    out[rows] = updater.runner.log_probs(model, batch, rows)
    return out
