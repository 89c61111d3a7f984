"""The slow route to what the exact policies compute: every response written out, with scores from autograd."""

from __future__ import annotations

import torch

# products of a few hundred float64 numbers of order one
CLOSE = {"rtol": 1e-11, "atol": 1e-13}
DRAWS = 20_000


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def mean_and_covariance(log_probs_of, parameters, weights):
    """Mean and covariance of w·∇ log π(y) over y, with the scores from autograd."""
    scores = torch.autograd.functional.jacobian(log_probs_of, parameters)
    scores = scores.flatten(0, -parameters.ndim - 1).flatten(1)
    probs = log_probs_of(parameters).detach().exp().flatten()
    g = weights.flatten()[:, None] * scores
    mean = probs @ g
    return mean, (probs[:, None] * g).T @ g - torch.outer(mean, mean)


def assert_frequencies(counts, probs):
    """Every count within 5 standard errors of its expectation: one false alarm in some 10^4 tests of a few cells."""
    n = counts.sum()
    assert ((counts - n * probs).abs() <= 5 * (n * probs * (1 - probs)).sqrt() + 1).all()
