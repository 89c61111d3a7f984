"""The update against a naive one: unpadded forward passes, one loss over all rows, autograd."""

from __future__ import annotations

import copy
import dataclasses
import itertools

import pytest
import torch

from analysis.errors import DivergedError
from analysis.recipes.fields import CriticFields
from analysis.training.critic import Critic
from analysis.training.record_rows import UpdateIndex, pass_statistics, token_rows, update_row
from analysis.training.regularizers import kl_penalty, policy_entropy
from analysis.training.step_targets import StepTargets
from analysis.training.targets import fix_targets
from tests.training.naive_update import (
    make_config,
    make_updater,
    naive_log_probs,
    naive_logits,
    off_policy_targets,
    random_batch,
    random_policy,
)

ROWS = torch.arange(16)
METHODS = [
    {"name": "psr"},
    {"name": "nsr"},
    {"name": "w-reinforce", "lambda_": 0.1},
    {"name": "reinforce"},
    {"name": "grpo"},
]


def naive_loss(policy, batch, config, weights_of):
    """Σ over rows and tokens of scale·ℓ, from the definition of each normaliser."""
    u, t = config.update, config.rollout.temperature
    tokens = sum(len(r) for r in batch.responses)
    selected = sum(len(r) for r, s in zip(batch.responses, batch.selected, strict=True) if s)
    log_probs = naive_log_probs(policy.model, batch, t)
    total = torch.zeros((), dtype=torch.float64)
    for i, lp in enumerate(log_probs):
        divisor = {
            "batch_tokens": tokens,
            "selected_tokens": selected,
            "constant": u.constant,
            "per_sequence": len(batch.responses[i]) * len(batch),
        }[u.normalizer]
        total = total + (weights_of(i, lp)).sum() / divisor
    return total


def naive_token_loss(config, targets):
    """The surrogate −min(ρA, clip(ρ)A) written out row by row, in the three forms."""
    o = config.objective

    def loss(i, lp):
        a = float(targets.advantages[i])
        old = lp.detach() if targets.old_log_probs is None else targets.old_log_probs[i, : len(lp)]
        if o.form == "log":
            return -a * lp
        scale = old.exp() if o.form == "probability" else torch.ones_like(old)
        ratio = (lp - old).exp()
        low = 1 - o.clip_low if o.clip_low is not None else -torch.inf
        high = 1 + o.clip_high if o.clip_high is not None else torch.inf
        return -scale * torch.minimum(ratio * a, ratio.clamp(low, high) * a)

    return loss


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m["name"])
@pytest.mark.parametrize(
    ("form", "normalizer", "temperature"),
    [
        ("ratio", "batch_tokens", 1.0),
        ("probability", "selected_tokens", 1.0),
        ("ratio", "per_sequence", 0.7),
        ("log", "constant", 1.0),
    ],
)
def test_gradient_weights_and_closed_form(method, form, normalizer, temperature):
    clip = {} if form != "log" else {"clip_low": None, "clip_high": None}
    config = make_config(
        objective={**method, "form": form, **clip},
        rollout={"temperature": temperature},
        update={"normalizer": normalizer, "constant": 50.0 if normalizer == "constant" else None},
    )
    policy = random_policy()
    updater = make_updater(config, policy)
    batch = random_batch(updater.objective)
    targets = off_policy_targets(batch, policy, 0.4) if form != "log" else StepTargets.on_policy(batch)
    loss = naive_loss(policy, batch, config, naive_token_loss(config, targets))
    expected = torch.autograd.grad(loss, updater.parameters)
    before = [p.detach().clone() for p in updater.parameters]
    result = updater.apply(batch, targets, ROWS, None, "update 0")

    # the two signs' gradients add up to the gradient of the whole loss (SGD: Δθ = −lr·g)
    for p, b, g in zip(updater.parameters, before, expected, strict=True):
        torch.testing.assert_close(b - 0.1 * g, p.detach(), rtol=0, atol=1e-13)
    whole = torch.stack([g.norm() for g in expected]).norm().item()
    assert result.grad_norm["total"] == pytest.approx(whole, rel=1e-10)

    seen_clipped = 0
    for one in result.passes:
        assert (batch.rewards[one.rows] > 0).eq(one.sign > 0).all()
        torch.testing.assert_close(one.weights[one.mask], one.closed_form[one.mask], rtol=1e-12, atol=1e-15)
        assert (one.weights[~one.mask] == 0).all()
        seen_clipped += int((one.clip[one.mask] != 0).sum())
    if form != "log":
        assert seen_clipped > 0  # else the test would not have tried the clip


