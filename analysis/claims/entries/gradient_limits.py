"""Entries about gradients of batches: G7 (when errors vanish), G8 (beside an entropy bonus) and G9 (under the clip)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import UsageError
from ..claim import Claim, Decision, Effect
from ..comparisons import MATCHINGS, compare
from ..conjunctions import Part, SeedValues, all_of, judged, together
from ..evidence import Evidence, Methods
from ..rules import exceeds
from ..studies import PATH_B
from ..study import METHODS, NSR, PSR, Study

if TYPE_CHECKING:
    from ...records import Run

__all__ = ["CLAIMS", "CLIPPED"]

_SEEDS = 4
_SLOPE = 0.25
_BASES = ("path", "path-p60", "path-p85")
_WARM_UP = 5  # steps in which Adam's moments are still those of the start
_COSINE = 0.95


def _vanishes(found: Mapping[str, SeedValues]) -> dict[str, Decision]:
    """The rule, for each quantity."""
    return {
        name: exceeds(values.effect(condition=name, margin=_SLOPE), _SLOPE)
        if len(values.seeds)
        else Decision("undecided", f"{name}: no seed has a slope.", missing="runs whose error rate changes")
        for name, values in found.items()
    }


def _over_training(runs: Mapping[int, Run], column: str, label: str) -> SeedValues:
    """Slope of log of a column of `updates` on log of the step's error rate, by run."""
    from ..measurements.vanishing import slope

    values, left_out = {}, {}
    for seed, run in sorted(runs.items()):
        updates = run.table("updates")[["step", column, "skipped"]]
        joined = updates.merge(run.table("steps")[["step", "correct_ratio"]], on="step")
        joined = joined[(joined["step"] >= _WARM_UP) & ~joined["skipped"].astype(bool) & (joined[column] > 0)]
        errors = 1 - joined["correct_ratio"].to_numpy(dtype=float)
        some = errors > 0
        if len(set(errors[some])) < 3:
            left_out[seed] = f"fewer than three error rates after the first {_WARM_UP} steps"
            continue
        values[seed] = slope(errors[some], joined[column].to_numpy(dtype=float)[some])
    return SeedValues(label, "over training", tuple(values), np.array(list(values.values())), left_out)


def _g7_judged(methods: Methods, condition: str) -> dict[str, Decision]:
    found = {
        "gradient, as the run divides it": _over_training(
            methods[NSR], "grad_norm_total", "slope of log gradient norm"
        ),
        "step of the optimiser": _over_training(methods[NSR], "param_step_norm", "slope of log step norm"),
    }
    if all(not len(values.seeds) for values in found.values()):
        raise UsageError("steps: expected runs of NSR whose error rate changes over training, got none")
    return {f"{condition}, {name}": part for name, part in _vanishes(found).items()}


def _g7(evidence: Evidence) -> Decision:
    from ..measurements.noise_ratios import noise_ratios
    from ..measurements.vanishing import norms, slope, table_slopes

    exact = table_slopes()
    if not (0.9 < exact["NSR, expected"] < 1.1 and abs(exact["NSR, sign"]) < 1e-9):
        raise RuntimeError(f"on tables the expected gradient must shrink with the error, got {exact}")
    frame = noise_ratios(dict.fromkeys(_BASES, range(_SEEDS)), evidence.progress)
    by_seed: dict[str, dict[int, float]] = {}
    columns: dict[str, list[Any]] = {name: [] for name in ("method", "quantity", "base", "seed", "error", "norm")}
    for name in (NSR, PSR):
        for seed in range(_SEEDS):
            rows = frame[(frame["estimator"] == name) & (frame["seed"] == seed)]
            p = rows["p"].to_numpy(dtype=float)
            selected = 1 - p if name == NSR else p
            found = norms(rows["gradient_norm"].to_numpy(), rows["variance"].to_numpy(), selected)
            for quantity, values in found.items():
                by_seed.setdefault(f"{name}, {quantity}", {})[seed] = slope(1 - p, values)
                for base, error, norm in zip(rows["base"], 1 - p, values, strict=True):
                    for column, value in zip(
                        columns, (name, quantity, base, seed, float(error), float(norm)), strict=True
                    ):
                        columns[column].append(value)
    measured = {
        name: SeedValues("slope of log gradient norm", "over bases", tuple(values), np.array(list(values.values())), {})
        for name, values in by_seed.items()
    }
    of_nsr = {name: values for name, values in measured.items() if name.startswith(NSR)}
    runs = evidence.methods(PATH_B)[NSR]
    of_nsr[f"{NSR}, step of AdamW"] = _over_training(runs, "param_step_norm", "slope of log step norm")
    decision = together(_vanishes(of_nsr))
    more = [values.effect(condition=name) for name, values in measured.items() if name.startswith(PSR)]
    more += [
        Effect("slope of log gradient norm, tables", value, n=64, over="tables", condition=name, kind="exact")
        for name, value in exact.items()
    ]
    return Decision(
        decision.verdict,
        decision.reason,
        (*decision.effects, *more),
        decision.depends_on,
        decision.missing,
        {"norms": columns},
    )


