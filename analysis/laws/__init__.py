"""The softmax calculus of one token: pure functions on tensors of any leading shape, without gradients.

A weight is w = −∂L/∂log π_y (positive pushes the sampled token up), a step η is in units of logits, entropies are in
nats. Faulty input raises `UsageError`, which names the first bad index.
"""

from .buckets import BucketSums, bucket_membership, bucket_sums, sum_by_bucket
from .entropy import (
    EntropyChange,
    EntropyParts,
    entropy,
    entropy_change,
    entropy_change_parts,
    entropy_parts,
    entropy_vector,
    kl_divergence,
    kl_vector,
)
from .gradient import GradientNorms, batch_logit_step, gradient_norms, logit_gradient
from .mass_flow import (
    bucket_flow,
    log_prob_change,
    logit_step_flow,
    mass_flow,
    other_prob_change,
    rises,
    squeeze_boundary,
    token_prob_change,
)
from .softmax import TokenStatistics, token_statistics

__all__ = [
    "BucketSums",
    "EntropyChange",
    "EntropyParts",
    "GradientNorms",
    "TokenStatistics",
    "batch_logit_step",
    "bucket_flow",
    "bucket_membership",
    "bucket_sums",
    "entropy",
    "entropy_change",
    "entropy_change_parts",
    "entropy_parts",
    "entropy_vector",
    "gradient_norms",
    "kl_divergence",
    "kl_vector",
    "log_prob_change",
    "logit_gradient",
    "logit_step_flow",
    "mass_flow",
    "other_prob_change",
    "rises",
    "squeeze_boundary",
    "sum_by_bucket",
    "token_prob_change",
    "token_statistics",
]
