"""How accurate the weights are that are measured on gradients.

The numbers stand here alone: the measurement decides by them what is missing, tests/probes hold it to them, and
docs/attach.md shows them. Accuracies are relative errors of a weight, of a loss that sees the policy through log π_y
alone.
"""

from __future__ import annotations

__all__ = [
    "FLOAT16_GAP",
    "FULL",
    "FUSED",
    "FUSED_GAP",
    "FUSED_HALF",
    "HALF",
    "HALF_RESIDUAL",
    "HALF_ROUNDINGS",
    "ODD_RESIDUAL",
    "OWN_ENTRY",
    "SOFTMAX_OFF",
    "UNDERFLOW_GAP",
]

FULL = 0.002  # from logits in float32 or float64
HALF = 0.1  # from logits, where they, the softmax or the gradient are in half precision
FUSED = 0.1  # from hidden states, the loss in float32
FUSED_HALF = 0.15  # from hidden states, in bfloat16 or under autocast

SOFTMAX_OFF = 0.1  # by how much the rounding of logits may move 1 − π_y of a weight that is given
OWN_ENTRY = 0.02  # the most that the rounding of the own entry may be of a gradient on hidden states
HALF_ROUNDINGS = 64  # 1 − π_y in roundings of a softmax in half precision, below which its entries are compared
UNDERFLOW_GAP = 1e-37  # 1 − π_y below which the entries of other tokens underflow in float32
FLOAT16_GAP = 1e-3  # 1 − π_y below which most entries underflow in float16, without a loss scale
FUSED_GAP = 5e-4  # 1 − π_y below which the own entry is rounding in ∂L/∂h, the loss in float32; it depends on the head

HALF_RESIDUAL = 0.01  # what rounding alone leaves, logits or gradients being in bfloat16
ODD_RESIDUAL = 0.05  # of the median token of the first update: the loss is of another form
