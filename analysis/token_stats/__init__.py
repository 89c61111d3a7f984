"""Token statistics at any vocabulary, from logits or from hidden states and an output head, without storing logits.

`token_statistics` is one function over several back ends: `reference` (float64), `eager` (torch operations, chunk by
chunk), `native` (a C function built at first use) and `triton` (CUDA).
"""

from .backends import BACKENDS, available_backends
from .dispatch import token_statistics

__all__ = ["BACKENDS", "available_backends", "token_statistics"]
