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


def one_context() -> tuple[torch.Tensor, ...]:
    """Log-probs of a policy, of the one that sampled and of a reference, and every token of one context."""
    g = torch.Generator().manual_seed(3)
    z, old, ref = torch.randn(3, 7, generator=g, dtype=torch.float64).log_softmax(-1)
    return z, old, ref


def expected_logit_gradient(name: str, log_pi: torch.Tensor, old: torch.Tensor, ref: torch.Tensor) -> torch.Tensor:
    """E over y from old of −w_y·(e_y − π), the expected gradient of the loss in the logits."""
    batch = TokenBatch(log_pi[:, None], old[:, None], ref_log_probs=ref[:, None])
    weight = get(name).weights(batch).weight[:, 0]
    direction = torch.eye(len(log_pi), dtype=torch.float64) - log_pi.exp()
    return -(old.exp() * weight) @ direction


def test_what_the_sampled_kl_are_in_expectation() -> None:
    log_pi, old, ref = one_context()
    leaf = log_pi.clone().requires_grad_()
    mine = leaf.log_softmax(-1)
    (forward,) = torch.autograd.grad((mine.exp() * (mine - ref)).sum(), leaf, retain_graph=True)
    (backward,) = torch.autograd.grad((ref.exp() * (ref - mine)).sum(), leaf)
    close = {"rtol": 0, "atol": 1e-14}
    torch.testing.assert_close(expected_logit_gradient("kl-k1", log_pi, log_pi, ref), torch.zeros_like(ref), **close)
    torch.testing.assert_close(expected_logit_gradient("kl-k2", log_pi, log_pi, ref), forward, **close)
    torch.testing.assert_close(expected_logit_gradient("kl-k3", log_pi, log_pi, ref), backward, **close)
    for sampler in (log_pi, old):
        found = expected_logit_gradient("kl-k3-corrected", log_pi, sampler, ref)
        torch.testing.assert_close(found, forward, **close)
    for name in ("kl-k1", "kl-k2", "kl-k3"):  # off-policy none of the three is what it is on-policy
        off, on = (expected_logit_gradient(name, log_pi, sampler, ref) for sampler in (old, log_pi))
        assert (off - on).abs().max() > 1e-3


def nft_by_hand(rewards: list[float], ratio: float, floor: float, epsilon: float, how: str) -> list[float]:
    """−∂loss/∂log π of one token of each response, written from github.com/NVlabs/NFT, dp_actor.py."""
    rate = min(max(sum(rewards) / len(rewards), 0.02), 0.98)
    prompt = {"1-q": 1 - rate, "sqrt": math.sqrt((1 - rate) / rate), "none": 1.0}[how]
    moves = 0.0 if math.log(ratio) > 10 else 1.0  # exp(min(log ρ, 10))
    capped = min(ratio, math.exp(10))
    proxy = (1 - rate * capped) / (1 - rate)
    # d log(max(x, bound)), straight through, is dx/max(x, bound)
    correct = moves * capped / max(capped, floor)
    wrong = moves * (-rate * capped / (1 - rate)) / max(proxy, epsilon)
    return [prompt * (correct if reward > 0 else wrong) for reward in rewards]


@pytest.mark.parametrize("ratio", [1e-3, 0.5, 1.0, 1.7, 40.0, 3e4])
@pytest.mark.parametrize(("floor", "epsilon", "how"), [(0.0, 1.0, "1-q"), (0.5, 0.1, "sqrt"), (2.0, 1.5, "none")])
def test_nft_against_its_code_by_hand(ratio: float, floor: float, epsilon: float, how: str) -> None:
    objective = get("nft", ratio_floor=floor, epsilon=epsilon, prompt_weight=how)
    log_ratio = torch.full((COUNT, 1), math.log(ratio), dtype=torch.float64)
    accuracy = PATTERNS.view(-1, GROUP).mean(-1).repeat_interleave(GROUP)
    batch = TokenBatch(log_ratio, torch.zeros_like(log_ratio), objective.advantages(PATTERNS, GROUP), accuracy=accuracy)
    expected = by_group(lambda rewards: nft_by_hand(rewards, ratio, floor, epsilon, how), PATTERNS)
    torch.testing.assert_close(objective.weights(batch).weight[:, 0], expected, rtol=1e-12, atol=1e-14)
    # the NFT of sequences at the same ratio of the whole response
    three = TokenBatch(
        (log_ratio / 3).expand(-1, 3),
        torch.zeros(COUNT, 3, dtype=torch.float64),
        batch.advantages,
        accuracy=accuracy,
    )
    sequence = get("sequence-nft", ratio_floor=floor, epsilon=epsilon, prompt_weight=how).weights(three).weight
    torch.testing.assert_close(sequence, expected[:, None].expand(-1, 3), rtol=1e-12, atol=1e-14)


def test_topr_by_hand() -> None:
    """Correct: every token 1. Wrong: minus the ratio of the whole response, at most 1; a masked token adds nothing."""
    ratios = torch.tensor([[0.5, 0.8, 9.0], [0.5, 0.8, 9.0], [0.5, 0.8, 1.0], [2.0, 1.5, 1.0]], dtype=torch.float64)
    mask = torch.tensor([[True, True, True], [True, True, True], [True, True, False], [True, True, True]])
    advantages = torch.tensor([1.0, -1.0, -1.0, -1.0])
    weight = get("topr").weights(TokenBatch(ratios.log(), torch.zeros_like(ratios), advantages, mask)).weight
    assert weight[:, 0].tolist() == pytest.approx([1.0, -1.0, -0.4, -1.0], rel=1e-14)
    assert (weight == weight[:, :1]).all()


def test_unlikelihood_by_hand() -> None:
    """fairseq's −log(max(1 − π_y, 1e-5)) of wrong responses: −π_y/(1 − π_y), and nothing below the floor."""
    probs = torch.tensor([[0.25, 0.5, 0.99998, 0.999999]], dtype=torch.float64)
    objective = get("unlikelihood")
    assert objective.advantages(torch.tensor([1.0, 0.0]), 2).tolist() == [0.0, -1.0]
    weight = objective.weights(TokenBatch(probs.log(), advantages=torch.tensor([-1.0]))).weight[0].tolist()
    assert weight == pytest.approx([-1 / 3, -1.0, -0.99998 / 2e-5, 0.0], rel=1e-10)
