"""Regularisers over the vocabulary: columns that a mask removes, and a reference that excludes what the policy does."""

from __future__ import annotations

import pytest
import torch

from analysis import laws
from analysis.errors import UsageError
from analysis.objectives import entry, get, names
from analysis.training.regularizers import kl_penalty, policy_entropy

INF = float("inf")
FULL = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
REF = torch.randn(6, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def masked(logits: torch.Tensor) -> torch.Tensor:
    """The same logits with a column of −inf in every row."""
    return torch.cat([logits[:, :2], torch.full_like(logits[:, :1], -INF), logits[:, 2:]], -1)


def with_gradient(loss: torch.Tensor, leaf: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    (gradient,) = torch.autograd.grad(loss.sum(), leaf)
    return loss.detach(), gradient


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("kl-full", {}),
        ("entropy-bonus", {}),
        ("distill-jsd", {}),
        ("distill-jsd", {"jsd_beta": 0.0}),
        ("distill-jsd", {"jsd_beta": 1.0}),
        ("distill-topk", {"teacher_top": 3}),
        ("distill-topk", {}),
    ],
)
def test_a_column_that_is_masked_in_both_changes_nothing(name: str, parameters: dict[str, float]) -> None:
    objective = get(name, **parameters)
    small, large = FULL.clone().requires_grad_(), masked(FULL).requires_grad_()
    loss, gradient = with_gradient(objective.logits_loss(small, REF), small)
    wide_loss, wide_gradient = with_gradient(objective.logits_loss(large, masked(REF)), large)
    torch.testing.assert_close(wide_loss, loss, rtol=1e-14, atol=1e-15)
    torch.testing.assert_close(wide_gradient, masked(gradient).masked_fill(masked(FULL) == -INF, 0))
    torch.testing.assert_close(objective.vector(masked(FULL), masked(REF)), wide_gradient, rtol=0, atol=1e-14)


def test_the_full_estimator_of_the_loop_has_the_same_masked_columns() -> None:
    large = masked(FULL).requires_grad_()
    loss, gradient = with_gradient(kl_penalty("full", large[:, 0], REF[:, 0], large, masked(REF)), large)
    torch.testing.assert_close(loss, laws.kl_divergence(FULL, REF), rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(gradient, laws.kl_vector(masked(FULL), masked(REF)), rtol=0, atol=1e-14)
    loss, gradient = with_gradient(policy_entropy(large), large)
    torch.testing.assert_close(loss, laws.entropy(FULL), rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(gradient, laws.entropy_vector(masked(FULL)), rtol=0, atol=1e-14)


def test_a_policy_that_masks_more_than_the_reference() -> None:
    leaf = masked(FULL).requires_grad_()
    reference = torch.cat([REF, REF[:, :1]], -1)
    loss, gradient = with_gradient(get("kl-full").logits_loss(leaf, reference), leaf)
    torch.testing.assert_close(loss, laws.kl_divergence(masked(FULL), reference), rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(get("kl-full").vector(masked(FULL), reference), gradient, rtol=0, atol=1e-14)


def test_a_reference_without_mass_where_the_policy_has_it_is_infinite() -> None:
    wide = torch.cat([FULL, FULL[:, :1]], -1)
    assert (get("kl-full").logits_loss(wide, masked(REF)) == INF).all()
    assert (kl_penalty("full", wide[:, 0], REF[:, 0], wide, masked(REF)) == INF).all()
    with pytest.raises(
        UsageError, match=r"ref_logits: expected mass wherever the policy has it, got −inf at index \(0"
    ):
        get("kl-full").vector(wide, masked(REF))


def test_far_logits_are_exact() -> None:
    """[0, 0] against [0, −20000]: KL = ½ log ½ + ½(log ½ + 20000) = 10000 − log 2."""
    z, ref = torch.zeros(1, 2, dtype=torch.float64), torch.tensor([[0.0, -20000.0]], dtype=torch.float64)
    assert float(get("kl-full").logits_loss(z, ref)) == pytest.approx(9999.306852819440, rel=1e-15)
    assert get("kl-full").vector(z, ref)[0].tolist() == pytest.approx([-5000.0, 5000.0], rel=1e-15)


def test_every_objective_over_the_vocabulary_takes_masked_columns() -> None:
    for name in names():
        objective = get(name) if not entry(name).scalar else None
        if objective is not None:
            leaf = masked(FULL).requires_grad_()
            loss, gradient = with_gradient(objective.logits_loss(leaf, masked(REF)), leaf)
            assert loss.isfinite().all(), name
            assert gradient.isfinite().all(), name
            torch.testing.assert_close(objective.vector(masked(FULL), masked(REF)), gradient, rtol=0, atol=1e-12)


def test_a_teacher_without_mass_where_the_policy_has_it() -> None:
    wide = torch.cat([FULL, FULL[:, :1]], -1)
    assert (get("distill-jsd", jsd_beta=1.0).logits_loss(wide, masked(REF)) == INF).all()
    with pytest.raises(
        UsageError, match=r"teacher_logits: expected mass wherever the policy has it, got −inf at index"
    ):
        get("distill-jsd", jsd_beta=1.0).vector(wide, masked(REF))
    leaf = wide.clone().requires_grad_()
    loss, gradient = with_gradient(get("distill-jsd").logits_loss(leaf, masked(REF)), leaf)
    assert loss.isfinite().all()
    torch.testing.assert_close(get("distill-jsd").vector(wide, masked(REF)), gradient, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (float("nan"), r"logits: expected finite numbers, or −inf for a masked token, got nan at index \(1, 2\)"),
        (INF, r"logits: expected finite numbers, or −inf for a masked token, got inf at index \(1, 2\)"),
    ],
)
def test_logits_that_are_not_finite_are_named(value: float, message: str) -> None:
    broken = FULL.clone()
    broken[1, 2] = value
    with pytest.raises(UsageError, match=message):
        get("entropy-bonus").vector(broken)
    with pytest.raises(UsageError, match=f"ref_{message}"):
        get("kl-full").vector(FULL, broken)


def test_a_row_without_any_token_is_named() -> None:
    with pytest.raises(UsageError, match="logits: expected a token with mass in each row, got only −inf at index 0"):
        get("entropy-bonus").vector(torch.full((1, 3), -INF))
