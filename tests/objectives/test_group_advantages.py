"""Advantages of groups and batches: against slow definitions, in closed form on binary rewards, and in the limit.

Arithmetic is float64 on both sides; the bound 1e-9 leaves room for the 1e-6 that both add to a standard deviation.
"""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import objectives
from analysis.errors import UsageError
from analysis.objectives import ResponseBatch, get
from tests.reference import group_advantages_slow as slow

SIZE = 6
GROUPS = st.lists(st.lists(st.sampled_from([0.0, 1.0]), min_size=SIZE, max_size=SIZE), min_size=1, max_size=4)
GRADED = st.lists(
    st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.5, 2.0]), min_size=SIZE, max_size=SIZE), min_size=1, max_size=4
)
NEW = (
    *("maxrl", "qae", "opo", "remax", "gpg", "pass-at-k", "pass-at-k-full", "pass-at-k-best", "raft"),
    *("raft-plus-plus", "wapo", "reinforce-plus-plus", "reinforce-plus-plus-baseline", "gdpo", "kimi-1.5", "dro"),
    "dro-token",
)


def lengths_of(groups: list[list[float]]) -> list[list[int]]:
    return [[1 + (3 * g + 5 * i) % 7 for i in range(len(group))] for g, group in enumerate(groups)]


def advantages(name: str, groups: list[list[float]], **parameters: Any) -> list[float]:
    given_lengths = torch.tensor(lengths_of(groups)).flatten()
    rewards = torch.tensor(groups, dtype=torch.float64).flatten()
    return get(name, **parameters).advantages(rewards, len(groups[0]), lengths=given_lengths).tolist()


def by_group(function: Any, groups: list[list[float]], **settings: Any) -> list[float]:
    return [value for group in groups for value in function(group, **settings)]


def close(found: list[float], expected: list[float]) -> bool:
    return found == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(GROUPS)
@settings(max_examples=40, deadline=None)
def test_binary_rewards_against_the_slow_definitions(groups: list[list[float]]) -> None:
    for k in (1, 2, 4, 6):
        assert close(advantages("pass-at-k", groups, k=k), by_group(slow.pass_at_k, groups, k=k))
    for k in (1, 2, 3):
        assert close(advantages("pass-at-k-full", groups, k=k), by_group(slow.pass_at_k_full, groups, k=k))
    _check_graded(groups)


@given(GRADED)
@settings(max_examples=40, deadline=None)
def test_graded_rewards_against_the_slow_definitions(groups: list[list[float]]) -> None:
    _check_graded(groups)


def _check_graded(groups: list[list[float]]) -> None:
    assert close(advantages("maxrl", groups), by_group(slow.maxrl, groups))
    assert close(advantages("wapo", groups), by_group(slow.winner, groups))
    for divides in (True, False):
        how = "group_std" if divides else "none"
        assert close(
            advantages("pass-at-k-best", groups, divide_by=how), by_group(slow.best_of_group, groups, divides=divides)
        )
        for interpolation in ("step", "linear"):
            found = advantages("qae", groups, quantile=0.35, interpolation=interpolation, divide_by=how)
            expected = by_group(slow.quantile, groups, k=0.35, linear=interpolation == "linear", divides=divides)
            assert close(found, expected)
    lengths = lengths_of(groups)
    expected = [
        value for group, row in zip(groups, lengths, strict=True) for value in slow.length_mean(group, lengths=row)
    ]
    assert close(advantages("opo", groups), expected)
    for how in ("informative", "successes"):
        assert close(advantages("gpg", groups, rescaling=how), slow.rescaled(groups, successes=how == "successes"))
    flat = [r for group in groups for r in group]
    flat_lengths = [n for row in lengths for n in row]
    if len(set(flat)) > 1:
        assert close(advantages("reinforce-plus-plus", groups), slow.whitened(flat, flat_lengths))
        assert close(advantages("reinforce-plus-plus", groups, whiten="responses"), slow.whitened(flat, None))
    centred = [r - sum(group) / len(group) for group in groups for r in group]
    if any(len(set(group)) > 1 for group in groups):
        assert close(advantages("reinforce-plus-plus-baseline", groups), slow.whitened(centred, flat_lengths))


