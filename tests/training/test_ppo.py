"""PPO in full against pencil and paper: GAE, KL as reward, whitening, clips, the step of the value head."""

from __future__ import annotations

import copy
import dataclasses
import math
import statistics

import pytest
import torch

from analysis.recipes.fields import CriticFields
from analysis.training.critic import Critic, advantage_estimates, token_rewards, whitened
from analysis.training.targets import fix_targets
from tests.reference import gae_slow
from tests.training.naive_update import make_config, make_updater, naive_log_probs, random_batch, random_policy

LAMBDA, BETA, LR = 0.7, 0.3, 0.05
ESTIMATORS = {"k1": lambda r: r, "k2": lambda r: r**2 / 2, "k3": lambda r: math.exp(-r) - 1 + r}


@pytest.mark.parametrize("lambda_", [0.0, 0.6, 1.0])
def test_advantages_are_the_weighted_mean_of_n_step_ones(lambda_):
    g = torch.Generator().manual_seed(0)
    lengths = torch.tensor([5, 1, 3])
    values, rewards = torch.randn(2, 3, 5, generator=g, dtype=torch.float64)  # at padding too, where none may count
    got = advantage_estimates(values, rewards, lengths, lambda_)
    for i, n in enumerate(lengths.tolist()):
        expected = gae_slow.advantages(values[i, :n].tolist(), rewards[i, :n].tolist(), lambda_)
        assert got[i, :n].tolist() == pytest.approx(expected, rel=1e-13, abs=1e-14)
        assert (got[i, n:] == 0).all()


def test_terminal_reward_stands_at_the_last_token_and_penalties_at_all():
    penalties = torch.tensor([[1.0, 2.0, 4.0], [1.0, 2.0, 4.0]])
    got = token_rewards(torch.tensor([10.0, -10.0]), torch.tensor([3, 1]), penalties)
    assert got.tolist() == [[-1, -2, 6], [-11, 0, 0]]


def test_whitening_by_hand():
    advantages = torch.tensor([[3.0, 1.0, 99.0], [-2.0, 0.5, 4.0]], dtype=torch.float64)
    mask = torch.tensor([[True, True, False], [True, True, True]])
    real = [3.0, 1.0, -2.0, 0.5, 4.0]
    scale = statistics.stdev(real) + 1e-6
    expected = [(a - statistics.mean(real)) / scale for a in real]
    got = whitened(advantages, mask)
    assert got[mask].tolist() == pytest.approx(expected, rel=1e-13)
    assert got[0, 2] == 0


class Run:
    """A small PPO run on a random model, with everything that it should compute worked out beside it."""

    def __init__(self, kl: str | None, whiten: bool, clip: float | None, **objective) -> None:
        settings = {"name": "reinforce", "clip_low": 0.2, "clip_high": 0.28, "dual_clip": 1.5, **objective}
        if kl is not None:
            settings |= {"kl_coef": BETA, "kl_estimator": kl, "kl_placement": "reward"}
        config = make_config(objective=settings, optimizer={"lr": 1.0}, rollout={"temperature": 0.8})
        fields = CriticFields(enabled=True, lr=LR, gae_lambda=LAMBDA, whiten=whiten, clip=clip)
        self.config = dataclasses.replace(config, critic=fields)
        self.policy, self.reference = random_policy(0), random_policy(1).model if kl is not None else None
        self.updater = make_updater(self.config, self.policy)
        self.updater.critic = self.critic = Critic(self.policy.model, fields)
        torch.nn.init.normal_(self.critic.head.weight, generator=torch.Generator().manual_seed(3))
        torch.nn.init.constant_(self.critic.head.bias, 0.3)
        self.batch = random_batch(self.updater.objective)

    def hidden(self, i: int) -> torch.Tensor:
        prompt, response = list(self.batch.prompt(i).ids), self.batch.responses[i]
        states = self.policy.model.transformer(torch.tensor([prompt + response])).last_hidden_state[0]
        return states[len(prompt) - 1 : -1].detach()

    def log_probs(self, model) -> list[list[float]]:
        return [lp.detach().tolist() for lp in naive_log_probs(model, self.batch, 0.8)]

    def targets(self) -> tuple[list[list[float]], list[list[float]], list[list[float]]]:
        """Values, returns and advantages of every token by the textbook."""
        old = self.log_probs(self.policy.model)
        ref = self.log_probs(self.reference) if self.reference is not None else old
        estimator = ESTIMATORS[self.config.objective.kl_estimator]
        values, raw = [], []
        for i in range(len(self.batch)):
            values.append(self.critic.head(self.hidden(i))[:, 0].tolist())
            kl = [estimator(o - r) for o, r in zip(old[i], ref[i], strict=True)]
            rewards = [-self.config.objective.kl_coef * k for k in kl]
            rewards[-1] += 1.0 if self.batch.rewards[i] > 0 else -1.0
            raw.append(gae_slow.advantages(values[i], rewards, LAMBDA))
        returns = [[a + v for a, v in zip(*pair, strict=True)] for pair in zip(raw, values, strict=True)]
        if self.config.critic.whiten:
            flat = [a for row in raw for a in row]
            mean, scale = statistics.mean(flat), statistics.stdev(flat) + 1e-6
            raw = [[(a - mean) / scale for a in row] for row in raw]
        return values, returns, raw


