"""Objectives whose paper, released code and practice differ, each against the source that its name states."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable

import pytest
import torch

from analysis.objectives import TokenBatch, get

GROUP = 4
PATTERNS = torch.tensor(list(itertools.product([0.0, 1.0], repeat=GROUP)), dtype=torch.float64).flatten()
COUNT = len(PATTERNS)
MEAN_LOG_PROBS = -torch.rand(COUNT, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LENGTHS = torch.randint(1, 30, (COUNT,), generator=torch.Generator().manual_seed(1))
GROUPS = [range(start, start + GROUP) for start in range(0, COUNT, GROUP)]


def oreal_released(rewards: list[float], positive: float, negative: float) -> list[float]:
    """github.com/InternLM/OREAL, train_oreal.py: verdicts ±1, reward_shaping_type rloo, pos_mult_adv True."""
    verdicts = [1.0 if reward else -1.0 for reward in rewards]
    shaped = [v - (sum(verdicts) - v) / (len(verdicts) - 1) for v in verdicts]
    return [(positive if v > 0 else negative) * a for v, a in zip(verdicts, shaped, strict=True)]


def unlikely(rewards: list[float], scores: list[float], penalty: float, first: int) -> list[float]:
    """r·(1 − β·rank/G), standardised with the unbiased deviation; ranks from `first`, the least likely first."""
    order = sorted(range(len(scores)), key=lambda i: scores[i])
    values = [r * (1 - penalty * (order.index(i) + first) / len(rewards)) for i, r in enumerate(rewards)]
    if len(set(values)) == 1:
        return [0.0] * len(values)
    return [(v - statistics.mean(values)) / (statistics.stdev(values) + 1e-6) for v in values]


def by_group(function: Callable[..., list[float]], *columns: torch.Tensor) -> torch.Tensor:
    """The function applied to the lists of each group."""
    parts = [function(*([float(column[i]) for i in group] for column in columns)) for group in GROUPS]
    return torch.tensor([value for part in parts for value in part], dtype=torch.float64)


@pytest.mark.parametrize(("positive", "negative"), [(1.0, 0.5), (0.3, 2.0)])
def test_oreal_as_released(positive: float, negative: float) -> None:
    objective = get("oreal-released", positive_weight=positive, negative_weight=negative)
    expected = by_group(lambda rewards: oreal_released(rewards, positive, negative), PATTERNS)
    torch.testing.assert_close(objective.advantages(PATTERNS, GROUP), expected, rtol=1e-14, atol=1e-15)


def test_oreal_of_the_paper_and_as_released() -> None:
    """Wrong responses: 2G/(G − 1) times. Correct ones: α against α·2(1 − q)·G/(G − 1)."""
    paper, released = (get(name).advantages(PATTERNS, GROUP) for name in ("oreal", "oreal-released"))
    q = PATTERNS.view(-1, GROUP).mean(-1).repeat_interleave(GROUP)
    wrong, correct = PATTERNS == 0, PATTERNS == 1
    torch.testing.assert_close(released[wrong], (2 * GROUP / (GROUP - 1) * paper)[wrong])
    assert (paper[correct] == 1).all()
    torch.testing.assert_close(released[correct], (2 * GROUP / (GROUP - 1) * (1 - q))[correct])


def test_rewarding_the_unlikely_in_code_and_paper() -> None:
    code = get("rewarding-unlikely").advantages(PATTERNS, GROUP, mean_log_probs=MEAN_LOG_PROBS)
    expected = by_group(lambda r, s: unlikely(r, s, 0.25, 0), PATTERNS, MEAN_LOG_PROBS)
    torch.testing.assert_close(code, expected, rtol=1e-13, atol=1e-15)
    paper = get("rewarding-unlikely-paper")
    assert paper.reads() == ("mean_log_probs", "lengths")
    values = paper.advantages(PATTERNS, GROUP, mean_log_probs=MEAN_LOG_PROBS, lengths=LENGTHS)
    expected = by_group(lambda r, s: unlikely(r, s, 0.25, 1), PATTERNS, MEAN_LOG_PROBS * LENGTHS)
    torch.testing.assert_close(values, expected, rtol=1e-13, atol=1e-15)


def test_the_ranks_alone_differ_by_less_than_two_hundredths() -> None:
    """With one length both rank alike, and the paper's rank of one more changes A by at most 0.017 in groups of 4."""
    ones = torch.ones_like(LENGTHS)
    code = get("rewarding-unlikely").advantages(PATTERNS, GROUP, mean_log_probs=MEAN_LOG_PROBS)
    paper = get("rewarding-unlikely-paper").advantages(PATTERNS, GROUP, mean_log_probs=MEAN_LOG_PROBS, lengths=ones)
    assert 0.01 < (code - paper).abs().max() < 0.017


