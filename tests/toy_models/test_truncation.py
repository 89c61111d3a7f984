"""Top-k and top-p by their definition, against the warpers of transformers, and what `sample` reports of them."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from tests.reference.truncation_slow import distribution_of, entropy_of, log_of, margin
from tests.toy_models.one_distribution import OneDistribution
from tests.toy_models.random_models import random_model
from toy_models import sample
from toy_models.truncation import kept_tokens

INF = float("inf")
values = st.one_of(st.sampled_from([0.0, 1.0, -INF]), st.floats(-30, 30))
distributions = st.lists(values, min_size=1, max_size=9).filter(lambda z: max(z) > -INF)
top_ks = st.integers(0, 11)
top_ps = st.one_of(st.sampled_from([1.0, 0.5, 1e-9, 5e-324]), st.floats(1e-6, 1))
temperatures = st.sampled_from([1.0, 0.3, 2.0])


def determined(z: list[float], temperature: float, top_k: int, top_p: float) -> bool:
    """Whether float64 can tell the kept set: no two logits that only rounding makes equal once the greatest is
    subtracted, and no cumulative mass within rounding of top_p, unless all are equal."""
    ordered = sorted(set(z) - {-INF})
    if any(high - low < 1e-12 for low, high in itertools.pairwise(ordered)):
        return False
    return top_p == 1.0 or len(set(z)) == 1 or margin(z, temperature, top_k, top_p) > 1e-12


@settings(max_examples=200, deadline=None)
@given(distributions, temperatures, top_ks, top_ps)
@example([0.0] * 4, 1.0, 0, 0.5)  # a mass that is reached exactly is enough
@example([1.0, 1.0, 1.0, 0.0], 1.0, 2, 1.0)  # a tie across the edge of top-k
@example([0.0, 1.0, 1.0], 1.0, 7, 1e-9)  # k > V; one token, the first of the tie
@example([-INF, 0.0, -INF], 1.0, 3, 1.0)
def test_kept_tokens_are_those_of_the_definition(z: list[float], temperature: float, top_k: int, top_p: float) -> None:
    assume(determined(z, temperature, top_k, top_p))
    kept = kept_tokens(torch.tensor([z], dtype=torch.float64), temperature=temperature, top_k=top_k, top_p=top_p)[0]
    distribution = distribution_of(z, temperature, top_k, top_p)
    # Tokens without any mass make no difference to a distribution.
    assert [k for k, v in zip(kept.tolist(), z, strict=True) if v > -INF] == [
        p > 0 for p, v in zip(distribution, z, strict=True) if v > -INF
    ]
    assert kept.any()


@pytest.mark.parametrize(("top_k", "top_p"), [(7, 1.0), (0, 0.4), (30, 0.6)])
def test_ties_go_to_the_lower_id_in_larger_vocabularies(top_k: int, top_p: float) -> None:
    """An unstable sort is stable up to 16 numbers."""
    z = torch.randint(0, 3, (20, 60), generator=torch.Generator().manual_seed(0)).double()
    kept = kept_tokens(z, top_k=top_k, top_p=top_p)
    for row, values in zip(kept.tolist(), z.tolist(), strict=True):
        assert row == [p > 0 for p in distribution_of(values, 1.0, top_k, top_p)]


@settings(max_examples=100, deadline=None)
@given(distributions, temperatures, top_ks, top_ps, st.floats(0, 1, exclude_max=True))
def test_both_distributions_of_a_sample(z: list[float], temperature: float, top_k: int, top_p: float, u: float) -> None:
    assume(determined(z, temperature, top_k, top_p))
    drawn = sample(
        OneDistribution(z, torch.float64),
        [[2]],
        group_size=1,
        max_new_tokens=1,
        eos_id=len(z),
        pad_id=0,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        uniforms=torch.tensor([[u]], dtype=torch.float64),
    )
    token = int(drawn.response_ids[0, 0])
    policy, truncated = distribution_of(z, temperature), distribution_of(z, temperature, top_k, top_p)
    assert truncated[token] > 0
    for distribution, log_prob, entropy in (
        (policy, drawn.log_probs, drawn.entropy),
        (truncated, drawn.sampling_log_probs, drawn.sampling_entropy),
    ):
        assert log_prob.item() == pytest.approx(log_of(distribution[token]), rel=1e-13, abs=1e-14)
        assert entropy.item() == pytest.approx(entropy_of(distribution), rel=1e-13, abs=1e-13)
    kept_mass = sum(p for p, q in zip(policy, truncated, strict=True) if q > 0)
    ratio = (drawn.sampling_log_probs - drawn.log_probs).item()
    assert ratio == pytest.approx(-log_of(kept_mass), rel=1e-12, abs=1e-13)


@pytest.mark.parametrize("settings", [{"top_k": 5}, {"top_p": 0.7}, {"top_k": 7, "top_p": 0.8}, {"top_k": 99}])
def test_order_is_that_of_generate(settings: dict[str, Any]) -> None:
    """Without ties the warpers of transformers, in the order of `generate`, leave the same tokens."""
    z = 3 * torch.randn(500, 29, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    warpers: list[Any] = [TemperatureLogitsWarper(0.8)]
    warpers += [TopKLogitsWarper(settings["top_k"])] if "top_k" in settings else []
    warpers += [TopPLogitsWarper(settings["top_p"])] if "top_p" in settings else []
    theirs = LogitsProcessorList(warpers)(torch.zeros(500, 1, dtype=torch.long), z)
    assert torch.equal(kept_tokens(z, temperature=0.8, **settings), theirs > -INF)


def test_generate_draws_from_the_same_set() -> None:
    model = random_model("gpt2")
    settings: dict[str, Any] = {"temperature": 1.3, "top_k": 6, "top_p": 0.8}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        rows = model.generate(
            torch.full((4000, 2), 5),
            attention_mask=torch.ones(4000, 2),
            do_sample=True,
            max_new_tokens=1,
            pad_token_id=0,
            **settings,
        )
        kept = kept_tokens(model(torch.full((1, 2), 5)).logits[:, -1], **settings)[0]
    assert 1 < kept.sum() < 6  # both bind
    assert set(rows[:, -1].tolist()) == set(kept.nonzero()[:, 0].tolist())


def test_without_truncation_the_two_distributions_are_one() -> None:
    for temperature in (0.0, 1.0, 0.7):
        drawn = sample(
            random_model("qwen3"),
            [[5, 6], [7]],
            group_size=3,
            max_new_tokens=8,
            eos_id=1,
            pad_id=0,
            temperature=temperature,
            top_p=1.0 if temperature else 0.5,
            uniforms=torch.rand(6, 8, dtype=torch.float64),
        )
        assert torch.equal(drawn.sampling_log_probs, drawn.log_probs)
        assert torch.equal(drawn.sampling_entropy, drawn.entropy)
        assert drawn.sampling_entropy.data_ptr() == drawn.entropy.data_ptr()  # not computed twice


def test_frequencies_follow_the_truncated_distribution() -> None:
    """20,000 draws, 4 kept tokens within 5 standard errors (a false alarm in 400,000 seeds), none outside."""
    z, n = [0.3, 2.0, 1.0, -1.0, 1.5, 1.0], 20_000
    drawn = sample(
        OneDistribution(z),
        [[2]],
        group_size=n,
        max_new_tokens=1,
        eos_id=9,
        pad_id=0,
        temperature=1.2,
        top_k=5,
        top_p=0.85,
        uniforms=torch.rand(n, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(3)),
    )
    counts = drawn.response_ids[:, 0].bincount(minlength=6).tolist()
    distribution = [float(p) for p in distribution_of(z, 1.2, 5, 0.85)]
    assert sum(p > 0 for p in distribution) == 4
    for count, p in zip(counts, distribution, strict=True):
        assert abs(count - n * p) <= 5 * math.sqrt(n * p * (1 - p))


def test_large_vocabulary_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    z = torch.randn(50, 29, generator=torch.Generator().manual_seed(0))
    whole = kept_tokens(z, top_k=9, top_p=0.7)
    monkeypatch.setattr("toy_models.truncation._CHUNK", 3 * 29)
    assert torch.equal(kept_tokens(z, top_k=9, top_p=0.7), whole)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"top_k": -1}, "top_k: expected an integer ≥ 0, got -1; 0 keeps all tokens"),
        ({"top_k": 2.0}, "top_k: expected an integer ≥ 0, got 2.0"),
        ({"top_k": None}, "top_k: expected an integer ≥ 0, got None"),
        ({"top_p": 0.0}, r"top_p: expected a number in \(0, 1\], got 0.0; 1 keeps all tokens"),
        ({"top_p": float("nan")}, "top_p: expected a number .* got nan"),
    ],
)
def test_bad_input_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sample(
            OneDistribution([0.0, 0.0]),
            [[2]],
            group_size=1,
            max_new_tokens=1,
            eos_id=1,
            pad_id=0,
            uniforms=torch.zeros(1, 1, dtype=torch.float64),
            **change,
        )