def _g8(evidence: Evidence) -> Decision:
    from ..measurements.flattening import DIRECTIONS, tail_changes

    found = tail_changes("path", _SEEDS, evidence.progress)
    seeds = tuple(range(_SEEDS))
    parts: dict[str, Decision] = {}
    more: list[Effect] = []
    columns: dict[str, list[Any]] = {name: [] for name in ("matching", "direction", "seed", "tail", "entropy")}
    for matching in ("KL", "step norm"):
        of = {name: found[matching, name] for name in DIRECTIONS}
        at = f"equal {matching}"
        tails = {
            "bonus": SeedValues("log change of the tail's mass, bonus", at, seeds, of["bonus"][:, 0], {}),
            "gap": SeedValues(
                "log change of the tail's mass, bonus − NSR", at, seeds, of["bonus"][:, 0] - of["NSR"][:, 0], {}
            ),
        }
        parts[at] = all_of(
            [
                Part("that the bonus feeds the tail more than NSR does", tails["gap"], 0.0),
                Part("that the bonus feeds the tail", tails["bonus"], 0.0),
            ],
            "path",
        )
        for name in ("NSR", "random"):
            label = f"log change of the tail's mass, {name}"
            more.append(SeedValues(label, at, seeds, of[name][:, 0], {}).effect(condition="path"))
        for name, rows in of.items():
            for seed, (tail, entropy) in enumerate(rows):
                for column, value in zip(columns, (matching, name, seed, float(tail), float(entropy)), strict=True):
                    columns[column].append(value)
    decision = together(parts)
    return Decision(
        decision.verdict,
        decision.reason,
        (*decision.effects, *more),
        decision.depends_on,
        decision.missing,
        {**decision.tables, "steps": columns},
    )


_PLAIN = {method: f"{method}, no clip" for method in (PSR, NSR)}
_NO_CLIP = {"objective.clip_low": "unset", "objective.clip_high": "unset"}
# Two passes over each batch, without which no clip binds. A positive advantage is clipped above, a negative one below.
CLIPPED = Study(
    "path, two passes over each batch",
    "default",
    {
        **{method: METHODS[method] for method in _PLAIN},
        **{label: {**METHODS[method], **_NO_CLIP} for method, label in _PLAIN.items()},
    },
    {"steps": 20, "eval.every": 5, "update.epochs": 2},
    seeds=_SEEDS,
)


def _g9(evidence: Evidence) -> Decision:
    from ..measurements.clipping import clip_cosines, zero_or_same

    if (error := zero_or_same()) > 0:
        raise RuntimeError(f"a clipped token must keep its weight or lose it, but one changed by {error:.3g}")
    parts: dict[str, Decision] = {}
    columns: dict[str, list[Any]] = {name: [] for name in ("method", "seed", "cosine", "least", "tokens")}
    for name, found in clip_cosines("path", _SEEDS, evidence.progress).items():
        seeds = tuple(range(_SEEDS))
        cosine = SeedValues(
            f"cosine of clipped and plain gradient, {name}", "in the second pass", seeds, found.cosine, {}
        )
        parts[name] = all_of([Part("that the direction is kept", cosine, _COSINE)], "path")
        for seed in seeds:
            for column, value in zip(
                columns,
                (name, seed, *(float(v[seed]) for v in (found.cosine, found.least, found.tokens))),
                strict=True,
            ):
                columns[column].append(value)
    decision = together(parts)
    methods, drifts = evidence.methods(CLIPPED), []
    for method, label in _PLAIN.items():
        if methods[method] and methods[label]:
            side = "above" if method == PSR else "below"
            drifts += [
                compare(methods, method, label, ["entropy_fixed"], at)["entropy_fixed"].effect(
                    condition=f"clip {side}", unit="nats"
                )
                for at in MATCHINGS
            ]
    text = f"Of single tokens the clip keeps the weight or sets it to zero, without exception. {decision.reason}"
    if diverged := evidence.diverged(CLIPPED):
        text += f" Runs that diverged, and are left out of the drift of the entropy: {diverged}."
    return Decision(
        decision.verdict,
        text,
        (*decision.effects, *drifts),
        decision.depends_on,
        decision.missing,
        {**decision.tables, "cosines": columns},
    )