def test_the_quantile_of_a_share_is_exact() -> None:
    """0.28·25 is 7.000000000000001 in floats: the 8th of 25 rewards would be taken in place of the 7th."""
    group = [0.0] * 7 + [1.0] * 18
    assert advantages("qae", [group], quantile=0.28, divide_by="none")[-1] == 1.0
    for size in range(2, 60):  # against counting in whole numbers, at each success rate
        for correct in range(size + 1):
            group = [1.0] * correct + [0.0] * (size - correct)
            hard = 100 * (size - correct) >= 40 * size  # q ≤ 1 − K at K = 0.4
            found = advantages("qae", [group], quantile=0.4, divide_by="none")
            assert found == [r if hard else r - 1 for r in group]


# -- closed forms on binary rewards ------------------------------------------------------------------------------------

G = 12


def pair(name: str, correct: int, **parameters: Any) -> tuple[float, float]:
    """A of a wrong and of a correct response in a group with `correct` of G correct."""
    rewards = torch.tensor([1.0] * correct + [0.0] * (G - correct), dtype=torch.float64)
    ones = torch.full((G,), 3)
    a = get(name, **parameters).advantages(rewards, G, lengths=ones, reward_components=rewards[:, None])
    assert a[:correct].unique().numel() == a[correct:].unique().numel() == 1
    return float(a[-1]), float(a[0])


@pytest.mark.parametrize("correct", range(1, G))
def test_group_advantages_share_lambda_and_differ_by_the_weight_of_the_prompt(correct: int) -> None:
    """A₋ = −w and A₊ = w(1 − q)/q; w is what a failure weighs: q in Dr. GRPO, √(q/(1 − q)) in GRPO, 1 in MaxRL."""
    q, biased = correct / G, math.sqrt(G / (G - 1))
    k = 4
    failing = math.comb(G - correct, k) / math.comb(G, k)
    sigma = math.sqrt(failing * (1 - failing))
    failures = {
        ("maxrl",): 1.0,
        ("dr-grpo",): q,
        ("rloo",): q * G / (G - 1),
        ("grpo",): math.sqrt(q / (1 - q)) / biased,
        ("gpg",): q,  # every response of the one group is informative
        ("opo",): q,  # lengths are equal
        ("kimi-1.5",): q,
        ("dro",): q,
        ("dro-token",): q,
        ("pass-at-k", 1): math.sqrt(q / (1 - q)),
        ("pass-at-k", k): failing / sigma * q / (1 - q) if sigma else 0.0,
        ("reinforce-plus-plus",): math.sqrt(q / (1 - q)) * math.sqrt((3 * G - 1) / (3 * G)),  # over tokens
        ("reinforce-plus-plus-baseline",): math.sqrt(q / (1 - q)) * math.sqrt((3 * G - 1) / (3 * G)),
        ("gdpo",): math.sqrt(q / (1 - q)) / biased,
    }
    for (name, *rest), weight in failures.items():
        wrong, right = pair(name, correct, **({"k": rest[0]} if rest else {}))
        assert wrong == pytest.approx(-weight, rel=2e-4, abs=1e-12), name  # 1e-4 of the whitening, 1e-6 of a std
        assert right == pytest.approx(weight * (1 - q) / q, rel=2e-4, abs=1e-12), name


@pytest.mark.parametrize("correct", range(1, G))
def test_one_sided_advantages(correct: int) -> None:
    q = correct / G
    std = math.sqrt(q * (1 - q) * G / (G - 1))
    hard = q <= 0.6
    assert pair("qae", correct) == pytest.approx((0.0, 1 / std) if hard else (-1 / std, 0.0), rel=1e-5)
    assert pair("qae", correct, divide_by="none") == ((0.0, 1.0) if hard else (-1.0, 0.0))
    assert pair("wapo", correct) == pytest.approx((0.0, 1 - q))
    assert pair("raft", correct) == pair("raft-plus-plus", correct) == (0.0, 1.0)
    alone = torch.tensor([0.0] * (G - 1) + [1.0], dtype=torch.float64)
    best = get("pass-at-k-best").advantages(alone, G)
    assert float(best[-1]) == pytest.approx(math.sqrt(G), rel=1e-5)
    assert not best[:-1].any()
    assert get("pass-at-k-best", divide_by="none").advantages(alone, G)[-1] == 1
    if correct > 1:
        assert pair("pass-at-k-best", correct) == (0.0, 0.0)