def test_measured_weight_is_the_logit_gradient():
    """−∂L/∂logits = w·(e_y − π)/T, with the logits of a naive pass as leaves."""
    config = make_config(objective={"name": "grpo"}, rollout={"temperature": 0.7})
    policy = random_policy()
    updater = make_updater(config, policy)
    batch = random_batch(updater.objective)
    targets = off_policy_targets(batch, policy, 0.4)
    leaves = [naive_logits(policy.model, batch, i).detach().requires_grad_() for i in range(len(batch))]
    tokens = sum(len(r) for r in batch.responses)
    loss = torch.zeros((), dtype=torch.float64)
    for i, leaf in enumerate(leaves):
        laws = (leaf / 0.7).log_softmax(-1)
        lp = laws[torch.arange(len(leaf)), torch.tensor(batch.responses[i])]
        loss = loss + naive_token_loss(config, targets)(i, lp).sum() / tokens
    loss.backward()
    for one in updater.apply(batch, targets, ROWS, None, "update 0").passes:
        for b, i in enumerate(one.rows.tolist()):
            n = len(batch.responses[i])
            pi = one.logits[b, :n].softmax(-1)
            e = torch.nn.functional.one_hot(torch.tensor(batch.responses[i]), pi.shape[-1])
            predicted = one.weights[b, :n, None] * (e - pi) / 0.7
            torch.testing.assert_close(predicted, -leaves[i].grad, rtol=0, atol=1e-13)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3", "full"])
def test_regularisers_against_autograd(estimator):
    config = make_config(
        objective={"name": "reinforce", "kl_coef": 0.3, "kl_estimator": estimator, "entropy_coef": 0.2},
        rollout={"temperature": 0.8},
    )
    policy, reference = random_policy(0), random_policy(1)
    updater = make_updater(config, policy)
    batch = random_batch(updater.objective)
    targets = off_policy_targets(batch, policy, 0.4)
    width = batch.sampling_log_probs.shape[1]
    ref_log_probs = torch.zeros(len(batch), width, dtype=torch.float64)
    refs = [lp.detach() for lp in naive_log_probs(reference.model, batch, 0.8)]
    for i, lp in enumerate(refs):
        ref_log_probs[i, : len(lp)] = lp
    targets = dataclasses.replace(targets, ref_log_probs=ref_log_probs)

    surrogate = naive_token_loss(config, targets)

    def with_regularisers(i, lp):
        law = torch.distributions.Categorical(logits=naive_logits(policy.model, batch, i) / 0.8)
        ref = torch.distributions.Categorical(logits=naive_logits(reference.model, batch, i).detach() / 0.8)
        r = lp - refs[i]
        kl = {
            "k1": r,
            "k2": r**2 / 2,
            "k3": torch.exp(-r) - 1 + r,
            "full": torch.distributions.kl_divergence(law, ref),
        }[estimator]
        return surrogate(i, lp) - 0.2 * law.entropy() + 0.3 * kl

    loss = naive_loss(policy, batch, config, with_regularisers)
    expected = torch.autograd.grad(loss, updater.parameters)
    before = [p.detach().clone() for p in updater.parameters]
    result = updater.apply(batch, targets, ROWS, reference.model, "update 0")
    for p, b, g in zip(updater.parameters, before, expected, strict=True):
        torch.testing.assert_close(b - 0.1 * g, p.detach(), rtol=0, atol=1e-13)
    assert sum(one.loss for one in result.passes) == pytest.approx(loss.item(), rel=1e-12)
    tokens = sum(len(r) for r in batch.responses)
    for one in result.passes:
        # the objective's weight stays free of the regularisers, whose own coefficients stand apart
        torch.testing.assert_close(one.weights[one.mask], one.closed_form[one.mask], rtol=1e-12, atol=1e-15)
        r = (one.log_probs - one.ref_log_probs)[one.mask]
        expected_kl = {"k1": -torch.ones_like(r), "k2": -r, "k3": torch.expm1(-r), "full": -torch.ones_like(r)}[
            estimator
        ]
        torch.testing.assert_close(one.kl_weights[one.mask], 0.3 * expected_kl / tokens, rtol=1e-10, atol=1e-15)
        assert one.entropy_weights[one.mask].unique().tolist() == pytest.approx([0.2 / tokens])


