"""The short list of numbers of one update that goes into the trainer's own logs, and their sums over processes.

With w = −∂L/∂log π_y of a token, A its advantage, H the entropy of the distribution that predicted it, c = Σ π²:

    entropy, entropy_pos, entropy_neg    mean H over all tokens, over those with A > 0, over those with A < 0    (nats)
    weight_pos, weight_neg               Σ w over tokens with w > 0;  Σ |w| over tokens with w < 0
    lambda                               weight_pos / weight_neg; missing where no weight is negative
    dentropy_pos, dentropy_neg           mean over recorded tokens with w > 0 (w < 0) of the first-order change of H by
                                         the token's own direction at unit logit step, −w·Cov_π(log π, 1{v=y} − π_v)
    squeezed_neg                         fraction of recorded tokens with w < 0 and π_y < c: unsampled tokens that are
                                         less probable than c − π_y lose mass along with y
    clip_low, clip_high                  fraction of tokens whose ratio was clipped below, above
    dead_groups                          fraction of the batch's groups whose advantages are all 0
    updates                              optimiser updates so far, without those that were skipped
    grad_cos                             cosine of the gradients of tokens with w > 0 and w < 0, where it was asked for

Everything but `dentropy` and `squeezed_neg` is of every token of every process; those two are of the recorded tokens
(`RecordSpec.tokens`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..laws import entropy_change, squeeze_boundary
from .update_parts import UpdatePart, Weights

__all__ = ["SCALARS", "UpdateSums", "dead_groups", "share_by_group"]

SCALARS = (
    "entropy",
    "entropy_pos",
    "entropy_neg",
    "weight_pos",
    "weight_neg",
    "lambda",
    "dentropy_pos",
    "dentropy_neg",
    "squeezed_neg",
    "clip_low",
    "clip_high",
    "dead_groups",
    "updates",
    "grad_cos",
)

_SIGNS = ("pos", "neg")
_NAMES = (
    *(
        f"{name}_{sign}"
        for name in (
            "rows",
            "tokens",
            "ratio",
            "clipped_low",
            "clipped_high",
            "weights",
            "entropy",
            "entropies",
            "push",
            "recorded",
        )
        for sign in _SIGNS
    ),
    "dentropy_pos",
    "dentropy_neg",
    "squeezed",
    "tokens",
    "entropy",
    "entropies",
    "low",
    "high",
    "kl",
    "loss",
    "failed",
)


class UpdateSums:
    """Sums over the tokens of one update, first of this process, then of all.

    `push_pos` is Σ w over w > 0, `push_neg` Σ |w| over w < 0; `weights_pos` and the other sums by sign are over rows by
    the sign of their advantage, as in the table `updates`.
    """

    def __init__(self) -> None:
        self._values = torch.zeros(len(_NAMES), dtype=torch.float64)
        self.clips = True  # whether it is known which tokens are clipped
        self.has_kl = False

    def __getitem__(self, name: str) -> float:
        return float(self._values[_NAMES.index(name)])

    def merge(self, other: UpdateSums) -> None:
        """Add the sums of another update."""
        self._values += other._values
        self.clips &= other.clips
        self.has_kl |= other.has_kl

    def _add(self, name: str, value: Tensor | float) -> None:
        self._values[_NAMES.index(name)] += float(value)

    def fail(self) -> None:
        """Tell the other processes that recording has failed in this one."""
        self._values.zero_()
        self._add("failed", 1.0)

    def add(self, part: UpdatePart, weights: Weights) -> None:
        """Count one microbatch."""
        assert part.ratio is not None
        mask, total = part.mask, weights.policy
        self._add("tokens", mask.sum())
        self._add("loss", part.loss * weights.factor)
        known = part.entropy_mask & mask
        if part.entropies is not None:
            self._add("entropy", part.entropies.double()[known].sum())
            self._add("entropies", known.sum())
        self.clips &= part.clip is not None
        for sign, keep in zip(_SIGNS, (part.advantages > 0, part.advantages < 0), strict=True):
            kept = keep & mask
            self._add(f"rows_{sign}", kept.any(1).sum())
            self._add(f"tokens_{sign}", kept.sum())
            self._add(f"ratio_{sign}", part.ratio[kept].double().sum())
            self._add(f"weights_{sign}", total[kept].sum())
            if part.entropies is not None:
                self._add(f"entropy_{sign}", part.entropies.double()[kept & known].sum())
                self._add(f"entropies_{sign}", (kept & known).sum())
            if part.clip is not None:
                self._add(f"clipped_low_{sign}", (part.clip[kept] < 0).sum())
                self._add(f"clipped_high_{sign}", (part.clip[kept] > 0).sum())
        if part.clip is not None:
            self._add("low", (part.clip[mask] < 0).sum())
            self._add("high", (part.clip[mask] > 0).sum())
        self._add("push_pos", total[mask].clamp(min=0).sum())
        self._add("push_neg", -total[mask].clamp(max=0).sum())
        if weights.kl is not None:
            self.has_kl = True
            assert part.log_probs is not None
            assert part.ref_log_probs is not None
            gap = (part.ref_log_probs.double() - part.log_probs.double())[mask]
            self._add("kl", (gap.exp() - gap - 1).sum())
        self._add_recorded(part, total)

    def _add_recorded(self, part: UpdatePart, total: Tensor) -> None:
        assert part.keep is not None
        assert part.stats is not None
        if not len(part.keep):
            return
        stats = part.stats.map(lambda values: values.double() if values.is_floating_point() else values)
        weight = total.flatten()[part.keep]
        finite = weight.isfinite()  # fp16: where the loss scale overflowed, in an update that is then skipped
        stats, weight = stats.map(lambda values: values[finite]), weight[finite]
        change = entropy_change(stats, weight, torch.ones_like(weight))
        for sign, chosen in zip(_SIGNS, (weight > 0, weight < 0), strict=True):
            self._add(f"recorded_{sign}", chosen.sum())
            self._add(f"dentropy_{sign}", change[chosen].sum())
        self._add("squeezed", ((weight < 0) & (squeeze_boundary(stats) > 0)).sum())

    def over_processes(self, add: Callable[[Tensor], Tensor]) -> None:
        """Add up the sums of all processes; every one of them must call it.

        Args:
            add: a collective call that adds up a float64 tensor over the processes.
        """
        self._values = add(self._values).cpu()

    def scalars(self) -> dict[str, float]:
        """The numbers of the module's head that follow from the sums; a missing one is left out."""
        ratios = {
            "entropy": ("entropy", "entropies"),
            "entropy_pos": ("entropy_pos", "entropies_pos"),
            "entropy_neg": ("entropy_neg", "entropies_neg"),
            "lambda": ("push_pos", "push_neg"),
            "dentropy_pos": ("dentropy_pos", "recorded_pos"),
            "dentropy_neg": ("dentropy_neg", "recorded_neg"),
            "squeezed_neg": ("squeezed", "recorded_neg"),
        }
        if self.clips:
            ratios |= {"clip_low": ("low", "tokens"), "clip_high": ("high", "tokens")}
        values = {"weight_pos": self["push_pos"], "weight_neg": self["push_neg"]}
        for name, (above, below) in ratios.items():
            if self[below] > 0:
                values[name] = self[above] / self[below]
        return values

    def columns(self) -> dict[str, Any]:
        """Columns of the table `updates` that follow from the sums."""
        columns: dict[str, Any] = {"loss": self["loss"], "kl": None}
        if self.has_kl and self["tokens"]:
            columns["kl"] = self["kl"] / self["tokens"]
        for sign in _SIGNS:
            tokens = self[f"tokens_{sign}"]
            columns[f"rows_{sign}"], columns[f"tokens_{sign}"] = int(self[f"rows_{sign}"]), int(tokens)
            columns[f"weight_sum_{sign}"] = self[f"weights_{sign}"]
            columns[f"ratio_mean_{sign}"] = self[f"ratio_{sign}"] / tokens if tokens else None
            entropies = self[f"entropies_{sign}"]
            columns[f"entropy_{sign}"] = self[f"entropy_{sign}"] / entropies if entropies else None
            for side in ("low", "high"):
                known = self.clips and tokens
                columns[f"clip_{side}_{sign}"] = self[f"clipped_{side}_{sign}"] / tokens if known else None
        return columns


def dead_groups(signs: np.ndarray, groups: np.ndarray) -> float:
    """Fraction of the groups of a batch of rollouts whose advantages are all 0.

    They bring no gradient. With a reward of 0 or 1 these are the prompts whose responses are all right or all wrong.

    Args:
        signs: (N,) sign of the advantage of each rollout.
        groups: (N,) number of its group.

    >>> dead_groups(np.array([1, -1, 0, 0]), np.array([0, 0, 1, 1]))
    0.5
    """
    return float(np.mean(share_by_group(signs != 0, groups) == 0))


def share_by_group(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Of each group, in the order of their numbers, the fraction of its rollouts that are true in `values` (N,)."""
    place = np.unique(groups, return_inverse=True)[1]
    return np.bincount(place, weights=values.astype(float)) / np.bincount(place)
