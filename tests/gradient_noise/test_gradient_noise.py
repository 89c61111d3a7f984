"""Gradient noise against per-sample gradients, and against expectations by enumeration of every response."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from analysis.errors import DivergedError, UsageError
from analysis.gradient_noise import gradient_noise, standard_estimators
from analysis.objectives import get
from tests.gradient_noise.small_world import LONGEST, SumTask, every_response, random_policy, score
from toy_models import sample

TEMPERATURE, GROUP = 0.8, 2


class World:
    """Every response of every prompt with its probability, reward and score vector."""

    def __init__(self) -> None:
        self.policy, self.task = random_policy(), SumTask()
        self.prompts = self.task.prompts("train")
        responses = every_response()
        self.rewards = torch.tensor(
            [[float(self.task.verify(x.ids, y).correct) for y in responses] for x in self.prompts], dtype=torch.float64
        )
        found = [[score(self.policy, x.ids, y, TEMPERATURE) for y in responses] for x in self.prompts]
        self.probs = torch.tensor([[value for value, _ in row] for row in found], dtype=torch.float64).exp()
        self.scores = torch.stack([torch.stack([vector for _, vector in row]) for row in found])
        self.exact = torch.einsum("xy,xy,xyd->d", self.probs, self.rewards, self.scores) / len(self.prompts)

    def moments(self, name: str) -> tuple[torch.Tensor, float]:
        """(E A·s, tr Cov(A·s)), means over prompts, for an advantage that is a function of the own reward."""
        weights = {
            "PSR": self.rewards,
            "NSR": self.rewards - 1,
            "REINFORCE": 2 * self.rewards - 1,
            "W-REINFORCE": 0.1 * self.rewards - (1 - self.rewards),
        }[name]
        mean = torch.einsum("xy,xy,xyd->xd", self.probs, weights, self.scores)
        second = torch.einsum("xy,xy,xyd,xyd->x", self.probs, weights.square(), self.scores, self.scores)
        return mean.mean(0), float((second - mean.square().sum(1)).mean())

    def grpo_moments(self) -> tuple[torch.Tensor, float]:
        """The same for GRPO with groups of two: only a correct and a wrong response together count, by ±1/√2."""
        a = 0.5 / (0.5**0.5 + 1e-6)
        means, variances = [], []
        for probs, rewards, scores in zip(self.probs, self.rewards, self.scores, strict=True):
            mean, second = torch.zeros_like(self.exact), 0.0
            right, wrong = rewards.nonzero()[:, 0], (1 - rewards).nonzero()[:, 0]
            for i, j in itertools.product(right, wrong):
                pair = a * (scores[i] - scores[j]) / 2
                weight = 2 * probs[i] * probs[j]  # in either order
                mean, second = mean + weight * pair, second + weight * pair.square().sum()
            means.append(mean)
            variances.append(GROUP * float(second - mean.square().sum()))
        return torch.stack(means).mean(0), float(np.mean(variances))


@pytest.fixture(scope="module")
def world() -> World:
    return World()


def measure(world: World, **changes):
    settings = {"group_size": GROUP, "replicates": 5, "temperature": TEMPERATURE, **changes}
    generator = torch.Generator().manual_seed(settings.pop("seed", 0))
    return gradient_noise(world.policy, world.task, world.prompts, generator=generator, **settings)


def naive_estimates(world: World, noise, group_size: int, replicates: int) -> dict[str, torch.Tensor]:
    """The replicates' estimates (K, P) by one backward pass a rollout, from the same uniforms."""
    generator = torch.Generator().manual_seed(0)
    n = len(world.prompts) * group_size
    out = {name: torch.zeros(replicates, len(world.exact), dtype=torch.float64) for name in noise.estimators}
    world.policy.model.eval()
    for k in range(replicates):
        uniforms = torch.rand(n, LONGEST, generator=generator, dtype=torch.float64)
        drawn = sample(
            world.policy.model,
            [x.ids for x in world.prompts],
            group_size=group_size,
            max_new_tokens=LONGEST,
            eos_id=1,
            pad_id=0,
            temperature=TEMPERATURE,
            uniforms=uniforms,
        )
        responses = [tuple(r[:m]) for r, m in zip(drawn.response_ids.tolist(), drawn.lengths.tolist(), strict=True)]
        owners = [world.prompts[i // group_size].ids for i in range(n)]
        rewards = np.array([world.task.verify(x, y).correct for x, y in zip(owners, responses, strict=True)], float)
        groups = rewards.reshape(-1, group_size)
        normalised = (groups - groups.mean(1, keepdims=True)) / (groups.std(1, ddof=1, keepdims=True) + 1e-6)
        weights = {
            "PSR": rewards,
            "NSR": rewards - 1,
            "W-REINFORCE": 0.1 * rewards - (1 - rewards),
            "REINFORCE": 2 * rewards - 1,
            "GRPO": normalised.ravel(),
        }
        for i in range(n):
            _, vector = score(world.policy, owners[i], responses[i], TEMPERATURE)
            for name in out:
                out[name][k] += weights[name][i] * vector / n
    return out


def test_estimates_are_sums_of_per_sample_gradients(world):
    """Inner products of five replicates, to rounding: float64, sums of a few dozen vectors."""
    world.policy.model.train()
    before = [p.detach().clone() for p in world.policy.model.parameters()]
    noise = measure(world, group_size=4)
    assert world.policy.model.training
    assert all(
        torch.equal(a, b) and b.grad is None for a, b in zip(before, world.policy.model.parameters(), strict=True)
    )
    naive = naive_estimates(world, noise, 4, 5)
    assert noise.gradient_sq == pytest.approx(float(world.exact @ world.exact), rel=1e-12)
    np.testing.assert_allclose(noise.p, (world.probs * world.rewards).sum(1), rtol=1e-12)
    for i, name in enumerate(noise.estimators):
        scale = float((naive[name] @ naive[name].T).abs().max())
        np.testing.assert_allclose(noise.gram[i], naive[name] @ naive[name].T, rtol=0, atol=1e-12 * scale)
        np.testing.assert_allclose(noise.dots[i], naive[name] @ world.exact, rtol=0, atol=1e-12 * scale)


def test_quantities_are_what_they_are_said_to_be(world):
    """Every column from the vectors themselves, as the textbook has it; the jackknife by leaving out by hand."""
    noise = measure(world, group_size=4)
    naive, n, exact = naive_estimates(world, noise, 4, 5), 12, world.exact.numpy()
    frame = noise.frame().set_index("estimator")

    def by_hand(keep: list[int]) -> dict[str, dict[str, float]]:
        out: dict[str, dict[str, float]] = {}
        for name, vectors in naive.items():
            g, a = vectors.numpy()[keep], {"PSR": 1, "NSR": 1, "W-REINFORCE": 1.1, "REINFORCE": 2}.get(name)
            dots, norm = g @ exact, np.linalg.norm(exact)
            pairs = list(itertools.permutations(range(len(g)), 2))
            mean_sq = np.mean([g[j] @ g[k] for j, k in pairs])
            signal = a**2 * norm**2 if a else np.mean([dots[j] * dots[k] for j, k in pairs]) / norm**2
            row = {
                "projection": dots.mean() / norm**2,
                "variance": n * g.var(0, ddof=1).sum(),
                "distance": n * np.mean([np.sum((v - a * exact) ** 2) for v in g]) if a else np.nan,
                "cosine": dots.mean() / norm / np.sqrt(mean_sq) if mean_sq > 0 else np.nan,
                "cosine_batch": np.mean([v @ exact / np.linalg.norm(v) if v.any() else 0 for v in g]) / norm,
            }
            row["noise_to_signal"] = row["variance"] / signal
            row["noise_ratio"] = row["noise_to_signal"] / (
                out["PSR"]["noise_to_signal"] if out else row["noise_to_signal"]
            )
            out[name] = row
        return out

    every = list(range(5))
    whole, without = by_hand(every), [by_hand([j for j in every if j != k]) for k in every]
    for name, quantities in whole.items():
        for quantity, value in quantities.items():
            left_out = np.array([one[name][quantity] for one in without])
            error = np.sqrt(4 / 5 * np.sum((left_out - left_out.mean()) ** 2))
            np.testing.assert_allclose(frame.loc[name, quantity], value, rtol=1e-9)
            np.testing.assert_allclose(frame.loc[name, f"{quantity}_se"], error, rtol=1e-7)  # near equals subtracted


def test_identities_by_enumeration(world):
    """E g = a∇p, and Cov PSR − Cov NSR = E[(2r − 1)ssᵀ] in trace: exact, so to rounding."""
    for name, a in (("PSR", 1.0), ("NSR", 1.0), ("W-REINFORCE", 1.1), ("REINFORCE", 2.0)):
        torch.testing.assert_close(world.moments(name)[0], a * world.exact, rtol=0, atol=1e-13)
    squares = world.scores.square().sum(-1)
    gap = float((world.probs * (2 * world.rewards - 1) * squares).sum(1).mean())
    assert world.moments("PSR")[1] - world.moments("NSR")[1] == pytest.approx(gap, rel=1e-12)
    assert abs(gap) > 0.05 * world.moments("PSR")[1]


@pytest.mark.slow
def test_measured_noise_is_the_exact_one(world):
    """Fixed beforehand: 300 replicates of 6 rollouts, 4 standard errors. Fourteen comparisons, a false alarm in about
    0.1% of seeds. A variance off by a factor of two would be seen."""
    noise = measure(world, replicates=300, seed=7)
    frame = noise.frame().set_index("estimator")
    exact_sq = float(world.exact @ world.exact)
    for name in noise.estimators:
        mean, variance = world.grpo_moments() if name == "GRPO" else world.moments(name)
        row = frame.loc[name]
        truth = {
            "variance": variance,
            "projection": float(mean @ world.exact) / exact_sq,
            "cosine": float(mean @ world.exact / mean.norm()) / exact_sq**0.5,
        }
        if name != "GRPO":
            truth["distance"] = variance
            assert row.expected == pytest.approx(truth["projection"], rel=1e-12)
        for quantity, value in truth.items():
            if quantity == "cosine" and name != "GRPO":
                continue  # 1, where the estimate is not normal
            assert abs(row[quantity] - value) < 4 * row[f"{quantity}_se"], (name, quantity)
        assert row.variance_se < variance / 8
    assert np.isnan(frame.expected["GRPO"])


@pytest.mark.slow
def test_truncation_moves_the_projection_and_is_in_the_distance(world):
    """Fixed beforehand: 100 replicates; the distribution that is sampled lost a good part of its tail."""
    frame = measure(world, replicates=100, top_p=0.6).frame().set_index("estimator")
    assert abs(frame.projection["PSR"] - frame.expected["PSR"]) > 6 * frame.projection_se["PSR"]
    assert frame.distance["PSR"] > frame.variance["PSR"] + 6 * frame.distance_se["PSR"]
    signal = (frame.variance / frame.noise_to_signal) / frame.gradient_norm**2  # of the projection as it is
    np.testing.assert_allclose(signal["PSR"], frame.projection["PSR"] ** 2, rtol=0.01)


def test_what_counts_as_another_law(world):
    """A truncation or another model, even one that is the same."""
    assert measure(world, replicates=3, sampler=world.policy.model).on_policy
    for changes in ({"top_k": 3}, {"top_p": 0.9}, {"sampler": random_policy().model}):
        assert not measure(world, replicates=3, **changes).on_policy


def test_top_k_of_one_draws_the_same_each_time(world):
    noise = measure(world, replicates=3, top_k=1)
    np.testing.assert_allclose(noise.dots, noise.dots[:, :1].repeat(3, 1), rtol=1e-12, atol=1e-14)


def test_replicates_do_not_depend_on_how_many_follow(world):
    few, many = measure(world, replicates=3), measure(world, replicates=4)
    np.testing.assert_allclose(few.dots, many.dots[:, :3], rtol=1e-12, atol=1e-14)  # sums of products, in any order


def test_a_policy_that_never_succeeds_has_no_signal(world):
    """Nothing correct is drawn from prompts without solutions: NaN, not a crash, and NSR's variance all the same."""
    task = SumTask()
    task.verify = lambda x, y: type(world.task.verify(x, y))(False, "wrong")
    generator = torch.Generator().manual_seed(0)
    frame = gradient_noise(world.policy, task, world.prompts, generator=generator, replicates=3).frame()
    frame = frame.set_index("estimator")
    assert frame.p.eq(0).all()
    assert frame[["projection", "noise_to_signal", "noise_ratio", "cosine", "cosine_batch"]].isna().all(axis=None)
    assert frame.variance["PSR"] == 0
    assert frame.variance["NSR"] > 0


def test_success_is_that_of_responses_within_the_limit(world):
    noise = measure(world, replicates=3, max_new_tokens=2)
    short = torch.tensor([len(y) <= 2 for y in every_response()])
    np.testing.assert_allclose(noise.p, (world.probs * world.rewards * short).sum(1), rtol=1e-12)


def test_progress_counts_replicates(world):
    seen = []
    measure(world, replicates=3, progress=lambda *at: seen.append(at))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_estimators_that_weigh_a_response_by_the_others(world):
    """They have no one factor of the gradient of p; what weighs a response alone has."""
    estimators = {name: get(name) for name in ("maxrl", "opo", "reinforce-plus-plus", "raft", "rewarding-unlikely")}
    noise = measure(world, replicates=3, estimators=estimators)
    np.testing.assert_array_equal(noise.expected, [np.nan, np.nan, np.nan, 1.0, np.nan])
    assert np.isfinite(noise.dots).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"group_size": 0}, "group_size: expected at least 1, got 0"),
        ({"replicates": 2}, "replicates: expected at least 3, got 2"),
        ({"estimators": {"mine": get("psr", form="probability")}}, "estimators: mine has form probability"),
        ({"estimators": standard_estimators(2), "group_size": 1}, "rollout.group_size: grpo .* got 1"),
        ({"estimators": {"mine": get("remax")}}, "remax subtracts the reward of each prompt's greedy response, which"),
        ({"estimators": {"mine": get("optimal-token-baseline")}}, "optimal-token-baseline weighs every position"),
        ({"estimators": {"mine": get("pass-at-k", k=9)}, "group_size": 4}, "pass-at-k takes 9 of the responses .* 4"),
    ],
)
def test_bad_requests(world, changes, message):
    with pytest.raises(UsageError, match=message):
        measure(world, **changes)


def test_needs_prompts_a_list_of_solutions_and_a_finite_policy(world):
    generator = torch.Generator().manual_seed(0)
    with pytest.raises(UsageError, match="prompts: expected at least one"):
        gradient_noise(world.policy, world.task, [], generator=generator)
    with pytest.raises(UsageError, match="sums does not list its correct responses"):
        gradient_noise(world.policy, SumTask(listed=False), world.prompts, generator=generator)
    broken = random_policy()
    with torch.no_grad():
        next(broken.model.parameters()).fill_(torch.nan)
    with pytest.raises(DivergedError, match=r"gradient noise: .* the policy has diverged"):
        gradient_noise(broken, world.task, world.prompts, generator=generator)
