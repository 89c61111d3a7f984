"""Policy gradients of rewarded responses alone, under the names of their papers."""

from __future__ import annotations

from ..definition import Entry
from ..parameters import CLIP_HIGH
from .shared import CLIPPED, OLD

__all__ = ["ENTRIES", "TITLE"]

TITLE = "Rewarded responses alone"

_RAFT = "Xiong et al., arXiv 2504.11343"

ENTRIES = (
    Entry(
        name="raft",
        title="RAFT",
        weight="A, A = r",
        source=f"{_RAFT}; Dong et al., arXiv 2304.06767",
        form="log",
        verl="only its authors' fork of verl: adv_estimator = raft, policy_loss = vanilla",
        note="on binary rewards A₊ = 1 and A₋ = 0: the update of psr-log on the policy that sampled",
    ),
    Entry(
        name="raft-plus-plus",
        title="RAFT++",
        weight=f"A·ρ{CLIPPED}, A = r",
        source=f"{_RAFT} and its code",
        parameters=(CLIP_HIGH.with_(default=0.2),),
        needs=OLD,
        form="ratio",
        aliases=("raft++",),
        verl="only its authors' fork of verl: adv_estimator = raft, policy_loss = plusplus",
        note="on binary rewards A₊ = 1 and A₋ = 0: psr-ratio with clip_high = 0.2. A clip from below cannot bind, as "
        "A is never negative",
    ),
    Entry(
        name="wapo",
        title="WAPO",
        weight=f"A·ρ{CLIPPED}, A = max(r − q, 0)",
        source="Prasanth YSS et al., arXiv 2606.16154, as in its code",
        parameters=(CLIP_HIGH.with_(default=9.0),),
        value="winner",
        compares=("group",),
        graded=True,
        needs=OLD,
        form="ratio",
        note="on binary rewards A₊ = 1 − q and A₋ = 0. Its code divides the sum over a group by G times the greatest "
        "length of a sequence (update.normalizer = constant), and its recipes set a clip_high of 9",
    ),
)
