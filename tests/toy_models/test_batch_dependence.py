"""Which models let the rows of a batch change one another, by their configuration and by their numbers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers as hf

from toy_models.batch_dependence import BatchDependence, batch_dependence, differs

LONGROPE = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4, "rope_theta": 1e4}
SMALL = {"hidden_size": 32, "num_attention_heads": 4, "vocab_size": 8, "pad_token_id": None, "eos_token_id": None}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (hf.LlamaConfig(), BatchDependence()),
        (hf.Qwen3Config(), BatchDependence()),
        (hf.MixtralConfig(), BatchDependence()),
        (
            hf.Phi3Config(
                original_max_position_embeddings=32,
                rope_parameters=LONGROPE | {"original_max_position_embeddings": 32},
                **SMALL,
            ),
            BatchDependence(boundaries=(32,)),
        ),
        (
            hf.LlamaConfig(
                rope_parameters={"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}, max_position_embeddings=64
            ),
            BatchDependence(exact_above=64),
        ),
        (
            SimpleNamespace(rope_scaling={"type": "su"}, original_max_position_embeddings=7),
            BatchDependence(boundaries=(7,)),
        ),
        (
            SimpleNamespace(
                rope_parameters={
                    "full": {"rope_type": "longrope", "original_max_position_embeddings": 9},
                    "sliding": {"rope_type": "default"},
                }
            ),
            BatchDependence(boundaries=(9,)),
        ),
        (SimpleNamespace(moe_capacity_factor=1.25), BatchDependence(capacity="moe_capacity_factor")),
        (SimpleNamespace(moe_capacity_factor=None, drop_tokens=False), BatchDependence()),
        (hf.SwitchTransformersConfig(), BatchDependence(capacity="expert_capacity")),
    ],
)
def test_by_configuration(config: Any, expected: BatchDependence) -> None:
    assert batch_dependence(config) == expected


def test_which_lengths_may_be_mixed() -> None:
    rope, scaled = BatchDependence(boundaries=(32,)), BatchDependence(exact_above=32)
    assert rope.crossed(3, 32) is rope.crossed(33, 90) is scaled.crossed(3, 32) is None
    assert "where the longest has more than 32 tokens" in str(rope.crossed(3, 33))
    assert "by the longest beyond 32 tokens" in str(scaled.crossed(33, 33))
    assert "capacity (expert_capacity)" in str(BatchDependence(capacity="expert_capacity").crossed(1, 1))
    assert [scaled.kind(n) for n in (4, 32, 33, 34)] == [(0,), (0,), (33,), (34,)]


@pytest.mark.parametrize(
    ("dtype", "change", "expected"),
    [
        (torch.float32, 1e-4, False),
        (torch.float32, 2e-2, True),
        (torch.bfloat16, 2e-2, False),
        (torch.bfloat16, 0.3, True),
    ],
)
def test_differences_beyond_rounding(dtype: torch.dtype, change: float, expected: bool) -> None:
    rows = torch.randn(5, 16, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert differs(rows, rows * (1 + change)) is expected
    one = rows.clone()
    one[2] *= 3  # a single token: rounding may route it to another expert in half precision, not in float32
    assert differs(rows, one) is (dtype == torch.float32)
