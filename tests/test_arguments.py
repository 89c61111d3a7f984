"""Arguments of the wrong kind: every exported function of tensors and arrays says what it expected and what came."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor

from analysis import evaluation, laws, objectives, token_stats
from analysis.errors import UsageError
from analysis.objectives import TokenBatch, get

Z = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
TOKENS = torch.tensor([0, 1, 2])
PROBS = Z.softmax(-1)
CORRECT = torch.tensor([[True, False, True, False, True]]).repeat(3, 1)
STATS = laws.dense_statistics(Z, TOKENS)
ARMS, MASK = Z.double().numpy(), CORRECT.numpy()
REST = np.full(9, 1 / 9)
HIDDEN, HEAD = torch.ones(3, 4), torch.ones(5, 4)
LOG_PROBS = torch.tensor([[-0.5, -0.2, -1.0], [-0.1, -2.0, -0.3]])
ADVANTAGES = torch.tensor([1.0, -1.0])
GRPO = get("grpo", clip_low=0.2, clip_high=0.2)

# A call of every function that is right; each argument in turn is replaced by what is wrong.
CALLS: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "laws.alternative_flow": (laws.alternative_flow, (Z, CORRECT, torch.tensor([0, 0, 0]), 1.0, 0.1)),
    "laws.batch_logit_step": (laws.batch_logit_step, (PROBS, torch.zeros(3, 2, dtype=torch.int64), torch.ones(3, 2))),
    "laws.boundary_curves": (laws.boundary_curves, (REST, np.array([0.1, 0.5]))),
    "laws.bucket_flow": (
        lambda mass, squares, stats, w, step, bucket: laws.bucket_flow(
            mass, squares, stats, w, step, token_bucket=bucket
        ),
        (PROBS[:, :2], PROBS[:, :2] ** 2, STATS, 1.0, 0.1, torch.tensor([0, 1, 0])),
    ),
    "laws.bucket_membership": (laws.bucket_membership, (Z, (1, 3))),
    "laws.bucket_sums": (laws.bucket_sums, (Z, (1, 3))),
    "laws.conserved_differences": (laws.conserved_differences, (ARMS, MASK[0])),
    "laws.covariance_gap": (laws.covariance_gap, (Z, CORRECT)),
    "laws.dense_statistics": (
        lambda z, y, t, k: laws.dense_statistics(z, y, temperature=t, top_k=k),
        (Z, TOKENS, 1.0, 2),
    ),
    "laws.entropy": (laws.entropy, (Z,)),
    "laws.entropy_change": (laws.entropy_change, (STATS, 1.0, 0.1)),
    "laws.entropy_change_parts": (laws.entropy_change_parts, (STATS, 1.0, 0.1)),
    "laws.entropy_hessian": (laws.entropy_hessian, (Z,)),
    "laws.entropy_parts": (laws.entropy_parts, (STATS,)),
    "laws.entropy_sign_boundary": (laws.entropy_sign_boundary, (REST,)),
    "laws.entropy_vector": (laws.entropy_vector, (Z,)),
    "laws.expected_direction": (laws.expected_direction, (ARMS, MASK, "psr", "log")),
    "laws.expected_flow": (laws.expected_flow, (ARMS, MASK, np.array([0.0, 1.0]))),
    "laws.first_order_reach": (laws.first_order_reach, (Z, TOKENS, 1.0)),
    "laws.gradient_norms": (laws.gradient_norms, (STATS, 1.0)),
    "laws.kl_divergence": (laws.kl_divergence, (Z, Z)),
    "laws.kl_vector": (laws.kl_vector, (Z, Z)),
    "laws.log_prob_change": (laws.log_prob_change, (STATS, 1.0, 0.1)),
    "laws.logit_gradient": (laws.logit_gradient, (Z, TOKENS, 1.0)),
    "laws.logit_step_flow": (laws.logit_step_flow, (Z, Z)),
    "laws.mass_flow": (laws.mass_flow, (Z, TOKENS, 1.0, 0.1)),
    "laws.other_prob_change": (laws.other_prob_change, (PROBS, STATS, 1.0, 0.1)),
    "laws.rises": (laws.rises, (Z, Z)),
    "laws.second_order_entropy_change": (
        laws.second_order_entropy_change,
        (Z, Z, Z[:, :, None] * Z[:, None, :], 0.1),
    ),
    "laws.sequence_entropy": (laws.sequence_entropy, (Z.log_softmax(-1), CORRECT)),
    "laws.squeeze_boundary": (laws.squeeze_boundary, (STATS,)),
    "laws.success_change": (laws.success_change, (Z, CORRECT, TOKENS, 1.0, 0.1)),
    "laws.sum_by_bucket": (laws.sum_by_bucket, (PROBS, laws.bucket_membership(Z, (1, 3)), 3)),
    "laws.token_prob_change": (laws.token_prob_change, (STATS, 1.0, 0.1)),
    "token_stats.token_statistics": (
        lambda z, y, mask, vocab_mask, listed, t, k: token_stats.token_statistics(
            z, y, token_mask=mask, vocab_mask=vocab_mask, probs_of=listed, temperature=t, top_k=k
        ),
        (
            Z,
            TOKENS,
            torch.ones(3, dtype=torch.bool),
            torch.ones(5, dtype=torch.bool),
            torch.tensor([1, 2]),
            1.0,
            2,
        ),
    ),
    "token_stats.token_statistics from hidden states": (
        lambda hidden, head, bias, y, scale, cap: token_stats.token_statistics(
            hidden=hidden, head=head, bias=bias, tokens=y, logit_scale=scale, softcap=cap
        ),
        (HIDDEN, HEAD, torch.zeros(5), TOKENS, 1.0, 30.0),
    ),
    "objectives.accuracy_of": (objectives.accuracy_of, (torch.tensor([1.0, 0.0, 1.0, 1.0]), 2)),
    "objectives.kl_baseline_of": (
        objectives.kl_baseline_of,
        (LOG_PROBS, LOG_PROBS, torch.ones(2, 3, dtype=torch.bool)),
    ),
    "objectives.Objective.advantages": (GRPO.advantages, (torch.tensor([1.0, 0.0, 1.0, 0.0]), 2)),
    "objectives.Objective.limit_advantages": (GRPO.limit_advantages, (torch.tensor([0.5, 0.2]),)),
    "objectives.Objective.weights": (
        lambda now, old, a, mask: GRPO.weights(TokenBatch(now, old, a, mask)),
        (LOG_PROBS, LOG_PROBS, ADVANTAGES, torch.ones(2, 3, dtype=torch.bool)),
    ),
    "objectives.Objective.loss": (
        lambda now, old, a: GRPO.loss(now, TokenBatch(LOG_PROBS, old, a)),
        (LOG_PROBS, LOG_PROBS, ADVANTAGES),
    ),
    "evaluation.crossing": (evaluation.crossing, (np.array([0.2, 0.6]), np.array([2.0, 0.5]), np.array([0.1, 0.1]))),
    "evaluation.effective_solutions": (evaluation.effective_solutions, (Z.log_softmax(-1),)),
    "evaluation.interval": (evaluation.interval, (np.linspace(0, 1, 20),)),
    "evaluation.pass_at_k": (evaluation.pass_at_k, (np.array([4, 4]), np.array([1, 2]), 2)),
    "evaluation.pass_at_k_exact": (evaluation.pass_at_k_exact, (np.array([0.1, 0.5]), 2)),
}
# None leaves these arguments out.
OPTIONAL = {
    ("laws.bucket_flow", 5),
    ("token_stats.token_statistics", 2),
    ("token_stats.token_statistics", 3),
    ("token_stats.token_statistics", 4),
    ("token_stats.token_statistics from hidden states", 2),
    ("token_stats.token_statistics from hidden states", 5),
    ("objectives.kl_baseline_of", 2),
    ("objectives.Objective.weights", 3),
}


def wrong(value: Any) -> Iterator[tuple[str, Any, bool]]:
    """Replacements of an argument: what it is, the value, and whether every function must refuse it."""
    yield "None", None, True
    yield "a text", "x", True
    yield "an object", object(), True
    if isinstance(value, Tensor):
        yield "a NumPy array", value.numpy(), True
        yield "a list", value.tolist(), True
        yield "an int", 2, True
        yield "complex numbers", value.to(torch.complex64), True
        yield "one axis more", value[..., None].expand(*value.shape, 7), False
        yield "a row less", value[1:], False
        yield "no row", value[:0], False
        yield "one number", value.flatten()[0], False
        yield "another dtype", value.long() if value.is_floating_point() else value.float(), False
        yield "bool", value.bool(), False
    elif isinstance(value, np.ndarray):
        yield "texts", value.astype(str), True
        yield "ragged lists", [[1.0], [1.0, 2.0]], True
        yield "one number", 0.5, False
        yield "a row less", value[1:], False
        yield "one axis more", value[..., None], False
        yield "no row", value[:0], False
        yield "a tensor", torch.from_numpy(value), False
    elif isinstance(value, int | float):
        yield "NaN", float("nan"), True
        yield "infinity", float("inf"), True
        yield "a complex number", 1j, True
        yield "a list", [value], False
        yield "a NumPy array", np.array([value]), False
        yield "a NumPy number", np.float64(value), False
    elif isinstance(value, tuple):
        yield "an int", 2, True
        yield "fractions", (1.5, 2.5), True
        yield "texts", ("a",), True
        yield "a tensor", torch.tensor([1, 3]), False


@pytest.mark.parametrize("name", CALLS)
def test_a_wrong_argument_is_a_usage_error(name: str) -> None:
    function, arguments = CALLS[name]
    function(*arguments)
    for place, argument in enumerate(arguments):
        for what, value, refused in wrong(argument):
            if value is None and (name, place) in OPTIONAL:
                continue
            given = [*arguments[:place], value, *arguments[place + 1 :]]
            message = _refusal(function, given, f"argument {place} as {what}")
            assert message is not None or not refused, (place, what)
            assert message is None or re.search("expected|needs|unknown", message), (place, what, message)


def _refusal(function: Callable[..., Any], arguments: list[Any], which: str) -> str | None:
    """The message of the UsageError that a call ends with; None where the arguments are taken."""
    try:
        function(*arguments)
    except UsageError as error:
        return str(error)
    except TypeCheckError as error:  # of the tests' hook: after a call, or before a dataclass is made of the arguments
        return None if "the return value" in str(error) and "__init__" not in str(error) else "expected another type"
    except Exception as error:
        pytest.fail(f"{which}: {type(error).__name__}: {error}")
    return None


def test_every_exported_law_has_a_call() -> None:
    exported = {f"laws.{name}" for name in laws.__all__ if inspect.isfunction(getattr(laws, name))}
    assert exported <= set(CALLS)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: token_stats.token_statistics(Z.numpy(), TOKENS), "logits: expected torch.Tensor, got numpy.ndarray"),
        (lambda: laws.mass_flow(Z, 2, 1.0, 0.1), "tokens: expected torch.Tensor, got int; use torch.tensor"),
        (lambda: laws.logit_gradient(Z, 2, 1.0), "tokens: expected torch.Tensor, got int; use torch.tensor"),
        (lambda: laws.bucket_sums(Z, "13"), "edges: expected increasing last ranks counted from one"),
        (lambda: laws.squeeze_boundary(Z), "stats: expected TokenStatistics, got torch.Tensor"),
        (lambda: evaluation.pass_at_k("x", 1, 1), "n: expected an array of numbers, got 'x'"),
        (
            lambda: objectives.accuracy_of(torch.ones(3), 2),
            r"rewards: expected shape \(n,\) with n a multiple of group_size 2, got \(3,\)",
        ),
        (lambda: TokenBatch(LOG_PROBS.numpy()), "log_probs: expected torch.Tensor, got numpy.ndarray"),
    ],
)
def test_what_it_says(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call()