@pytest.mark.parametrize(
    ("kl", "whiten", "clip"), [(None, False, None), ("k1", True, 0.02), ("k2", False, 0.1), ("k3", True, None)]
)
def test_every_token_s_weight_and_every_step_of_the_value_head(kl, whiten, clip):
    """Two passes of two minibatches: w_t = A_t·ρ·1[not clipped] / tokens, AdamW on the clipped square by hand."""
    run = Run(kl, whiten, clip)
    updater, batch = run.updater, run.batch
    rows = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    plans = [[rows[:8], rows[8:]]] * 2
    values, returns, advantages = run.targets()
    old = run.log_probs(run.policy.model)
    targets = fix_targets(batch, plans, updater, run.reference)
    for i, length in enumerate(batch.lengths.tolist()):
        assert targets.token_advantages[i, :length].tolist() == pytest.approx(advantages[i], rel=1e-11, abs=1e-12)
        assert targets.returns[i, :length].tolist() == pytest.approx(returns[i], rel=1e-11, abs=1e-12)

    theta = torch.cat([run.critic.head.weight[0], run.critic.head.bias]).detach()
    first, second = torch.zeros_like(theta), torch.zeros_like(theta)
    seen = {"high": 0, "low": 0, "dual": 0, "value": 0, "flipped": 0}
    for count, minibatch in enumerate([part for plan in plans for part in plan], start=1):
        chosen = minibatch.tolist()
        tokens = sum(len(batch.responses[i]) for i in chosen)
        now = run.log_probs(run.policy.model)
        states, slopes, loss = [], [], 0.0
        for i in chosen:
            for t, h in enumerate(run.hidden(i)):
                states.append(torch.cat([h, torch.ones(1, dtype=h.dtype)]))
                v = float(states[-1] @ theta)
                near = values[i][t] + min(max(v - values[i][t], -clip), clip) if clip is not None else v
                plain, clipped = (v - returns[i][t]) ** 2, (near - returns[i][t]) ** 2
                slopes.append(v - returns[i][t] if plain >= clipped - 1e-12 else 0.0)
                seen["value"] += slopes[-1] == 0.0
                loss += max(plain, clipped) / 2 / tokens
        result = updater.apply(batch, targets, minibatch, None, "update")
        for one in result.passes:
            targets = targets.with_old(one.rows, one.old_log_probs)

        for one in result.passes:
            for b, i in enumerate(one.rows.tolist()):
                for t, a in enumerate(advantages[i]):
                    ratio = math.exp(now[i][t] - old[i][t])
                    inside = {
                        "high": not (a > 0 and ratio > 1.28),
                        "low": not (a < 0 and ratio < 0.8),
                        "dual": not (a < 0 and ratio > 1.5),
                    }
                    weight = a * ratio / tokens if all(inside.values()) else 0.0
                    assert one.weights[b, t].item() == pytest.approx(weight, rel=1e-9, abs=1e-12)
                    for name, ok in inside.items():
                        seen[name] += not ok
                    seen["flipped"] += a * one.sign < 0
        assert result.value_loss == pytest.approx(loss, rel=1e-9)

        gradient = torch.stack([s * h for s, h in zip(slopes, states, strict=True)]).sum(0) / tokens
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        theta = theta - LR * (first / (1 - 0.9**count)) / ((second / (1 - 0.999**count)).sqrt() + 1e-8)
        got = torch.cat([run.critic.head.weight[0], run.critic.head.bias]).detach()
        torch.testing.assert_close(got, theta, rtol=0, atol=1e-9)  # ε and v̂ magnify the rounding of small gradients
    assert min(seen[name] for name in ("high", "low", "dual", "flipped")) > 0
    assert (seen["value"] > 0) == (clip is not None)


@pytest.mark.parametrize("kl", list(ESTIMATORS))
def test_without_a_critic_the_summed_penalty_goes_into_the_advantage(kl):
    settings = {"name": "nsr", "kl_coef": BETA, "kl_estimator": kl, "kl_placement": "reward"}
    policy, reference = random_policy(0), random_policy(1).model
    updater = make_updater(make_config(objective=settings), policy)
    batch = random_batch(updater.objective)
    before = batch.advantages.tolist()
    rows = torch.arange(12)  # the others are not used, and so not penalised
    targets = fix_targets(batch, [[rows]], updater, reference)
    assert batch.advantages.tolist() == before  # what was collected is left alone
    old, ref = ([lp.tolist() for lp in naive_log_probs(m, batch)] for m in (policy.model, reference))
    for i in range(16):
        kl_sum = sum(ESTIMATORS[kl](o - r) for o, r in zip(old[i], ref[i], strict=True)) if i < 12 else 0.0
        # advantages are kept in float32, like the rewards they come from
        assert targets.advantages[i].item() == pytest.approx(before[i] - BETA * kl_sum, rel=1e-6, abs=1e-6)
    assert targets.token_advantages is None
    assert updater.apply(batch, targets, rows, None, "update").passes[0].weights.abs().sum() > 0


