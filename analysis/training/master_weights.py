"""Float32 copies of trained weights in bfloat16: what the optimiser steps.

A bfloat16 number has 8 significant bits, so that a weight w takes a step only from about |w|/512 on. A step of AdamW at
a learning rate of 1e-6 moves a weight by about 1e-6, and weights of pretrained models are of the order of 0.02: nearly
all such steps would be rounded away, every time anew, however many there are. The optimiser therefore steps copies in
float32, its moments are in float32, and the weights of the model are the copies rounded. A step is then not lost but
late: it shows in the model once the sum of steps crosses a rounding edge.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

__all__ = ["MasterWeights"]


class MasterWeights:
    """The copies of one run; their state can be saved.

    >>> weight = Parameter(torch.ones(1))
    >>> masters = MasterWeights([weight])
    >>> weight.data = weight.data.bfloat16()
    >>> for _ in range(4):
    ...     masters.values[0].data += 0.001  # 1 + 1/128 is the next number of bfloat16
    ...     masters.round()
    ...     print(weight.item())
    1.0
    1.0
    1.0
    1.0078125
    """

    def __init__(self, parameters: Sequence[Parameter]) -> None:
        """Copies of `parameters` as they are now, which is before they are cast."""
        self._parameters = list(parameters)
        self.values = [Parameter(parameter.detach().float().clone()) for parameter in self._parameters]

    @torch.no_grad()
    def round(self) -> None:
        """Give the parameters the rounded values of their copies."""
        for parameter, value in zip(self._parameters, self.values, strict=True):
            parameter.copy_(value)

    def state_dict(self) -> dict[str, list[Tensor]]:
        """The copies, in the order of the parameters."""
        return {"values": [value.detach() for value in self.values]}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the copies and round them into the parameters."""
        for value, stored in zip(self.values, state["values"], strict=True):
            value.copy_(stored)
        self.round()
