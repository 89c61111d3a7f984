"""The CUDA paths: on a GPU where there is one, and what of them a CPU can check."""

from __future__ import annotations

import pytest
import torch

from analysis import token_statistics
from analysis.token_stats import available_backends, sources
from analysis.token_stats.kernels import EagerKernels
from analysis.token_stats.sources import HeadSource
from analysis.token_stats.streaming import Request, Tiles, stream
from tests.token_stats.hard_rows import STATISTICS, worst


def example(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    hidden, head = torch.randn(70, 64, generator=g), torch.randn(5000, 64, generator=g) * 0.5
    return hidden.to(dtype), head.to(dtype), torch.randint(0, 5000, (70,), generator=g)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_on_a_gpu(dtype):
    hidden, head, y = example(dtype)
    want = token_statistics(hidden=hidden, head=head, tokens=y, backend="reference", rank=True, top_k=5)
    obstacles = available_backends("cuda")
    assert {"eager", "triton"} <= {name for name, obstacle in obstacles.items() if obstacle is None}
    for backend in ("auto", "eager", "triton"):
        got = token_statistics(
            hidden=hidden.cuda(), head=head.cuda(), tokens=y.cuda(), backend=backend, rank=True, top_k=5
        ).map(torch.Tensor.cpu)
        for name in STATISTICS:
            assert worst(got, want, name) < 2e-5, (backend, name)


def test_half_precision_products_that_come_in_float32(monkeypatch):
    """The route of CUDA with the product itself stood in for: a CPU has none with a type of its own for the result."""
    hidden, head, y = example(torch.bfloat16)
    product = torch.mm

    def mm(a, b, *, out, out_dtype=None):
        if out_dtype is None:
            return product(a, b, out=out)
        assert a.dtype == b.dtype == torch.bfloat16
        assert out.dtype == out_dtype == torch.float32
        return product(a.float(), b.float(), out=out)

    monkeypatch.setattr(sources.torch, "mm", mm)
    source = HeadSource(hidden, head, None, None, None, torch.float32, scale=1.0, softcap=None)
    source._half = True
    got = stream(source, Request(y, 1.0, 0, False, None), EagerKernels(), Tiles(32, 512))
    want = token_statistics(hidden=hidden, head=head, tokens=y, backend="reference")
    for name in STATISTICS:
        assert worst(got, want, name) < 2e-5, name