def test_gradient_clipping_scales_the_step():
    config = make_config(objective={"name": "reinforce"}, optimizer={"max_grad_norm": 1e-3})
    updater = make_updater(config)
    batch = random_batch(updater.objective)
    before = [p.detach().clone() for p in updater.parameters]
    result = updater.apply(batch, StepTargets.on_policy(batch), ROWS, None, "update 0")
    step = torch.stack([(p.detach() - b).norm() for p, b in zip(updater.parameters, before, strict=True)]).norm()
    assert step.item() == pytest.approx(0.1 * 1e-3, rel=1e-6)
    assert result.clip_coef == pytest.approx(1e-3 / result.grad_norm["total"], rel=1e-3)


def test_empty_minibatch_leaves_adam_alone_or_steps_on_its_momentum():
    for empty, moved in (("skip", False), ("step", True)):
        config = make_config(
            objective={"name": "reinforce"}, optimizer={"name": "adamw", "lr": 1e-2}, update={"empty": empty}
        )
        updater = make_updater(config)
        batch = random_batch(updater.objective)
        updater.apply(batch, StepTargets.on_policy(batch), ROWS, None, "update 0")
        before = [p.detach().clone() for p in updater.parameters]
        result = updater.apply(batch, StepTargets.on_policy(batch), ROWS[:0], None, "update 1")
        assert result.skipped is not moved
        assert any(not torch.equal(p, b) for p, b in zip(updater.parameters, before, strict=True)) is moved


def test_nan_names_update_and_tokens_and_leaves_the_parameters():
    config = make_config(objective={"name": "reinforce"})
    updater = make_updater(config)
    batch = random_batch(updater.objective)
    targets = off_policy_targets(batch, updater.policy, 0.1)
    assert targets.old_log_probs is not None
    targets.old_log_probs[5, 0] = -torch.inf
    before = [p.detach().clone() for p in updater.parameters]
    with pytest.raises(DivergedError, match=r"update 7 .*non-finite first at rollout 5 position 0 \(token \d+"):
        updater.apply(batch, targets, ROWS, None, str(UpdateIndex(7, 1, 0, 3)))
    assert all(torch.equal(p, b) for p, b in zip(updater.parameters, before, strict=True))


def test_sampled_kl_estimators_are_unbiased_in_value_and_gradient():
    """Σ_y π_y·k(y) = KL(π‖ref) for k1 and k3; Σ_y π_y·∇k(y) = 0, ∇KL(π‖ref), ∇KL(ref‖π) for k1, k2, k3."""
    g = torch.Generator().manual_seed(0)
    z = torch.randn(9, generator=g, dtype=torch.float64, requires_grad=True)
    law = torch.distributions.Categorical
    ref = torch.randn(9, generator=g, dtype=torch.float64).log_softmax(-1)
    pi = z.detach().softmax(-1)
    forward = torch.distributions.kl_divergence(law(logits=z), law(logits=ref))
    backward = torch.distributions.kl_divergence(law(logits=ref), law(logits=z))
    targets = {
        "k1": torch.zeros(9, dtype=torch.float64),
        "k2": torch.autograd.grad(forward, z, retain_graph=True)[0],
        "k3": torch.autograd.grad(backward, z)[0],
    }
    targets |= {"k1+": targets["k2"], "k3+": targets["k2"]}
    for name, target in targets.items():
        value = (pi * kl_penalty(name, z.log_softmax(-1), ref, z, None)).sum()
        if name != "k2":
            assert value.item() == pytest.approx(forward.item(), rel=1e-12)
        torch.testing.assert_close(torch.autograd.grad(value, z)[0], target, rtol=0, atol=1e-14)
    torch.testing.assert_close(kl_penalty("full", ref, ref, z, ref), forward, rtol=0, atol=1e-14)


def test_entropy_of_masked_logits():
    z = torch.tensor([0.0, 0.0, -torch.inf])
    assert policy_entropy(z).item() == pytest.approx(0.6931472, abs=1e-6)