def test_sets_of_full_sampling() -> None:
    """Sets (1, 0), (0, 0), (0, 1): two of three hold a correct response."""
    rewards = torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0, 1.0], dtype=torch.float64)
    a = get("pass-at-k-full", k=2).advantages(rewards, 6)
    s = 2 / 3
    inside, outside = math.sqrt((1 - s) / s) * math.sqrt(2 / 3), -math.sqrt(s / (1 - s)) * math.sqrt(2 / 3)
    assert a.tolist() == pytest.approx([inside, inside, outside, outside, inside, inside], rel=1e-5)


def test_remax_on_binary_rewards() -> None:
    rewards, greedy = torch.tensor([1.0, 0.0, 1.0, 0.0]), torch.tensor([1.0, 1.0, 0.0, 0.0])
    assert get("remax").advantages(rewards, 2, greedy_rewards=greedy).tolist() == [0.0, -1.0, 1.0, 0.0]


def test_opo_and_reinforce_plus_plus_count_tokens() -> None:
    rewards, lengths = torch.tensor([1.0, 0.0], dtype=torch.float64), torch.tensor([3, 1])
    assert get("opo").advantages(rewards, 2, lengths=lengths).tolist() == [0.25, -0.75]  # b = 3/4
    a = get("reinforce-plus-plus").advantages(rewards, 2, lengths=lengths)
    assert a.tolist() == pytest.approx([0.5, -1.5], rel=1e-6)  # m = 3/4, s = √(3/16·4/3) = 1/2


def test_gdpo_weighs_components() -> None:
    generator = torch.Generator().manual_seed(3)
    parts = torch.rand(12, 3, generator=generator, dtype=torch.float64)
    weights = torch.tensor([1.0, 0.5, -2.0], dtype=torch.float64)
    expected = torch.zeros(12, dtype=torch.float64)
    for column, weight in zip(parts.T, weights, strict=True):
        expected += weight * torch.cat([(g - g.mean()) / (g.std() + 1e-6) for g in column.split(4)])
    plain = get("gdpo", whiten="none").advantages(
        torch.zeros(12), 4, reward_components=parts, component_weights=weights
    )
    torch.testing.assert_close(plain.double(), expected, rtol=1e-6, atol=1e-6)  # rewards in float32 set the dtype


@pytest.mark.parametrize("name", NEW)
def test_every_note_states_the_closed_form(name: str) -> None:
    note = objectives.entry(name).note
    assert re.search(r"binary rewards?\b.* (A₊|A) (= |is )|σ.*A₊ = |A₊ = ", note), note


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1])
def test_equal_rewards_give_exactly_zero(value: float) -> None:
    rewards = torch.full((6,), value, dtype=torch.float64)
    lengths = torch.tensor([1, 5, 2, 7, 3, 1])
    for name, parameters in (
        ("maxrl", {}),
        ("wapo", {}),
        ("qae", {"interpolation": "linear"}),
        ("qae", {}),
        ("opo", {}),
        ("gpg", {}),
        ("pass-at-k-best", {}),
        ("pass-at-k-full", {"k": 2}),
        ("reinforce-plus-plus", {}),
        ("reinforce-plus-plus-baseline", {"whiten": "responses"}),
        ("gdpo", {}),
        ("grpo", {"advantage": "group_mean_batch_std"}),
        *((("pass-at-k", {"k": 3}),) if value != 0.1 else ()),
    ):
        objective = get(name, **parameters)
        a = objective.advantages(rewards, 6, lengths=lengths, reward_components=rewards[:, None])
        assert not objective.selected(a).any(), name


