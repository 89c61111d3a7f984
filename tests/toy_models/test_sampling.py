from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.reference.truncation_slow import distribution_of, entropy_of, log_of
from tests.toy_models.one_distribution import OneDistribution
from tests.toy_models.random_models import random_model
from toy_models import Policy, Samples, get_task, sample
from toy_models.sampling import _next_tokens

PROMPTS = [[5], [6, 7, 8, 9], [10, 11], [12, 13, 14, 15, 16, 17], [6, 7, 8, 9]]
EQUAL = [[5, 6, 7], [8, 9, 10], [11, 12, 13]]
END, PAD, N_NEW = 1, 0, 12


def uniforms(n: int, width: int = N_NEW, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def draw(model: Any, prompts: list[list[int]], group_size: int = 4, **kwargs: Any) -> Samples:
    kwargs.setdefault("uniforms", uniforms(len(prompts) * group_size, kwargs.get("max_new_tokens", N_NEW)))
    kwargs = {"max_new_tokens": N_NEW, "eos_id": END, "pad_id": PAD} | kwargs
    return sample(model, prompts, group_size=group_size, **kwargs)


def naive(
    model: Any, prompt: list[int], draws: torch.Tensor, temperature: float, top_k: int = 0, top_p: float = 1.0
) -> tuple[list[int], list[list[float]]]:
    """One row, one token at a time, a whole forward pass for each, in Python numbers: the tokens, and under the
    policy's and the truncated distribution the log-prob of each and the entropy."""
    ids, values = list(prompt), []
    for u in draws.tolist():
        with torch.no_grad():
            z = model(input_ids=torch.tensor([ids])).logits[0, -1].tolist()
        policy = distribution_of(z, temperature or 1.0)
        truncated = distribution_of(z, temperature or 1.0, top_k, top_p)
        if temperature == 0.0:
            token = max(range(len(z)), key=z.__getitem__)
        else:
            mass, token = 0.0, -1
            for v, p in enumerate(truncated):
                mass += p
                token = v if p > 0 else token
                if mass > u:
                    break
        ids.append(token)
        values.append(
            [f for distribution in (policy, truncated) for f in (log_of(distribution[token]), entropy_of(distribution))]
        )
        if token == END:
            break
    return ids[len(prompt) :], values


def check_values(drawn: Samples, i: int, expected: list[list[float]], tolerance: float) -> None:
    """The four values of each token of rollout i, and zeros after its end."""
    n = len(expected)
    columns = (drawn.log_probs, drawn.entropy, drawn.sampling_log_probs, drawn.sampling_entropy)
    for found, right in zip(columns, torch.tensor(expected, dtype=torch.float64).T, strict=True):
        assert (found[i, :n].double() - right).abs().max() <= tolerance
        assert (found[i, n:] == 0).all()


@pytest.mark.parametrize("kind", ["qwen3", "llama", "gpt2"])
@pytest.mark.parametrize("prompts", [PROMPTS, EQUAL], ids=["ragged", "equal"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-6)])
def test_equals_one_forward_pass_per_token(
    kind: str, prompts: list[list[int]], dtype: torch.dtype, tolerance: float
) -> None:
    model = random_model(kind, dtype)
    group_size, temperature = 3, 1.5
    u = uniforms(len(prompts) * group_size)
    drawn = draw(model, prompts, group_size, temperature=temperature, uniforms=u)
    assert drawn.log_probs.dtype == dtype
    for i, row in enumerate(u):
        ids, expected = naive(model, prompts[i // group_size], row, temperature)
        n = len(ids)
        assert drawn.response_ids[i, :n].tolist() == ids
        assert drawn.lengths[i] == n
        assert drawn.finished[i] == (ids[-1] == END)
        assert (drawn.response_ids[i, n:] == PAD).all()
        check_values(drawn, i, expected, tolerance)
    # Otherwise the removal of ended rows was not met.
    assert 0 < drawn.finished.sum() < len(u) or len(set(drawn.lengths.tolist())) > 2


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 0.05), (0, 0.5), (0, 0.9), (3, 1.0), (8, 0.8)])
def test_truncated_distributions(top_k: int, top_p: float) -> None:
    model = random_model("gpt2", torch.float64)
    drawn = draw(model, PROMPTS, 4, top_k=top_k, top_p=top_p, temperature=1.2)
    for i, row in enumerate(uniforms(20)):
        ids, expected = naive(model, PROMPTS[i // 4], row, 1.2, top_k, top_p)
        assert drawn.response_ids[i, : len(ids)].tolist() == ids
        check_values(drawn, i, expected, 1e-12)
    assert (drawn.sampling_log_probs > drawn.log_probs + 0.01).any()


@pytest.mark.parametrize("kind", ["qwen3", "gpt2"])
def test_greedy(kind: str) -> None:
    model = random_model(kind, torch.float64)
    drawn = draw(model, PROMPTS, 1, temperature=0.0, uniforms=None)
    for i, prompt in enumerate(PROMPTS):
        ids, expected = naive(model, prompt, torch.zeros(N_NEW), 0.0)
        assert drawn.response_ids[i, : len(ids)].tolist() == ids
        check_values(drawn, i, expected, 1e-10)


@pytest.mark.slow
def test_greedy_is_that_of_generate(tiny: Policy) -> None:
    prompts = [list(p.ids) for p in get_task("path-small").prompts("test")[:32]]
    ours = sample(
        tiny.model, prompts, group_size=1, max_new_tokens=9, eos_id=tiny.eos_id, pad_id=tiny.pad_id, temperature=0.0
    )
    theirs = tiny.model.generate(
        torch.tensor(prompts), do_sample=False, max_new_tokens=9, pad_token_id=tiny.pad_id, eos_token_id=tiny.eos_id
    )
    assert ours.response_ids.tolist() == theirs[:, len(prompts[0]) :].tolist()


@pytest.mark.slow
def test_samples_do_not_depend_on_the_batch(tiny: Policy) -> None:
    prompts = [list(p.ids) for p in get_task("path-small").prompts("train")[:128]]
    u = uniforms(1024, 9)
    args = {"max_new_tokens": 9, "eos_id": tiny.eos_id, "pad_id": tiny.pad_id}
    whole = sample(tiny.model, prompts, group_size=8, uniforms=u, **args)
    rows = [prompt for prompt in prompts for _ in range(8)]
    for i in range(0, 1024, 7):
        piece = sample(tiny.model, rows[i : i + 7], group_size=1, uniforms=u[i : i + 7], **args)
        for j, n in enumerate(piece.lengths.tolist()):
            assert whole.lengths[i + j] == n
            assert whole.response_ids[i + j, :n].tolist() == piece.response_ids[j, :n].tolist()
            assert (whole.log_probs[i + j, :n] - piece.log_probs[j, :n]).abs().max() <= 1e-4


@pytest.mark.slow
def test_log_probs_are_those_of_the_policy(tiny: Policy) -> None:
    prompts = [list(p.ids) for p in get_task("path-small").prompts("train")[:64]]
    drawn = sample(
        tiny.model,
        prompts,
        group_size=8,
        max_new_tokens=9,
        eos_id=tiny.eos_id,
        pad_id=tiny.pad_id,
        uniforms=uniforms(512, 9),
    )
    responses = [row[:n].tolist() for row, n in zip(drawn.response_ids, drawn.lengths, strict=True)]
    log_probs, mask = tiny.log_probs([p for p in prompts for _ in range(8)], responses)
    assert (log_probs - drawn.log_probs).abs().max() <= 1e-4
    assert (drawn.lengths == mask.sum(1)).all()
    # What is drawn may enter a loss.
    (log_probs * drawn.log_probs).sum().backward()


def test_frequencies_follow_the_distribution() -> None:
    model = random_model("qwen3")
    n = 20_000
    for temperature in (1.0, 0.6):
        drawn = draw(model, [[5, 6]], n, temperature=temperature, max_new_tokens=1, uniforms=uniforms(n, 1, seed=7))
        with torch.no_grad():
            distribution = (model(input_ids=torch.tensor([[5, 6]])).logits[0, -1].double() / temperature).softmax(-1)
        counts = drawn.response_ids[:, 0].bincount(minlength=29).double()
        errors = (counts - n * distribution) / (n * distribution * (1 - distribution)).sqrt().clamp(min=1)
        # 29 tokens, five standard errors: a false alarm in 60,000 seeds.
        assert errors.abs().max() < 5


INF = float("inf")
LARGEST_UNIFORM = 1 - 2.0**-53


@pytest.mark.parametrize(
    ("logits", "u", "token"),
    [
        ([0.0, 0.0, 0.0, 0.0], 0.0, 0),
        ([0.0, 0.0, 0.0, 0.0], 0.25, 1),  # an edge belongs to the token above
        ([0.0, 0.0, 0.0, 0.0], 0.2499999, 0),
        ([0.0, 0.0, 0.0, 0.0], LARGEST_UNIFORM, 3),
        ([-INF, 0.0, 0.0, 0.0], 0.0, 1),
        ([0.0, 0.0, -INF, -INF], LARGEST_UNIFORM, 1),
        ([0.3, 0.1, 0.7, -INF], LARGEST_UNIFORM, 2),
        ([-INF, -INF, 5.0, -INF], 0.7, 2),
        ([-1e30, 0.0, 1e4, 0.0], 0.7, 2),
    ],
)
def test_inverse_of_the_cumulative_distribution(logits: list[float], u: float, token: int) -> None:
    drawn = draw(OneDistribution(logits), [[2]], 1, max_new_tokens=1, uniforms=torch.tensor([[u]], dtype=torch.float64))
    assert drawn.response_ids.tolist() == [[token]]
    distribution = torch.tensor(logits, dtype=torch.float64).softmax(-1)
    assert drawn.log_probs[0, 0].item() == pytest.approx(distribution[token].log().item(), abs=1e-6)
    assert drawn.entropy[0, 0].item() == pytest.approx(
        -torch.special.xlogy(distribution, distribution).sum().item(), abs=1e-6
    )


def test_the_largest_uniform_never_leaves_the_vocabulary() -> None:
    # Whatever the total mass rounds to: 2000 distributions of 50 tokens, the last two without mass.
    logits = 3 * torch.randn(2000, 50, generator=torch.Generator().manual_seed(0)).double()
    logits[:, -2:] = -INF
    token, values = _next_tokens(logits, torch.full((2000,), LARGEST_UNIFORM, dtype=torch.float64), 0.9, 0, 1.0)
    assert token.max() <= 47
    assert values.isfinite().all()


def test_large_vocabulary_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model("qwen3")
    whole = draw(model, PROMPTS)
    monkeypatch.setattr("toy_models.sampling._CHUNK", 3 * 29)
    pieces = draw(model, PROMPTS)
    assert (whole.response_ids == pieces.response_ids).all()
    assert (whole.entropy == pieces.entropy).all()


def test_width_is_the_longest_response() -> None:
    always_ends = OneDistribution([-INF, 0.0, -INF])
    drawn = draw(always_ends, [[2], [2]], 2)
    assert drawn.response_ids.tolist() == [[END]] * 4
    assert drawn.lengths.tolist() == [1] * 4
    assert drawn.finished.all()
    never_ends = OneDistribution([-INF, -INF, 0.0])
    drawn = draw(never_ends, [[2], [2]], 2)
    assert drawn.response_ids.tolist() == [[2] * N_NEW] * 4
    assert not drawn.finished.any()
    # The end token on the last position counts as ended, also where padding is the same token.
    drawn = draw(always_ends, [[2]], 1, max_new_tokens=1, pad_id=END)
    assert drawn.finished.tolist() == [True]
    assert drawn.lengths.tolist() == [1]


def test_nothing_global_is_touched() -> None:
    state = torch.get_rng_state()
    draw(random_model("qwen3"), PROMPTS)
    assert (torch.get_rng_state() == state).all()
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompts": []}, "prompts: expected at least one prompt"),
        ({"prompts": [[5], []]}, "prompts: .* each of at least one token"),
        ({"group_size": 0}, "group_size and max_new_tokens: expected at least 1, got 0 and 12"),
        ({"max_new_tokens": 0}, "group_size and max_new_tokens: expected at least 1"),
        ({"temperature": -1.0}, r"temperature: expected 0 \(greedy\) or a positive number, got -1.0"),
        ({"temperature": float("nan")}, "temperature: expected 0 .* got nan"),
        ({"top_p": 0.0}, r"top_p: expected a number in \(0, 1\], got 0.0"),
        ({"top_p": 1.5}, r"top_p: expected a number in \(0, 1\], got 1.5"),
        ({"uniforms": None}, "uniforms: expected the shape .* = .20, 12., got None"),
        ({"uniforms": torch.rand(20, 3)}, "uniforms: expected the shape .* = .20, 12., got .20, 3."),
        ({"uniforms": torch.ones(20, 12)}, r"uniforms: expected numbers in \[0, 1\)"),
    ],
)
def test_bad_input_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw(OneDistribution([0.0, 0.0]), **({"prompts": PROMPTS, "uniforms": uniforms(20)} | change))


@pytest.mark.parametrize("bad", [float("nan"), INF])
def test_a_diverged_policy_is_named(bad: float) -> None:
    with pytest.raises(FloatingPointError, match=r"logits: expected finite numbers.*in 4 of 4 rows; the policy has"):
        draw(OneDistribution([0.0, bad, 0.0]), [[2], [2]], 2)