def test_rows_of_the_tables():
    config = make_config(objective={"name": "reinforce"})
    updater = make_updater(config)
    batch = random_batch(updater.objective)
    targets = off_policy_targets(batch, updater.policy, 0.3)
    index = UpdateIndex(0, 0, 0, 0)
    result = updater.apply(batch, targets, ROWS, None, str(index))
    statistics = [pass_statistics(one, config.record) for one in result.passes]
    row = update_row(index, result, statistics, 0.1, 0.5)
    for one, name in itertools.product(result.passes, ("pos", "neg")):
        if (one.sign > 0) == (name == "pos"):
            assert row[f"tokens_{name}"] == [int(one.mask.sum())]
            law = torch.distributions.Categorical(logits=one.logits)
            assert row[f"entropy_{name}"][0] == pytest.approx(law.entropy()[one.mask].mean().item(), rel=1e-10)
            assert row[f"weight_sum_{name}"][0] == pytest.approx(one.weights[one.mask].sum().item())
    groups = torch.tensor([False, True, False, True])
    seen = set()
    for one, of_pass in zip(result.passes, statistics, strict=True):
        rows = token_rows(index, one, batch, groups, config.record, of_pass)
        for k, (i, t) in enumerate(zip(rows["rollout"].tolist(), rows["position"].tolist(), strict=True)):
            assert groups[i // 4]
            assert rows["token"][k] == batch.responses[i][t]
            law = naive_logits(random_policy().model, batch, i)[t].softmax(-1)
            assert rows["entropy"][k] == pytest.approx(-(law * law.log()).sum().item(), rel=1e-9)
            assert rows["bucket_mass"][k].sum() == pytest.approx(1)
            assert rows["token_rank"][k] == int((law > law[batch.responses[i][t]]).sum())
            seen.add((i, t))
    assert seen == {(i, t) for i in range(16) if groups[i // 4] for t in range(len(batch.responses[i]))}


def test_critic_is_a_baseline_and_leaves_the_policy_gradient_to_the_objective():
    """PPO's update: advantages by the textbook double sum, weights A_t·ρ, a step of the head on least squares."""
    config = make_config(objective={"name": "reinforce"})
    config = dataclasses.replace(config, critic=CriticFields(enabled=True, lr=0.1, gae_lambda=0.7))
    updater = make_updater(config)
    updater.critic = Critic(updater.policy.model, config.critic)
    g = torch.Generator().manual_seed(3)
    torch.nn.init.normal_(updater.critic.head.weight, generator=g)
    torch.nn.init.constant_(updater.critic.head.bias, 0.3)
    batch = random_batch(updater.objective)
    head = copy.deepcopy(updater.critic.head)
    targets = fix_targets(batch, [[ROWS]], updater, None)
    hidden = []
    for i in range(len(batch)):
        prompt, response = list(batch.prompt(i).ids), batch.responses[i]
        states = updater.policy.model.transformer(torch.tensor([prompt + response])).last_hidden_state[0]
        hidden.append(states[len(prompt) - 1 : -1].detach())
        values = [*head(hidden[i])[:, 0].tolist()]
        reward = float(batch.advantages[i])
        delta = [(reward if t == len(values) - 1 else values[t + 1]) - values[t] for t in range(len(values))]
        expected = [sum(0.7 ** (k - t) * delta[k] for k in range(t, len(values))) for t in range(len(values))]
        torch.testing.assert_close(
            targets.token_advantages[i, : len(values)], torch.tensor(expected, dtype=torch.float64)
        )
        assert (targets.token_advantages[i, len(values) :] == 0).all()
    loss = naive_loss(
        updater.policy, batch, config, lambda i, lp: -targets.token_advantages[i, : len(lp)] * (lp - lp.detach()).exp()
    )
    expected_gradient = torch.autograd.grad(loss, updater.parameters)
    before = [p.detach().clone() for p in updater.parameters]
    result = updater.apply(batch, targets, ROWS, None, "update 0")
    for p, b, g in zip(updater.parameters, before, expected_gradient, strict=True):
        torch.testing.assert_close(b - 0.1 * g, p.detach(), rtol=0, atol=1e-13)
    tokens = torch.cat(hidden)
    returns = torch.cat([targets.returns[i, : len(r)] for i, r in enumerate(batch.responses)])
    naive = 0.5 * ((head(tokens)[:, 0] - returns) ** 2).mean()
    assert result.value_loss == pytest.approx(naive.item(), rel=1e-10)
    assert 0.5 * ((updater.critic.head(tokens)[:, 0] - returns) ** 2).mean() < naive