# -- parts, limits, refusals -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("grpo", {"advantage": "batch_mean_std"}),
        ("grpo", {"advantage": "group_mean_batch_std"}),
        ("gpg", {}),
        ("reinforce-plus-plus", {}),
        ("reinforce-plus-plus-baseline", {}),
        ("rloo", {"whiten": "responses"}),
        ("opo", {}),
    ],
)
def test_groups_of_several_sizes_are_one_batch(name: str, parameters: dict[str, Any]) -> None:
    """Parts of one size each give what the batch as a whole gives; parts of several sizes are compared over all."""
    objective = get(name, **parameters)
    generator = torch.Generator().manual_seed(0)
    rewards = (torch.rand(24, generator=generator) < 0.4).double()
    lengths = torch.randint(1, 9, (24,), generator=generator)
    whole = objective.advantages(rewards, 4, lengths=lengths)
    parts = [ResponseBatch(rewards[a:b], 4, lengths=lengths[a:b]) for a, b in ((0, 8), (8, 12), (12, 24))]
    torch.testing.assert_close(torch.cat(objective.advantages_of(parts)), whole, rtol=1e-12, atol=1e-12)
    uneven = [
        ResponseBatch(rewards[:12], 4, lengths=lengths[:12]),
        ResponseBatch(rewards[12:], 6, lengths=lengths[12:]),
    ]
    a = torch.cat(objective.advantages_of(uneven))
    if parameters.get("whiten") == "responses" or parameters.get("advantage") == "batch_mean_std":
        assert float(a.mean()) == pytest.approx(0, abs=1e-12)
        assert float(a.std()) == pytest.approx(1, rel=1e-3)
    if name.startswith("reinforce"):
        tokens = a.repeat_interleave(lengths)
        assert float(tokens.mean()) == pytest.approx(0, abs=1e-12)
        assert float(tokens.std()) == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("maxrl", {}),
        ("wapo", {}),
        ("qae", {}),
        ("qae", {"divide_by": "none", "interpolation": "linear", "quantile": 0.8}),
        ("pass-at-k", {"k": 4}),
        ("raft", {}),
        ("kimi-1.5", {}),
        ("grpo", {}),
    ],
)
@pytest.mark.parametrize("success", [0.0, 0.1, 0.55, 0.9, 1.0])
def test_the_limit_is_that_of_a_large_group(name: str, parameters: dict[str, Any], success: float) -> None:
    """A group of 20,000 with the exact share of successes; the advantages of both rewards differ from the limit by
    O(k²/G): 2e-3."""
    size, objective = 20_000, get(name, **parameters)
    correct = round(success * size)
    rewards = torch.tensor([1.0] * correct + [0.0] * (size - correct), dtype=torch.float64)
    a = objective.advantages(rewards, size)
    wrong, right = objective.limit_advantages(torch.tensor(success, dtype=torch.float64)).tolist()
    if correct:
        assert float(a[0]) == pytest.approx(right, rel=2e-3, abs=1e-6)
    if correct < size:
        assert float(a[-1]) == pytest.approx(wrong, rel=2e-3, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("opo", "opo weighs the responses of a group by their lengths"),
        ("remax", "remax subtracts the reward of a greedy response"),
        ("gpg", "gpg normalises over a batch"),
        ("reinforce-plus-plus", "reinforce-plus-plus normalises over a batch"),
        ("gdpo", "gdpo normalises several rewards"),
        ("pass-at-k-best", "pass-at-k-best rewards the best of a finite group"),
    ],
)
def test_no_limit_of_the_prompt_alone(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=f"objective: {message}"):
        get(name).limit_advantages(torch.tensor([0.5]))


def test_batch_normalisation_has_no_limit_of_the_prompt_alone() -> None:
    with pytest.raises(UsageError, match="objective: grpo normalises over a batch"):
        get("grpo", advantage="batch_mean_std").limit_advantages(torch.tensor([0.5]))


@pytest.mark.parametrize(
    "objective",
    [
        get("maxrl"),
        get("wapo"),
        get("pass-at-k", k=2),
        get("opo"),
        get("remax"),
        get("gpg"),
        get("reinforce-plus-plus"),
        get("rewarding-unlikely", advantage="none"),
        get("optimal-token-baseline"),
    ],
    ids=lambda objective: objective.name,
)
def test_no_single_number_tells_correct_from_wrong(objective: objectives.Objective) -> None:
    assert not objective.weighs_alone
    with pytest.raises(UsageError, match=f"{objective.name} .*weighs a response by more than its own reward"):
        objective.contrast()


def test_the_contrast_of_what_weighs_a_response_by_its_own_reward() -> None:
    for name, contrast in (("raft", 1.0), ("raft-plus-plus", 1.0), ("sft", 0.0), ("asymre", 1.0)):
        objective = get(name, baseline=0.3 if name == "asymre" else None)
        assert objective.weighs_alone
        assert objective.contrast() == contrast
    assert get("reinforce-plus-plus", whiten="none").contrast() == 1.0


