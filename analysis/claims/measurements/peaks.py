"""What becomes of a run after its peak, where the peak is found on other prompts and other seeds.

The step with the greatest Pass@1 of a noisy curve is chosen by its noise, and what follows it then falls by
construction. So the peak of seed s is that of the mean over all *other* seeds on *validation* prompts, and what
follows is measured in seed s on *test* prompts, to three times the peak step or to the end of the run. On a plateau the
greatest value lies anywhere: the peak is the first step within 0.01 of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...errors import UsageError
from ...evaluation import get_metric
from ..comparisons import Comparison, metric_text
from ..conjunctions import require
from ..paired_curves import panel_of
from .curves import at_places

if TYPE_CHECKING:
    from ...records import Run
    from ..evidence import Methods

__all__ = ["REACH", "AfterPeak", "after_peak", "peak_steps"]

REACH = 3  # times the peak step
_NEAR = 0.01  # of the greatest Pass@1


@dataclass(frozen=True)
class AfterPeak:
    """A metric from the peak on.

    Attributes:
        change: Its change from the peak to the end of the window, over seeds and test prompts.
        peaks: Seed -> step of the peak.
        ends: Seed -> step at which the window ends.
    """

    change: Comparison
    peaks: Mapping[int, int]
    ends: Mapping[int, int]

    @property
    def reached(self) -> bool:
        """Whether the windows of all seeds go to `REACH` times the peak."""
        return all(self.ends[seed] >= REACH * peak > 0 for seed, peak in self.peaks.items())

    @property
    def steps_needed(self) -> int:
        """Steps of a run whose window goes to `REACH` times the latest peak."""
        return REACH * max(self.peaks.values())


def peak_steps(runs: Mapping[int, Run]) -> dict[int, int]:
    """Seed -> first step at which the mean validation Pass@1 of the other seeds is within 0.01 of its greatest.

    Raises:
        UsageError: fewer than two seeds.
    """
    if len(runs) < 2:
        raise UsageError(
            f"runs: expected at least 2 seeds, got {len(runs)}; the peak of a run is found on the other seeds"
        )
    panels = {seed: panel_of(run, "validation") for seed, run in runs.items()}
    steps = sorted(set.intersection(*(set(panel.steps.tolist()) for panel in panels.values())))
    metric = get_metric("pass@1")
    curves = {}
    for seed, panel in panels.items():
        means = dict(zip(panel.steps.tolist(), panel.values(metric).mean(axis=1), strict=True))
        curves[seed] = np.array([means[step] for step in steps])
    found = {}
    for seed in curves:
        others = np.mean([curve for other, curve in curves.items() if other != seed], axis=0)
        found[seed] = int(steps[int((others >= others.max() - _NEAR).argmax())])
    return found


def after_peak(methods: Methods, method: str, metric: str) -> AfterPeak:
    """The change of a metric after the peak of Pass@1, seed by seed.

    A peak at the base has the whole run after it, and one at the last evaluation nothing: a change of 0.

    Args:
        methods: The runs.
        method: Which method.
        metric: A mean over prompts.

    Raises:
        UsageError: the method has no run, or one alone.
    """
    require(methods, (method,))
    runs = dict(sorted(methods[method].items()))
    peaks = peak_steps(runs)
    ends, rows = {}, []
    for seed, run in runs.items():
        last = int(panel_of(run).steps[-1])
        ends[seed] = min(last, REACH * peaks[seed]) if peaks[seed] else last
        before, after = at_places(run, metric, (peaks[seed], ends[seed]), "step")
        rows.append(after - before)
    change = Comparison(
        metric, f"{metric_text(metric)}: {method} after its peak", "to 3× its step", tuple(runs), {}, np.stack(rows)
    )
    return AfterPeak(change, peaks, ends)
