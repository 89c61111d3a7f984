"""Which objectives exist and which of their settings go together; no torch, so that a recipe is checked at once.

Field names in the messages are those of a recipe (`objective.lambda`), the arguments those of `objectives.get`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from toy_models.messages import nearest

from ..errors import UsageError
from .definition import Entry
from .entries import ENTRIES, FAMILIES, PARAMETERS
from .parameters import ADVANTAGE, ADVANTAGES, BASELINE, CORRECTIONS, FORM, FORMS

__all__ = ["ADVANTAGES", "FORMS", "check", "compares", "entry", "is_own", "names", "not_trainable", "settings"]

_CLIPS = ("clip_low", "clip_high", "dual_clip")
_CORRECTIONS = tuple(parameter.name for parameter in CORRECTIONS)
_ALIASES = {alias: entry.name for entry in ENTRIES.values() for alias in entry.aliases}


def names() -> tuple[str, ...]:
    """The names of the objectives, in the order of docs/objectives.md.

    Returns:
        Full names; psr, nsr, w-reinforce and reinforce are three each, one for each form.

    >>> names()[:3]
    ('psr-ratio', 'psr-probability', 'psr-log')
    """
    return tuple(ENTRIES)


def is_own(name: object) -> bool:
    """Whether a name is that of a function that the user wrote, file.py:name or package.module:name."""
    return isinstance(name, str) and ":" in name


def entry(name: str, form: str | None = None) -> Entry:
    """What there is to know of the objective `name`: formula, source, inputs and parameters.

    Args:
        name: a name or an alias of docs/objectives.md, or psr, nsr, w-reinforce or reinforce.
        form: "ratio", "probability" or "log", which those four need.

    Returns:
        The entry, whose `parameters` are what `get` accepts.

    Raises:
        UsageError: an unknown name (with the nearest), one of the four without a form, a form that the name excludes.

    >>> entry("psr", "probability").name
    'psr-probability'
    >>> entry("psr")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    analysis.errors.UsageError: objective.form: psr needs a form; choose ratio, probability or log (they are ...)
    """
    FORM.check(form)
    if name in FAMILIES:
        if form is None:
            raise UsageError(
                f"objective.form: {name} needs a form; choose ratio, probability or log (they are different updates)"
            )
        return ENTRIES[f"{name}-{form}"]
    known = ENTRIES.get(_ALIASES.get(name, name))
    if known is None:
        raise UsageError(
            f"objective.name: unknown value {name!r}; {_suggestion(name)}"
            " A function of your own is written file.py:name or package.module:name"
        )
    if form is not None and form != known.form and "form" not in known.defaults:
        fixed = f"is of form {known.form}" if known.form else "has no forms"
        raise UsageError(f"objective.form: {known.name} {fixed}, got {form}; leave it unset")
    return known


def _suggestion(name: object) -> str:
    if not isinstance(name, str):
        return f"known: {', '.join(names())}"
    beginning = [known for known in ENTRIES if name and known.startswith(name.casefold())]
    if beginning:
        return f"did you mean {' or '.join(beginning)}?"
    return nearest(name, [*ENTRIES, *FAMILIES, *_ALIASES])


def settings(definition: Entry, given: dict[str, Any], group_size: int | None = None) -> dict[str, Any]:
    """The value of every parameter of the entry, as set or by default.

    Raises UsageError for a parameter that it does not have, one that is out of range or missing, and parameters that
    contradict each other; `group_size` is left out where it is not known yet.
    """
    given = {name: value for name, value in given.items() if value is not None}
    for name, value in given.items():
        if name not in PARAMETERS:
            raise UsageError(f"objective.{name}: unknown parameter; {nearest(name, definition.defaults)}")
        PARAMETERS[name].check(value)
    corrections = _CORRECTIONS if definition.takes_corrections else ()
    accepted = {*definition.defaults, *corrections}
    values = definition.defaults | {name: value for name, value in given.items() if name in accepted}
    form = given.get("form", definition.form)
    for name, value in given.items():
        if name in _CLIPS and form == "log":
            raise UsageError(_no_ratio(name, value))
        if name not in accepted and name != "form":
            raise UsageError(_stray(definition, name, value))
    if form == "log":
        values |= {name: None for name in _CLIPS if name in values}
    for parameter in definition.parameters:
        if parameter.required and values[parameter.name] is None:
            raise UsageError(f"{parameter.field}: {definition.name} needs it, got none; it is the {parameter.doc}")
    _check_corrections(definition, values)
    if "advantage" in values:
        _check_advantage(definition, values, group_size)
    elif group_size == 1 and (
        definition.value == "oreal" or "accuracy" in definition.needs or "group" in definition.compares
    ):
        raise UsageError(
            f"rollout.group_size: {definition.name} compares the responses of one prompt, so it needs a group "
            "of at least 2, got 1"
        )
    k: Any = values.get("k")
    if group_size is not None and k is not None and group_size < k:
        raise UsageError(
            f"rollout.group_size: {definition.name} takes {k:g} of the responses of a prompt (objective.k), so it "
            f"needs a group of at least {k:g}, got {group_size}"
        )
    if group_size is not None and definition.value == "pass_at_k_full" and (group_size % k or group_size < 2 * k):
        raise UsageError(
            f"rollout.group_size: {definition.name} compares sets of {k:g} responses (objective.k), so it needs a "
            f"group of two or more whole sets, got {group_size}"
        )
    return values


def compares(definition: Entry, values: Mapping[str, Any]) -> frozenset[str]:
    """ "group" and "batch": with what else the advantage of a response is compared at these settings."""
    how = values.get("advantage") or "none"
    out = set(definition.compares)
    if how.startswith("group_") or how == "leave_one_out":
        out.add("group")
    if how.endswith(("batch_std", "batch_mean_std")) or values.get("whiten", "none") != "none":
        out.add("batch")
    return frozenset(out)


def _check_corrections(definition: Entry, values: dict[str, Any]) -> None:
    """UsageError for bounds without their factor, a factor without a bound, bounds in the wrong order."""
    for factor in ("rollout_is", "rollout_reject"):
        low, high = values.get(f"{factor}_low"), values.get(f"{factor}_high")
        if factor not in values:
            for bound, value in ((f"{factor}_low", low), (f"{factor}_high", high)):
                if value is not None:
                    raise UsageError(
                        f"objective.{bound}: expected {factor} beside it, got {value} without; set {factor} or leave "
                        "the bound unset"
                    )
            continue
        if high is None and (factor == "rollout_reject" or low is None):
            raise UsageError(
                f"objective.{factor}_high: {factor} needs a bound, got none; set {factor}_high"
                + (" (3 in TRL, 2 in verl)" if factor == "rollout_is" else "")
            )
        if low is not None and high is not None and low > high:
            raise UsageError(
                f"objective.{factor}_low: expected at most {factor}_high = {high:g}, got {low:g}; exchange them"
            )
    reject = values.get("rollout_reject")
    if reject is not None and not reject.endswith("k1") and values.get("rollout_reject_low") is not None:
        raise UsageError(
            f"objective.rollout_reject_low: only k1 has a lower bound, got {values['rollout_reject_low']} with "
            f"{reject}; leave it unset"
        )
    if definition.formula == "sequences.vespo" and str(values.get("rollout_is")).startswith("sequence"):
        raise UsageError(
            f"objective.rollout_is: {definition.name} multiplies the factors of tokens into its own ratio of the "
            f"response, so it takes token-truncate or token-mask, got {values['rollout_is']}; choose one of them"
        )


def _stray(definition: Entry, name: str, value: Any) -> str:
    owners = [other.name for other in ENTRIES.values() if name in other.defaults]
    if name == "lambda_":
        owners = ["w-reinforce"]
    if name in _CORRECTIONS:
        return (
            f"{PARAMETERS[name].field}: only objectives of tokens and responses have it, got {value} with "
            f"{definition.name}; leave it unset"
        )
    shown = ", ".join(owners[:6]) + (" and others" if len(owners) > 6 else "")
    return (
        f"{PARAMETERS[name].field}: only {shown} {'has' if len(owners) == 1 else 'have'} it, got {value} with "
        f"{definition.name}; leave it unset"
    )


def _no_ratio(name: str, value: Any) -> str:
    return (
        f"objective.{name}: the form log has no ratio to clip, got {value}; leave it unset or use the form "
        "ratio or probability"
    )


def _check_advantage(definition: Entry, values: dict[str, Any], group_size: int | None) -> None:
    how, constant = values["advantage"], values["advantage"] == "constant"
    if constant and values["baseline"] is None:
        raise UsageError("objective.baseline: the advantage constant needs it, got none; it is the b of v − b")
    if not constant and values["baseline"] is not None:
        raise UsageError(
            f"objective.baseline: only the advantage constant has it, got {values['baseline']} with "
            f"{how}; leave it unset"
        )
    if definition.name in ("grpo", "dr-grpo", "dapo", "rloo") and how == "none":
        raise UsageError(
            f"objective.advantage: {definition.name} is defined by its group normalisation, got none; use "
            f"{definition.defaults['advantage']} (or unset), another normalisation, or the objective reinforce "
            "or psr"
        )
    compared = how.startswith("group_") or how == "leave_one_out"
    if group_size == 1 and (definition.name == "grpo" or "group" in definition.compares or compared):
        raise UsageError(
            f"rollout.group_size: {definition.name} with advantage {how} compares the responses of one prompt, "
            "so it needs a group of at least 2, got 1"
        )


def check(*, name: str, group_size: int | None = None, **given: Any) -> None:
    """Check the settings of an objective, without torch and without making it.

    Of a function that the user wrote only the settings are checked, not the function.

    Args:
        name: as for `get`.
        group_size: responses to one prompt, where it is known.
        given: parameters as for `get`; None is unset.

    Raises:
        UsageError: an unknown name or parameter, a number out of range, settings that contradict each other.

    >>> check(name="w-reinforce", form="ratio", lambda_=0.1, clip_low=0.2, clip_high=0.28)
    >>> check(name="psr", form="ratio", lambda_=0.1)
    Traceback (most recent call last):
    analysis.errors.UsageError: objective.lambda: only w-reinforce has it, got 0.1 with psr-ratio; leave it unset
    """
    form = given.get("form")
    settings(own_entry(name) if is_own(name) else entry(name, form), given, group_size)


def own_entry(name: str, needs: tuple[str, ...] = ("advantages",), coupling: str = "token") -> Entry:
    """The entry of a loss function that the user wrote: A = ±1 unless its `advantage` says otherwise."""
    parameters = (ADVANTAGE.with_(default="none"), BASELINE)
    return Entry(
        name=name,
        title=name.rpartition(":")[2],
        weight="−∂L/∂log π_y of your loss, by autograd",
        source="your function",
        formula="",
        parameters=parameters,
        value="2r-1",
        needs=needs,
        coupling=coupling,
        homogeneous=False,
    )


def not_trainable(name: str, form: str | None) -> str | None:
    """Why the training loop cannot train on it, or None where it can."""
    if is_own(name):
        return None
    definition = entry(name, form)
    if definition.coupling == "pair":
        return f"{definition.name} compares pairs of a chosen and a rejected response, which the loop does not collect"
    if "reward_components" in definition.reads:
        return f"{definition.name} normalises several rewards apart, of which a task has one; use grpo or rloo"
    if "teacher_logits" in definition.needs:
        return (
            f"{definition.name} is a regulariser over the vocabulary, and the loop keeps no teacher's logits; choose "
            "opd, which needs the teacher's log-probs alone"
        )
    if not definition.scalar:
        field = (
            "objective.entropy_coef"
            if definition.name == "entropy-bonus"
            else 'objective.kl_coef and objective.kl_estimator = "full"'
        )
        return f"{definition.name} is a regulariser; set {field} beside an objective that has rewards"
    return None
