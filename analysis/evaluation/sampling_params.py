"""The distribution that is evaluated: softmax(z / T), truncated by top-k and top-p (`toy_models.truncation`).

Values at different sampling parameters are different quantities: rows of `evals` are told apart by all three numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["SamplingParams"]


class SamplingParams(NamedTuple):
    """How tokens are drawn; the names are those of vLLM.

    Attributes:
        temperature: T of softmax(z / T); applied first.
        top_k: keep the k most probable tokens; 0 keeps all.
        top_p: of these keep the nucleus that holds this mass; 1 keeps all.

    Example:
        >>> print(SamplingParams(0.6), "|", SamplingParams(1.0, top_k=20, top_p=0.9))
        T = 0.6 | T = 1, top-k 20, top-p 0.9
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __str__(self) -> str:
        parts = (f"T = {self.temperature:g}", self.truncation)
        return ", ".join(part for part in parts if part)

    @property
    def truncation(self) -> str:
        """What truncates the distribution, in words; empty where nothing does."""
        parts = (f"top-k {self.top_k}" if self.top_k else "", f"top-p {self.top_p:g}" if self.top_p < 1 else "")
        return ", ".join(part for part in parts if part)

    @staticmethod
    def all_in(evals: pd.DataFrame) -> list[SamplingParams]:
        """The sampling parameters of the rows of `evals`, in the order of their first rows."""
        known = evals[["temperature", "top_k", "top_p"]].drop_duplicates().itertuples(index=False)
        return [SamplingParams(float(t), int(k), float(p)) for t, k, p in known]

    def rows(self, evals: pd.DataFrame) -> pd.DataFrame:
        """The rows of `evals` at these sampling parameters."""
        near = [np.isclose(evals[name], getattr(self, name), rtol=1e-9, atol=0) for name in ("temperature", "top_p")]
        return evals[np.logical_and(*near) & (evals["top_k"] == self.top_k)]