@pytest.mark.parametrize("advantage", ["leave_one_out", "group_mean_std"])
def test_the_penalty_before_the_baseline_is_part_of_the_reward(advantage):
    """As in TRL's RLOO: the normalisation sees the reward less β·KL, so that a penalty that all share is none."""
    settings = {"name": "grpo", "advantage": advantage, "kl_coef": BETA, "kl_estimator": "k1"}
    policy, reference = random_policy(0), random_policy(1).model
    updater = make_updater(make_config(objective=settings | {"kl_placement": "before_baseline"}), policy)
    batch = random_batch(updater.objective)
    targets = fix_targets(batch, [[torch.arange(12)]], updater, reference)
    old, ref = ([lp.tolist() for lp in naive_log_probs(m, batch)] for m in (policy.model, reference))
    size = batch.group_size
    total = [
        float(batch.rewards[i]) - BETA * sum(o - r for o, r in zip(old[i], ref[i], strict=True)) for i in range(16)
    ]
    for i in range(16):
        group = total[i // size * size : (i // size + 1) * size]
        mean = sum(group) / size
        expected = total[i] - (sum(group) - total[i]) / (size - 1)
        if advantage == "group_mean_std":
            std = (sum((x - mean) ** 2 for x in group) / (size - 1)) ** 0.5
            expected = (total[i] - mean) / (std + 1e-6)
        assert targets.advantages[i].item() == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_the_first_minibatch_s_ratio_is_exactly_one_and_later_ones_refer_to_the_policy_before_it():
    run = Run(None, False, None)
    old = run.log_probs(run.policy.model)
    plans = [[torch.arange(6), torch.arange(6, 16)]] * 2
    targets = fix_targets(run.batch, plans, run.updater, None)
    for count, rows in enumerate(plans[0] + plans[1]):
        passes = run.updater.apply(run.batch, targets, rows, None, "update").passes
        for one in passes:
            targets = targets.with_old(one.rows, one.old_log_probs)
            assert (one.ratio[one.mask] == 1).all() == (count == 0)
            for b, i in enumerate(one.rows.tolist()):
                assert one.old_log_probs[b, : len(old[i])].tolist() == pytest.approx(old[i], rel=1e-12)


@pytest.mark.parametrize("kl", [None, "k2"])
def test_rollouts_and_targets_stay_as_they_were(kl):
    """No update writes into what it was given: the tensors keep their bits, and the values are frozen."""

    def bits(value):
        fields = ((item.name, getattr(value, item.name)) for item in dataclasses.fields(value))
        return {name: part.clone() for name, part in fields if isinstance(part, torch.Tensor)}

    run = Run(kl, True, None)
    batch, plans = run.batch, [[torch.arange(6), torch.arange(6, 16)]] * 2
    collected = bits(batch)
    targets = first = fix_targets(batch, plans, run.updater, run.reference)
    fixed = bits(first)
    for rows in plans[0] + plans[1]:
        for one in run.updater.apply(batch, targets, rows, None, "update").passes:
            targets = targets.with_old(one.rows, one.old_log_probs)
    assert targets.awaited is None
    for before, after in ((collected, bits(batch)), (fixed, bits(first))):
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)
    for value in (batch, targets):
        with pytest.raises(dataclasses.FrozenInstanceError):
            value.advantages = None


def test_the_critic_changes_no_parameter_of_the_policy_but_through_the_advantages():
    runs = [Run(None, False, None), Run(None, False, None)]
    torch.nn.init.zeros_(runs[1].critic.head.weight)
    for run in runs:
        targets = fix_targets(run.batch, [[torch.arange(16)]], run.updater, None)
        targets = dataclasses.replace(targets, token_advantages=torch.ones_like(targets.token_advantages))
        run.updater.apply(run.batch, targets, torch.arange(16), None, "update")
    for a, b in zip(runs[0].updater.parameters, runs[1].updater.parameters, strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(runs[0].critic.head.weight, runs[1].critic.head.weight)


def test_a_critic_goes_on_from_its_state_bit_for_bit():
    hidden, returns = torch.randn(2, 40, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    model = random_policy().model
    fields = CriticFields(enabled=True, clip=0.1)
    one, other = Critic(model, fields), Critic(model, fields)
    zeros = torch.zeros(40, dtype=torch.float64)
    for _ in range(3):
        one.fit(hidden, returns[:, 0], zeros)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    for critic in (one, other):
        for _ in range(2):
            critic.fit(hidden, returns[:, 0], zeros)
    assert torch.equal(one.head.weight, other.head.weight)
    assert torch.equal(one.head.bias, other.head.bias)
