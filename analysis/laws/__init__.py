"""The softmax calculus of one token: pure functions on tensors of any leading shape, without gradients."""

from .softmax import TokenStatistics, token_statistics

__all__ = ["TokenStatistics", "token_statistics"]
