"""Muon against the one of torch, which works in bfloat16, and against the singular value decomposition."""

from __future__ import annotations

import pytest
import torch

from toy_models.bases.muon import Muon, orthogonalised


@pytest.mark.parametrize("shape", [(3, 24, 24), (2, 16, 40), (2, 40, 16)])
def test_singular_vectors_stay_and_singular_values_come_near_one(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    made = orthogonalised(matrices)
    u, sigma, v = torch.linalg.svd(matrices, full_matrices=False)
    inside = u.mT @ made @ v.mT
    values = inside.diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(inside, torch.diag_embed(values), rtol=0, atol=1e-10)
    large = sigma > 0.02 * sigma.norm(dim=-1, keepdim=True)  # five rounds lift what is not much smaller
    assert large.double().mean() > 0.9
    assert ((values > 0.6) & (values < 1.3))[large].all()


def test_steps_agree_with_torch_to_its_precision() -> None:
    """Six steps on matrices of two shapes; bfloat16 has 8 bits, so orthogonalised entries agree to a few per cent."""
    generator = torch.Generator().manual_seed(1)
    start = [torch.randn(shape, generator=generator) for shape in ((12, 12), (12, 12), (20, 8))]
    ours, theirs = ([torch.nn.Parameter(w.clone()) for w in start] for _ in range(2))
    optimizers = (
        Muon(ours, lr=0.1, momentum=0.9, weight_decay=0.3),
        torch.optim.Muon(theirs, lr=0.1, momentum=0.9, weight_decay=0.3, adjust_lr_fn="match_rms_adamw"),
    )
    for _ in range(6):
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = torch.randn(mine.shape, generator=generator)
            other.grad = mine.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for mine, other, before in zip(ours, theirs, start, strict=True):
        moved = (other - before).norm()
        assert (mine - other).norm() < 0.02 * moved
        assert moved > 0.5


def test_a_weight_without_gradient_stays() -> None:
    weights = [torch.nn.Parameter(torch.eye(3)) for _ in range(2)]
    weights[0].grad = torch.ones(3, 3)
    Muon(weights, lr=0.1, weight_decay=0.5).step()
    assert not torch.equal(weights[0], torch.eye(3))
    assert torch.equal(weights[1], torch.eye(3))


def test_vectors_are_refused() -> None:
    with pytest.raises(ValueError, match=r"params: expected matrices, got a parameter of shape \(3,\)"):
        Muon([torch.nn.Parameter(torch.ones(3))], lr=0.1)
