"""Which tokens of a response the policy sampled: the mask of a file brought to the tokens that are traced.

Tokens that a tool or an environment wrote stay in the context of those that follow, and have no row, no weight and no
place in a mean over tokens. Files give a mask over the response, or over prompt and response together.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .row_rollouts import Rollout

__all__ = ["own_values", "policy_mask"]


def policy_mask(rollout: Rollout, prompt: int, response: int) -> np.ndarray:
    """Whether the policy sampled each response token, (response,) bool.

    Args:
        rollout: The row.
        prompt: Tokens of its prompt.
        response: Tokens of its response.

    Raises:
        ValueError: A mask of another length than the response, or prompt and response.
    """
    mask = rollout.response_mask
    if mask is None:
        return np.ones(response, dtype=bool)
    if len(mask) not in (response, prompt + response):
        raise ValueError(
            f"{rollout.where}: the mask of the policy's tokens has {len(mask)} entries for {response} response tokens "
            f"(and {prompt} of the prompt); expected one for each token of the response, or of prompt and response"
        )
    return np.array(mask[len(mask) - response :], dtype=bool)


def own_values(values: Sequence[float], policy: np.ndarray) -> np.ndarray:
    """Those of the policy's tokens, float64, of values for each response token or for each of the policy's.

    >>> own_values([0.5, 0.0, 1.5], np.array([True, False, True])).tolist()
    [0.5, 1.5]
    """
    array = np.asarray(values, dtype=np.float64)
    return array if len(array) == policy.sum() else array[policy]
