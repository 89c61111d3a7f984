"""The objectives that come with the toolkit, as data: no torch here, so that a recipe is checked at once.

A new objective is one `Entry` in the module of its family and a pair of functions, `…_weight` and `…_loss`, in the
module of `analysis/objectives/formulas/` that its `formula` names; its own parameters stand in the entry. Recipes, the
command and the page of objectives follow from it.

Convention: ∂L/∂z = −w·(e_y − π) + r with z the logits; ρ = π_y/π_old,y, A the advantage, r the reward in {0, 1}, q the
mean reward of the group, ref the reference policy, sg the stop-gradient, 1[·] an indicator.
"""

from __future__ import annotations

from dataclasses import replace

from ..definition import Entry
from ..parameters import ADVANTAGE, BASELINE, CLIP_HIGH, CLIP_LOW, CORRECTIONS, DUAL_CLIP, FORM, LAMBDA, Parameter
from . import (
    batches,
    distillation,
    divergences,
    group_baselines,
    groups,
    likelihoods,
    preferences,
    regressions,
    regularisers,
    rewards,
    selections,
    sequences,
    tokens,
    winners,
)

__all__ = ["ENTRIES", "FAMILIES", "PARAMETERS", "SECTIONS"]

# The title of each family and its objectives, in the order of tables.
SECTIONS: dict[str, tuple[Entry, ...]] = {
    module.TITLE: module.ENTRIES
    for module in (
        rewards,
        winners,
        groups,
        group_baselines,
        batches,
        tokens,
        divergences,
        selections,
        sequences,
        regressions,
        likelihoods,
        preferences,
        distillation,
        regularisers,
    )
}
# Every objective by its name.
ENTRIES: dict[str, Entry] = {entry.name: entry for entries in SECTIONS.values() for entry in entries}
# Names that stand for several forms of one objective.
FAMILIES = rewards.NAMES


def _parameters() -> dict[str, Parameter]:
    """Every parameter by name, without the default of any objective; one name has one meaning."""
    table: dict[str, Parameter] = {}
    shared = (FORM, LAMBDA, CLIP_LOW, CLIP_HIGH, DUAL_CLIP, ADVANTAGE, BASELINE)
    own = (parameter for entry in ENTRIES.values() for parameter in entry.parameters)
    for parameter in (*shared, *own, *CORRECTIONS):
        plain = replace(parameter, default=None, required=False)
        assert table.setdefault(plain.name, plain) == plain, f"{plain.name}: two objectives give it different meanings"
    return table


# Every parameter of an objective by its name.
PARAMETERS = _parameters()