def test_asymre_in_analysis_and_practice() -> None:
    constant = get("asymre", baseline=0.4).advantages(PATTERNS, GROUP)
    torch.testing.assert_close(constant, PATTERNS - 0.4)
    mean = PATTERNS.view(-1, GROUP).mean(-1).repeat_interleave(GROUP)
    for given, offset in (({}, -0.1), ({"baseline_offset": 0.2}, 0.2)):
        practice = get("asymre-group", **given).advantages(PATTERNS, GROUP)
        torch.testing.assert_close(practice, PATTERNS - (mean + offset))
        assert practice[:GROUP].tolist() == [-offset] * GROUP  # all wrong: not 0


@pytest.mark.parametrize("name", ["ppo", "topr"])
def test_rewards_count_plus_and_minus_one_or_one_and_zero(name: str) -> None:
    rewards = torch.tensor([1.0, 0.0])
    assert get(name).advantages(rewards, 2).tolist() == [1.0, -1.0]
    assert get(name, reward_values="signed").advantages(rewards, 2).tolist() == [1.0, -1.0]
    assert get(name, reward_values="zero-one").advantages(rewards, 2).tolist() == [1.0, 0.0]
    limit = get(name, reward_values="zero-one").limit_advantages(torch.tensor([0.25]))
    assert limit.tolist() == [[0.0, 1.0]]


@pytest.mark.parametrize("family", ["psr", "nsr", "w-reinforce"])
def test_the_released_code_clips_at_a_fifth_and_the_plain_ratio_does_not(family: str) -> None:
    ratio = torch.tensor([[0.5, 0.79, 0.81, 1.0, 1.19, 1.21, 3.0]], dtype=torch.float64)
    batch = TokenBatch(ratio.log(), torch.zeros_like(ratio), torch.tensor([-1.0 if family == "nsr" else 1.0]))
    given = {"lambda_": 0.1} if family == "w-reinforce" else {}
    plain = get(f"{family}-ratio", **given).weights(batch)
    released = get(f"{family}-released", **given).weights(batch)
    torch.testing.assert_close(plain.weight.abs(), ratio)
    kept = ratio >= 0.8 if family == "nsr" else ratio <= 1.2
    torch.testing.assert_close(released.weight, torch.where(kept, plain.weight, 0.0))


def test_limits_in_an_infinite_group() -> None:
    """The closed forms against groups of 4000 with the success probability of the limit."""
    size, success = 4000, 0.3
    rewards = (torch.arange(size) < success * size).double()
    for name in ("asymre-group", "oreal", "oreal-released"):
        values = get(name).advantages(rewards, size)
        limit = get(name).limit_advantages(torch.tensor([success], dtype=torch.float64))[0]
        torch.testing.assert_close(torch.stack([values[-1], values[0]]), limit, rtol=1e-3, atol=0)


def test_sapo_takes_its_temperatures_in_double_precision() -> None:
    ratio = torch.tensor([[0.25, 1.0, 3.0]], dtype=torch.float64)
    weight = get("sapo").weights(TokenBatch(ratio.log(), torch.zeros_like(ratio), torch.tensor([-1.0]))).weight[0]
    for value, rho in zip(weight.tolist(), ratio[0].tolist(), strict=True):
        gate = 1 / (1 + math.exp(-1.05 * (rho - 1)))
        assert value == pytest.approx(-4 * rho * gate * (1 - gate), rel=1e-14)
