"""The softmax calculus of one token: pure functions on tensors of any leading shape, without gradients.

A weight is w = −∂L/∂log π_y (positive pushes the sampled token up), a step η is in units of logits, entropies are in
nats. Invalid input raises `UsageError`, which names the first bad index. "Derived here (†)" in a source means that the
equation does not stand in Zhu et al., arXiv 2506.01347.
"""

from .boundaries import BoundaryCurves, boundary_curves, entropy_sign_boundary
from .buckets import BucketSums, bucket_membership, bucket_sums, sum_by_bucket
from .diffusion import covariance_gap, entropy_hessian, second_order_entropy_change
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
from .gradient_flow import ExpectedFlow, conserved_differences, expected_direction, expected_flow
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
from .reach import first_order_reach
from .softmax import TokenStatistics, dense_statistics
from .success import AlternativeFlow, SequenceEntropy, alternative_flow, sequence_entropy, success_change

__all__ = [
    "AlternativeFlow",
    "BoundaryCurves",
    "BucketSums",
    "EntropyChange",
    "EntropyParts",
    "ExpectedFlow",
    "GradientNorms",
    "SequenceEntropy",
    "TokenStatistics",
    "alternative_flow",
    "batch_logit_step",
    "boundary_curves",
    "bucket_flow",
    "bucket_membership",
    "bucket_sums",
    "conserved_differences",
    "covariance_gap",
    "dense_statistics",
    "entropy",
    "entropy_change",
    "entropy_change_parts",
    "entropy_hessian",
    "entropy_parts",
    "entropy_sign_boundary",
    "entropy_vector",
    "expected_direction",
    "expected_flow",
    "first_order_reach",
    "gradient_norms",
    "kl_divergence",
    "kl_vector",
    "log_prob_change",
    "logit_gradient",
    "logit_step_flow",
    "mass_flow",
    "other_prob_change",
    "rises",
    "second_order_entropy_change",
    "sequence_entropy",
    "squeeze_boundary",
    "success_change",
    "sum_by_bucket",
    "token_prob_change",
]
