"""Entropy bonus and KL as losses: the step they make against dense vectors on the logits, written out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from analysis.training.targets import fix_targets
from tests.training.naive_update import make_config, make_updater, naive_logits, random_batch, random_policy

ALPHA, BETA, LR, T = 0.2, 0.3, 0.1, 0.8


def direction(estimator: str, pi: torch.Tensor, ref: torch.Tensor, y: int) -> torch.Tensor:
    """−∂(β·KL − α·H)/∂(z/T) of one token, from the closed forms of the vectors."""
    e = torch.zeros_like(pi)
    e[y] = 1.0
    lead = float((pi[y] / ref[y]).log())
    weight = {"k1": -1.0, "k2": -lead, "k3": float(ref[y] / pi[y]) - 1, "abs": -math.copysign(1.0, lead)}
    weight |= {"k1+": -lead, "k3+": -lead}
    entropy = -(pi * pi.log()).sum()
    bonus = -pi * (pi.log() + entropy)
    if estimator == "full":
        divergence = (pi * (pi / ref).log()).sum()
        return ALPHA * bonus - BETA * pi * ((pi / ref).log() - divergence)
    return ALPHA * bonus + BETA * weight[estimator] * (e - pi)


@pytest.mark.parametrize("rows", ["both", "rewarded", "unrewarded"])
@pytest.mark.parametrize("estimator", ["k1", "k2", "k3", "full", "k1+", "k3+", "abs"])
def test_regularisers_by_their_vectors_on_the_logits(estimator, rows):
    """Δθ = lr·Σ_t Jᵀ·(w·(e_y − π) + vectors)/T/tokens, whichever signs the minibatch holds."""
    settings = {"name": "reinforce", "form": "log", "clip_low": None, "clip_high": None}
    regularised = {**settings, "kl_coef": BETA, "kl_estimator": estimator, "entropy_coef": ALPHA}
    config = make_config(objective=regularised, optimizer={"lr": LR}, rollout={"temperature": T})
    policy, reference = random_policy(0), random_policy(1).model
    updater = make_updater(config, policy)
    batch = random_batch(updater.objective)
    keep = {"both": batch.rewards >= 0, "rewarded": batch.rewards > 0, "unrewarded": batch.rewards == 0}[rows]
    chosen = keep.nonzero()[:, 0]
    tokens = int(batch.lengths[chosen].sum())
    targets = fix_targets(batch, [[chosen]], updater, reference)
    for i in chosen.tolist():
        logits, ref_logits = naive_logits(policy.model, batch, i), naive_logits(reference, batch, i).detach()
        push = torch.zeros_like(logits)
        for t, y in enumerate(batch.responses[i]):
            pi, ref = (z[t].detach().div(T).softmax(-1) for z in (logits, ref_logits))
            e = torch.nn.functional.one_hot(torch.tensor(y), len(pi))
            push[t] = float(batch.advantages[i]) * (e - pi) + direction(estimator, pi, ref, y)
        logits.backward(push / (T * tokens))  # adds up in .grad: the ascent direction
    expected = [p.detach() + LR * p.grad for p in updater.parameters]
    updater.policy.model.zero_grad(set_to_none=True)
    updater.apply(batch, targets, chosen, reference, "update")
    for p, want in zip(updater.parameters, expected, strict=True):
        torch.testing.assert_close(p.detach(), want, rtol=0, atol=1e-13)