CLAIMS = (
    Claim(
        id="G7",
        family="gradients",
        title="NSR stops when errors vanish",
        statement="Once a model makes no more errors, NSR has nothing left to push: its updates vanish by themselves.",
        source="2506.01347, section 4.2, insight 3",
        hypothesis="The norm of NSR's update falls with the error rate.",
        statistic="Slope of the logarithm of a norm on that of 1 − p, by seed. Four norms: the expected gradient; that "
        "of a batch of 256 rollouts divided by all rows, and divided by the wrong rows alone (root mean square); the "
        "step that AdamW makes. Besides, the same of PSR, and all on tables with errors from 10% down to 0.1%.",
        margin=f"a slope of {_SLOPE:g}: half of the 0.5 that pure sampling noise divided by all rows has, where a "
        "norm that does not depend on the error rate has 0",
        rule="Holds where the interval of every slope lies above the margin, fails where all lie below, depends on "
        "the quantity where some do.",
        conditions=f"Gradients: path at three accuracies (bases of 0.35 to 0.85), {_SEEDS} seeds with bases of their "
        "own, 32 validation prompts, 8 responses each. Steps of AdamW: the runs of NSR of the main study on path, "
        f"regime B, 8 seeds, updates from step {_WARM_UP} on. One method over error rates, so that no matching arises.",
        practice="Divide by a constant or by all rows if NSR should fade out. With a mean over wrong rows, and under "
        "Adam, the last few errors are pushed as hard as the first.",
        decide=_g7,
        studies=(PATH_B,),
        seconds=120.0,
        judge=lambda methods: judged(methods, _g7_judged, NSR),
        tables=("updates", "steps"),
    ),
    Claim(
        id="G8",
        family="gradients",
        title="An entropy bonus flattens against the prior",
        statement="An entropy bonus raises unlikely tokens whatever the model thinks of them, where NSR follows the "
        "model's own probabilities.",
        source="2506.01347, Appendix A",
        hypothesis="A step of the bonus moves more mass into the tail than a step of NSR of the same size.",
        statistic="The logarithm of the tail's mass after one step over that before, for the bonus, for NSR and for a "
        "random direction; the tail are the tokens with π_v below 0.01 before. Steps along the two gradients at the "
        "same base, of equal KL from it (0.001 nats) and of equal norm (1% of that of the parameters).",
        margin="0: the statement is about a direction",
        rule="Holds where the intervals of the bonus and of bonus less NSR lie above 0 at either matching; fails at a "
        "matching where one lies below at the level that allows for two; depends on the matching where they differ.",
        conditions=f"path, {_SEEDS} seeds with a base each, 128 responses to 32 validation prompts, plain gradient "
        "steps in float64. An equal change of entropy is not used, as NSR often lowers the entropy.",
        practice="Use a bonus to keep the tail alive, and a small one: it also feeds tokens that are wrong.",
        decide=_g8,
        seconds=60.0,
    ),
    Claim(
        id="G9",
        family="gradients",
        title="Clipping keeps the direction",
        statement="The clip of the ratio changes how large an update is, not where it points.",
        source="2506.01347, section 4.3",
        hypothesis="Where a clip binds, the gradient of a batch with it is parallel to that without.",
        statistic="Cosine of the batch gradients with and without the clip at 0.2, at the same parameters, mean over "
        "the updates of the second pass over a batch. Besides, the entropy on fixed prefixes of runs with the clip "
        "less that without, where PSR is clipped above and NSR below.",
        margin=f"a cosine of {_COSINE:g}, 18 degrees",
        rule="Holds where the interval of the cosine lies above the margin for PSR and for NSR, fails where it lies "
        "below for both, depends on the sign where they differ. A token that is neither kept nor set to zero stops "
        "the command. The drift of the entropy is reported and does not decide.",
        conditions=f"path, {_SEEDS} seeds with a base each. Gradients: 512 rollouts, two passes of four AdamW updates "
        "at the rate of regime B. Entropy: 20 steps of regime B with two passes over each batch, at equal steps, "
        "equal updates and equal Pass@1.",
        practice="Where it fails, treat the clip as a choice of tokens: it takes out those that moved most, and the "
        "rest points elsewhere.",
        decide=_g9,
        studies=(CLIPPED,),
        seconds=60.0,
    ),
)