REWARDS = torch.tensor([1.0, 0.0, 0.0, 1.0])


@pytest.mark.parametrize(
    ("name", "parameters", "given_fields", "message"),
    [
        ("opo", {}, {}, r"lengths: opo counts the tokens of the responses, got None; give the number"),
        ("reinforce-plus-plus", {}, {}, r"lengths: reinforce-plus-plus counts the tokens"),
        ("remax", {}, {}, r"greedy_rewards: remax subtracts the reward of each prompt's greedy response, got None"),
        ("gdpo", {}, {}, r"reward_components: gdpo normalises several rewards apart, got None; give them as"),
        (
            "opo",
            {},
            {"lengths": torch.tensor([1, 2, 3])},
            r"lengths: expected one for each response, shape \(4,\), got \(3,\)",
        ),
        ("opo", {}, {"lengths": torch.tensor([1, 0, 2, 2])}, r"lengths: expected at least 1 token in each response, "),
        ("remax", {}, {"greedy_rewards": torch.tensor([1.0, torch.nan, 1.0, 1.0])}, r"greedy_rewards: expected finite"),
        (
            "gdpo",
            {},
            {"reward_components": REWARDS},
            r"reward_components: expected shape \(4, components\), got \(4,\)",
        ),
        (
            "gdpo",
            {},
            {"reward_components": REWARDS[:, None], "component_weights": torch.ones(2)},
            r"component_weights: expected shape \(1,\), got weights of shape \(2,\)",
        ),
        ("pass-at-k", {"k": 4}, {}, r"rollout.group_size: pass-at-k takes 4 of the responses of a prompt .* got 2"),
        ("pass-at-k-full", {"k": 2}, {}, r"rollout.group_size: pass-at-k-full compares sets of 2 .* got 2"),
    ],
)
def test_what_is_missing_is_named(
    name: str, parameters: dict[str, Any], given_fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        get(name, **parameters).advantages(REWARDS, 2, **given_fields)


def test_pass_at_k_counts_verdicts() -> None:
    with pytest.raises(UsageError, match="rewards: Pass@k counts correct responses, expected rewards 0 and 1"):
        get("pass-at-k", k=2).advantages(torch.tensor([0.5, 0.0]), 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "pass-at-k"}, "objective.k: pass-at-k needs it, got none"),
        ({"name": "pass-at-k", "k": 1.5}, r"objective.k: expected a whole number ≥ 1, got 1.5"),
        ({"name": "pass-at-k", "k": 0}, r"objective.k: expected a whole number ≥ 1, got 0"),
        ({"name": "qae", "quantile": 1.0}, r"objective.quantile: expected a number > 0, < 1, got 1.0"),
        ({"name": "pass-at-k-full", "k": 2, "group_size": 5}, "rollout.group_size: pass-at-k-full compares sets of 2"),
        ({"name": "maxrl", "group_size": 1}, "rollout.group_size: maxrl compares the responses of one prompt"),
        ({"name": "gdpo", "group_size": 1}, "rollout.group_size: gdpo compares the responses of one prompt"),
        ({"name": "reinforce-plus-plus-baseline", "group_size": 1}, "rollout.group_size: reinforce-plus-plus-baseline"),
        ({"name": "kto", "advantage": "group_mean"}, "objective.advantage: only .* got group_mean with kto"),
        ({"name": "maxrl", "clip_low": 0.2}, "objective.clip_low: the form log has no ratio to clip"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        objectives.check(**settings)


def test_one_response_alone_may_be_whitened_with_others() -> None:
    objectives.check(name="reinforce-plus-plus", group_size=1)
    objectives.check(name="remax", group_size=1)
    with pytest.raises(UsageError, match="advantages: whiten = responses needs at least 2 responses in a batch, got 1"):
        get("reinforce-plus-plus", whiten="responses").advantages(torch.ones(1), 1)


def test_names_of_the_peers() -> None:
    for alias, name in (
        ("max_rl", "maxrl"),
        ("raft++", "raft-plus-plus"),
        ("reinforce++", "reinforce-plus-plus"),
        ("grpo_passk", "pass-at-k-best"),
        ("kimi15", "dro-token"),
        ("apo_zero_unpaired", "apo-zero-unpaired"),
    ):
        assert get(alias).name == name
