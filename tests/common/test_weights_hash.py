"""The hash of a model's weights: every value counts, whatever the layout and dtype of its tensor."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
import torch
from torch import nn

from analysis import UsageError
from analysis.common.provenance import weights_hash


class Holder(nn.Module):
    """A module with one buffer."""

    def __init__(self, value: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("value", value)


TENSORS = {
    "a number alone": lambda x: torch.tensor(x),
    "a number alone in bfloat16": lambda x: torch.tensor(x, dtype=torch.bfloat16),
    "float8": lambda x: torch.tensor([x]).to(torch.float8_e4m3fn),
    "not contiguous": lambda x: torch.tensor([[x, 1.0], [2.0, 3.0]]).T,
    "complex, conjugated": lambda x: torch.tensor([complex(x, 1.0)]).conj(),
    "truth values": lambda x: torch.tensor([x > 1, True]),
    "sparse": lambda x: torch.tensor([[0.0, x], [0.0, 0.0]]).to_sparse(),
    "expanded": lambda x: torch.tensor([x]).expand(3),
    "quantised": lambda x: torch.quantize_per_tensor(torch.tensor([x]), 0.1, 0, torch.qint8),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", TENSORS)
def test_of_tensors_of_every_kind(kind: str) -> None:
    one, same, other = (weights_hash(Holder(TENSORS[kind](x))) for x in (1.0, 1.0, 1.5))
    assert one == same
    assert one != other


def test_of_plain_tensors_it_is_that_of_names_and_bytes() -> None:
    model = nn.Linear(3, 2)
    expected = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        expected.update(name.encode() + tensor.numpy().tobytes())
    assert weights_hash(model) == expected.hexdigest()


def test_empty_and_shared_tensors() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), Holder(torch.zeros(0)))
    apart = weights_hash(model)
    model[1].weight = model[0].weight
    assert weights_hash(model) != apart


def test_extra_state_of_a_module_counts() -> None:
    class Extra(nn.Linear):
        scale: Any = 1.0

        def get_extra_state(self) -> Any:
            return {"scale": self.scale}

        def set_extra_state(self, state: Any) -> None:
            self.scale = state["scale"]

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Extra(2, 2)
    before = weights_hash(model)
    model.scale = 2.0
    assert weights_hash(model) != before


def test_weights_without_values_are_refused() -> None:
    with pytest.raises(UsageError, match=r"expected weights with values, got weight on the device meta"):
        weights_hash(nn.Linear(2, 2, device="meta"))
