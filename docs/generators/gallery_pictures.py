"""`python -m docs.generators.gallery_pictures EXPERIMENT`: draw the pictures of docs/images/gallery/.

EXPERIMENT is the folder of `make figures`, with the methods of the main job. `--laws` alone draws the picture of the
laws, which needs no records.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from analysis import plots, report
from analysis.errors import UsageError
from analysis.records import Experiment, Run, load_trace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FOLDER", "experiment_pictures", "laws_picture", "main"]

FOLDER = Path(__file__).resolve().parents[1] / "images" / "gallery"
OBJECTIVES = ("nsr-ratio", "grpo,form=ratio", "w-reinforce-ratio,lambda=0.1")
_METHODS = ("PSR", "NSR", "GRPO")
SAMPLES = 64  # of a prompt, in the files of graded samples


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; exit status 0, or 2 for an invalid request."""
    parser = argparse.ArgumentParser(
        prog="python -m docs.generators.gallery_pictures",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("experiment", nargs="?", type=Path, help="folder of the experiment of `make figures`")
    parser.add_argument("--laws", action="store_true", help="draw the picture of the laws alone")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the pictures (default: %(default)s)")
    arguments = parser.parse_args(argv)
    if arguments.experiment is None and not arguments.laws:
        parser.error("experiment: expected the folder of an experiment, or --laws, got neither; run make figures first")
    pictures: dict[str, Callable[[], Figure]] = {"laws": laws_picture}
    if arguments.experiment is not None:
        try:
            pictures |= experiment_pictures(load_trace(arguments.experiment))
        except UsageError as error:
            parser.error(str(error))
    for name, draw in pictures.items():
        report.save_figure(draw(), arguments.out / f"{name}.png")
        print(f"wrote {arguments.out / name}.png")
    return 0


def experiment_pictures(experiment: Run | Experiment) -> dict[str, Callable[[], Figure]]:
    """Name -> how it is drawn, of the pictures that need records.

    Raises:
        UsageError: a single run, or an experiment that lacks one of the methods.
    """
    if not isinstance(experiment, Experiment) or not set(_METHODS) <= set(experiment.labels.values()):
        raise UsageError(
            f"experiment: expected one with the methods {', '.join(_METHODS)}, got {experiment!r}; "
            "run make figures first"
        )
    first = {run.label: run for run in reversed(experiment.runs.values())}  # the first seed of each method
    tokens = report.TraceData.of(first["GRPO"], OBJECTIVES)
    return {
        "compare": lambda: report.compare_figure(experiment),
        "pass_curves": lambda: _pass_curves(first["PSR"], first["NSR"]),
        "bucket_flow": lambda: report.mass_flow_figure(first["NSR"]),
        "step_shares": lambda: report.step_shares_figure(
            [run for run in experiment.runs.values() if run.label == "GRPO"]
        ),
        "phase_plane": lambda: report.phase_plane_figure(first["NSR"]),
        "boundaries": lambda: report.boundaries_figure(tokens),
        "positions": lambda: report.positions_figure(tokens),
        "weights": lambda: report.weights_figure(tokens),
        "rank_flow": lambda: report.rank_flow_figure(tokens),
        "gradient_tokens": lambda: report.gradient_tokens_figure(tokens),
    }


def _pass_curves(first: Run, second: Run) -> Figure:
    """Samples of the last policies at the coldest temperature, drawn from their exact success probabilities."""
    from analysis.passk import pass_curves
    from analysis.passk.figure import pass_curves_figure
    from analysis.passk.graded import Graded

    rng = np.random.default_rng(0)
    graded = []
    for run in (first, second):
        rows = run.table("evals", where=[("split", "==", "test")])
        rows = rows[(rows["step"] == rows["step"].max()) & (rows["temperature"] == rows["temperature"].min())]
        counts = rng.binomial(SAMPLES, rows["p"].to_numpy(float))
        graded.append(Graded(run.label, tuple(rows["prompt_id"]), np.full(len(rows), SAMPLES), counts))
    return pass_curves_figure(pass_curves(*graded))


def laws_picture() -> Figure:
    """One prior of twelve tokens, a sample of the third; and boundaries for three kinds of alternatives."""
    import torch
    from matplotlib.figure import Figure

    from analysis import laws

    prior = 0.6 ** np.arange(12)
    prior /= prior.sum()
    logits, token = torch.from_numpy(np.log(prior)), torch.tensor(2)
    ranks = np.arange(1, 1001.0)
    rest = {"uniform": np.ones(1000), "Zipf, s = 1": 1 / ranks, "Zipf, s = 2": ranks**-2}
    curves = {name: laws.boundary_curves(q / q.sum(), np.geomspace(1e-5, 0.97, 400)) for name, q in rest.items()}
    with plots.style():
        figure = Figure(figsize=(plots.PAGE_INCHES, 4.4))
        (push, flow), (against, sign) = figure.subplots(2, 2)
        plots.push_bars(push, laws.logit_gradient(logits, token, -1.0).numpy(), 2, "NSR", unit="Δz per unit step")
        boundary = float((prior**2).sum() - prior[2])
        for name, weight in (("PSR", 1.0), ("NSR", -1.0)):
            change = laws.mass_flow(logits, token, weight, 1.0).numpy()
            plots.flow_against_prior(flow, prior, change, 2, name, boundary=boundary)
        flow.set_ylabel("Δπ per unit step")
        flow.legend()
        plots.boundary_lines(against, curves)
        against.legend(title="alternatives")
        plots.entropy_sign_lines(sign, curves)
        for ax, text in (
            (push, "NSR lowers y and lifts all other logits"),
            (flow, "… but lifts only the probable alternatives"),
            (against, "Which part moves against y?"),
            (sign, "When does NSR raise the entropy?"),
        ):
            plots.heading(ax, text)
        return figure


if __name__ == "__main__":
    sys.exit(main())
