"""What interleaved passes give: of each way the ratios to one of them, within a pass, and their median."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["note_ratios"]


def note_ratios(benchmark: Any, values: Mapping[str, Sequence[float]], against: str, unit: str, **sizes: Any) -> None:
    """Put the ratios into the benchmark's `extra_info`, and print them.

    Args:
        benchmark: the fixture of pytest-benchmark.
        values: of each way, one value a pass: seconds, or anything else that `unit` names.
        against: the way that the others are divided by.
        unit: of the values; it names their medians, as in `median_seconds`.
        sizes: what else the numbers depend on, such as counts.
    """
    passes = len(values[against])
    medians = {name: statistics.median(row) for name, row in values.items()}
    ratios = {}
    for name, row in values.items():
        if name != against:
            each = sorted(a / b for a, b in zip(row, values[against], strict=True))
            ratios[name] = {"median": statistics.median(each), "low": each[0], "high": each[-1]}
    benchmark.extra_info |= {"passes": passes, "against": against, "ratios": ratios, f"median_{unit}": medians, **sizes}
    print(f"\n{against}: {medians[against]:.4g} {unit}; median of {passes} ratios to it (least to greatest)")
    for name, ratio in ratios.items():
        print(f"{name}: {ratio['median']:.3f} ({ratio['low']:.3f} to {ratio['high']:.3f}), {medians[name]:.4g} {unit}")
