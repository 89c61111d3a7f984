"""Losses that you wrote as estimators and policy losses of verl.

    # my_objectives.py, with actor_rollout_ref.model.external_lib=[analysis.engines.verl,my_objectives]
    from analysis.engines import verl

    def square(log_probs, batch):
        return -batch.per_token("advantages") * log_probs.exp() ** 2

    verl.offer("square", "my_objectives:square")

Then `algorithm.adv_estimator=square` with `policy_loss.loss_mode=square` trains on it.
"""

from __future__ import annotations

import re

from verl.trainer.ppo.core_algos import (
    ADV_ESTIMATOR_REGISTRY,
    POLICY_LOSS_REGISTRY,
    register_adv_est,
    register_policy_loss,
)

from ....errors import UsageError
from ....objectives import get
from .estimators import ESTIMATORS, claim, estimator
from .objective_settings import Named, lacks
from .policy_losses import LOSSES, policy_loss

__all__ = ["offer"]


def offer(name: str, objective: str) -> None:
    """Register a loss that you wrote with verl, as an advantage estimator and as a policy loss of one name.

    A run of verl has many processes: call it in a module that each of them imports, which is what
    `actor_rollout_ref.model.external_lib` names. Calling it again with the same arguments changes nothing.

    Args:
        name: The name in verl, of letters, digits and underscores.
        objective: The function, as "file.py:name" or "package.module:name", or the name that
            `analysis.objectives.register` gave it in this process.

    Raises:
        UsageError: A function that does not exist, a name that is taken, a loss that needs what verl does not give.
    """
    if re.fullmatch(r"[A-Za-z]\w*", name) is None:
        raise UsageError(f"offer: expected a name of letters, digits and underscores, got {name!r}; choose another")
    named = Named(name, objective)
    if ESTIMATORS.get(name) == named and LOSSES.get(name) == named:
        return
    get(objective)
    if (reason := lacks(objective)) is not None:
        raise UsageError(f"offer: {objective} {reason}")
    claim("estimator", name, ADV_ESTIMATOR_REGISTRY)
    claim("policy loss", name, POLICY_LOSS_REGISTRY)
    register_adv_est(name)(estimator(named))
    register_policy_loss(name)(policy_loss(named))
    ESTIMATORS[name] = LOSSES[name] = named
