"""What the updates of one step hold fixed: log-probs of the old and the reference policy, and advantages made of them.

All of it is computed once, before the step's first update, by the policy and the critic as they are then. The rows of
the first minibatch are the exception: they are seen before any update, so that there the update's own log-probs are the
old ones and their ratio is exactly 1 (NaN stands for them until then).
"""

from __future__ import annotations

import contextlib

import torch

from .critic import advantage_estimates, captured_hidden_states, token_rewards, whitened
from .regularizers import kl_penalty
from .rollouts import RolloutBatch
from .update import Updater

__all__ = ["fix_targets"]


def fix_targets(
    batch: RolloutBatch, plans: list[list[torch.Tensor]], updater: Updater, reference: torch.nn.Module | None
) -> None:
    """Fill in what the planned updates (rows of each minibatch, per pass) need of the batch, and nothing else.

    `old_log_probs` where more than one update is made or a critic or a penalty needs them; `ref_log_probs` where there
    is a reference; with a critic `values`, `returns` and `token_advantages`. With objective.kl_placement = "reward"
    the penalties go into the critic's rewards or, without a critic, their sum into `advantages`.
    """
    used = sorted({i for plan in plans for rows in plan for i in rows.tolist()})
    if not used:
        return
    objective, critic = updater.config.objective, updater.critic
    in_reward = objective.kl_coef > 0 and objective.kl_placement == "reward"
    first = plans[0][0].tolist()
    shape, dtype = batch.sampling_log_probs.shape, updater.runner.dtype

    if reference is not None:
        batch.ref_log_probs = torch.zeros(shape, dtype=dtype)
        batch.ref_log_probs[used] = updater.runner.log_probs(reference, batch, used)
    if critic is None and not in_reward and sum(map(len, plans)) == 1:
        return
    seen = used if critic is not None or in_reward else sorted(set(used) - set(first))
    old = torch.zeros(shape, dtype=dtype)
    hidden: list[torch.Tensor] = []
    with contextlib.ExitStack() as stack:
        if critic is not None:
            hidden = stack.enter_context(captured_hidden_states(updater.policy.model))
        if seen:
            old[seen] = updater.runner.log_probs(updater.policy.model, batch, seen)

    kl = torch.zeros(shape, dtype=dtype)
    if in_reward:
        assert batch.ref_log_probs is not None
        kl[used] = kl_penalty(objective.kl_estimator, old[used], batch.ref_log_probs[used], old[used], None)
    if critic is not None:
        batch.values = torch.zeros(shape, dtype=dtype)
        for rows, states in zip(torch.tensor(used).split([len(h) for h in hidden]), hidden, strict=True):
            batch.values[rows, : states.shape[1]] = critic.values(states.to(dtype)).cpu()
        rewards = token_rewards(batch.advantages.to(dtype), batch.lengths, objective.kl_coef * kl)
        advantages = advantage_estimates(batch.values, rewards, batch.lengths, critic.fields.gae_lambda)
        batch.returns = advantages + batch.values
        batch.token_advantages = whitened(advantages, batch.mask()) if critic.fields.whiten else advantages
    elif in_reward:
        batch.advantages[used] -= objective.kl_coef * kl[used].sum(1).float()
    old[first] = torch.nan
    batch.old_log_probs = old
