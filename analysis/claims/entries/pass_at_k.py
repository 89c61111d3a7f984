"""Entries about Pass@k after training: P1 to P4, W1."""

from __future__ import annotations

from ..claim import Claim, Decision, combined
from ..comparisons import since_start
from ..evidence import Evidence, Methods
from ..rules import exceeds
from ..studies import MAIN
from ..study import PSR

__all__ = ["CLAIMS"]

_P2_MARGIN = 0.01


def _psr_gains_and_loses(methods: Methods) -> Decision:
    """Of one condition: Pass@1 above the base by the margin, and Pass@256 below it by the margin."""
    found = since_start(methods, PSR, ["pass@1", "pass@256"])
    up = found["pass@1"].effect(condition="", margin=_P2_MARGIN)
    down = found["pass@256"].effect(condition="", margin=_P2_MARGIN)
    gain = exceeds(up, _P2_MARGIN, found["pass@1"])
    loss = exceeds(down, -_P2_MARGIN, found["pass@256"])
    effects = (down, up)
    if gain.verdict == "holds" and loss.verdict == "fails":
        return Decision("holds", f"{gain.reason} {loss.reason}", effects)
    if gain.verdict == "fails" or loss.verdict == "holds":
        return Decision("fails", f"{gain.reason} {loss.reason}", effects)
    return Decision("undecided", f"{gain.reason} {loss.reason}", effects, missing=loss.missing or gain.missing)


def _p2(evidence: Evidence) -> Decision:
    return combined({study.name: _psr_gains_and_loses(evidence.methods(study)) for study in MAIN})


CLAIMS = (
    Claim(
        id="P2",
        family="pass-at-k",
        title="PSR gains Pass@1 and loses Pass@256",
        statement="Training on correct responses alone raises Pass@1 and lowers Pass@k below the base at large k.",
        source="2506.01347, section 3.2, Figure 2",
        hypothesis="After training with PSR, Pass@1 is above that of the base and Pass@256 below it.",
        statistic="Exact Pass@1 and Pass@256 on test prompts at the end of training, less those of the base.",
        margin=f"{_P2_MARGIN:g} in either",
        rule="Holds where the interval of the gain at k = 1 lies above the margin and that of the change at k = 256 "
        "below minus the margin; fails where the gain lies below the margin or the change above minus the margin.",
        conditions="path and countdown, regimes A and B, 8 seeds with a base each; at the end of training.",
        practice="Watch Pass@k at the largest k that you will sample with, not Pass@1 alone, when you train on "
        "successes.",
        decide=_p2,
        studies=MAIN,
        judge=_psr_gains_and_loses,
        tables=("evals",),
    ),
)
