"""Random streams of a run: one generator per purpose, seeded from (seed, purpose).

Separate streams keep what is measured apart from what is trained: evaluating or recording more draws from its own
stream and leaves rollouts, shuffling and noise as they were. The state of all streams goes into the resume state.
"""

from __future__ import annotations

import hashlib

import torch

__all__ = ["PURPOSES", "Streams", "seed_of"]

PURPOSES = ("prompts", "rollouts", "noise", "shuffle", "evaluation", "recording", "gradient_noise", "objective")


def seed_of(seed: int, purpose: str) -> int:
    """A 63-bit seed from the run's seed and a purpose; distinct purposes give unrelated streams.

    >>> seed_of(0, "rollouts") == seed_of(0, "shuffle")
    False
    """
    digest = hashlib.sha256(f"{seed}:{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class Streams:
    """The generators of one run, on the CPU whatever the device, so that draws do not depend on it."""

    def __init__(self, seed: int) -> None:
        self._generators = {p: torch.Generator().manual_seed(seed_of(seed, p)) for p in PURPOSES}

    def __getitem__(self, purpose: str) -> torch.Generator:
        return self._generators[purpose]

    def uniforms(self, purpose: str, *shape: int) -> torch.Tensor:
        """Float64 uniforms on [0, 1) in canonical (row-major) order."""
        return torch.rand(*shape, generator=self[purpose], dtype=torch.float64)

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {purpose: generator.get_state() for purpose, generator in self._generators.items()}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        for purpose, generator in self._generators.items():
            generator.set_state(state[purpose])
