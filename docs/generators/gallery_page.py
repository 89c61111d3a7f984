"""The page docs/gallery.md: every plot with what it shows and the command or the lines that draw it.

The pictures of figures/ are drawn by the commands that they name; those of docs/images/gallery/ by
`python -m docs.generators.gallery_pictures EXPERIMENT`, from the experiment of `make figures`.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ENTRIES", "Entry", "gallery_page"]

OWN = "images/gallery"
_REPORT = "python -m analysis.report EXPERIMENT"
_TRACE = "python -m analysis.report RUN"


@dataclass(frozen=True)
class Entry:
    """One picture of the gallery.

    Attributes:
        title: The question that it answers.
        picture: Its path from docs/.
        shows: One sentence on what it shows.
        command: The command, or the Python, that draws it.
        plots: The functions of `analysis.plots` in it.
        python: Whether `command` is Python.
    """

    title: str
    picture: str
    shows: str
    command: str
    plots: tuple[str, ...]
    python: bool = False


@dataclass(frozen=True)
class _Section:
    title: str
    entries: tuple[Entry, ...]


def _figure(call: str) -> str:
    return f"report.{call}"


SECTIONS = (
    _Section(
        "Methods compared",
        (
            Entry(
                "Which method is ahead, at equal steps and at equal Pass@1?",
                "../figures/dynamics.png",
                "Pass@1 and entropy over steps, entropy against Pass@1, and the difference of NSR and PSR where their "
                "Pass@1 is equal.",
                _REPORT,
                ("curve", "path", "gap", "direct_labels"),
            ),
            Entry(
                "Does the order of the methods depend on k?",
                "../figures/pass_at_k.png",
                "Pass@k of the base and of the last policies, and the difference to PSR for every k.",
                _REPORT,
                ("pass_at_k", "pass_at_k_difference", "direct_labels"),
            ),
            Entry(
                "How do methods differ over training?",
                f"{OWN}/compare.png",
                "Any metrics of several runs, one panel each, over steps or updates, with intervals over seeds.",
                _figure('compare_figure(experiment, ["pass@1", "entropy_fixed", "pass@8"])'),
                ("curve", "direct_labels"),
                python=True,
            ),
            Entry(
                "Where do the Pass@k curves of two checkpoints cross?",
                f"{OWN}/pass_curves.png",
                "Pass@k of two files of graded samples, their paired difference, and the k at which one overtakes the "
                "other; here 64 samples a prompt, drawn from the exact success probabilities of two last policies.",
                "python -m analysis.passk FIRST SECOND --figure pass_curves.png",
                ("pass_bands", "pass_crossing"),
            ),
        ),
    ),
    _Section(
        "What one update does",
        (
            Entry(
                "What happens to one distribution?",
                "../figures/token_gradient.png",
                "The probabilities of one context before and after an update, the push of its own token, and what the "
                "whole update did.",
                _REPORT,
                ("token_bars", "logit_arrows"),
            ),
            Entry(
                "Where does the probability go?",
                "../figures/flow_diagram.png",
                "Ribbons from the sampled token and the rank buckets that lose mass to those that gain it, net, on "
                "average over updates.",
                _REPORT,
                ("flow_diagram",),
            ),
            Entry(
                "Which ranks gain over training?",
                "../figures/mass_flow.png",
                "The mass of the most probable token over the updates, and the change of all ranks at the end.",
                _REPORT,
                ("curve", "rank_flow", "direct_labels"),
            ),
            Entry(
                "The same for one method",
                f"{OWN}/bucket_flow.png",
                "The change of the mass of each rank bucket, summed over the updates so far.",
                _figure('mass_flow_figure(experiment["nsr-seed0"])'),
                ("bucket_flow",),
                python=True,
            ),
            Entry(
                "How much does the first order explain?",
                "../figures/prediction_and_outcome.png",
                "The part of the variance of Δ log π(y) that the first order of the actual parameter step misses.",
                _REPORT,
                ("unexplained", "direct_labels"),
            ),
            Entry(
                "Whose gradients moved a token?",
                f"{OWN}/step_shares.png",
                "The fraction of the predicted change that came from rewarded and unrewarded rows, regularisers, "
                "weight decay and earlier updates; here under GRPO.",
                _figure('step_shares_figure([run for run in experiment.runs.values() if run.label == "GRPO"])'),
                ("part_lines",),
                python=True,
            ),
        ),
    ),
    _Section(
        "Where the tokens are",
        (
            Entry(
                "On which side of the squeeze boundary are they?",
                f"{OWN}/phase_plane.png",
                "Sampled tokens by π(y) and Σπ², with the squeeze boundary, the entropy-sign boundary, and the exact "
                "sign of each token.",
                _TRACE,
                ("phase_plane",),
            ),
            Entry(
                "How far from the boundaries, and how rare?",
                f"{OWN}/boundaries.png",
                "Numbers of tokens on logarithmic axes, and where NSR raises the entropy.",
                _TRACE,
                ("collision_density", "rarity_density", "curve"),
            ),
            Entry(
                "Where in the response?",
                f"{OWN}/positions.png",
                "Entropy and the fraction below the collision probability, by position.",
                _TRACE,
                ("curve",),
            ),
            Entry(
                "How do weights and their effects move over updates?",
                f"{OWN}/weights.png",
                "Entropy, probability, weight and first-order effect on entropy of the recorded tokens.",
                _TRACE,
                ("curve",),
            ),
            Entry(
                "Where would an objective send the mass?",
                f"{OWN}/rank_flow.png",
                "First-order change of mass by rank under the weights of each objective.",
                _TRACE,
                ("rank_flow",),
            ),
            Entry(
                "Which tokens carry the gradient?",
                f"{OWN}/gradient_tokens.png",
                "The fraction of the gradient that the occurrences of a token carry.",
                _TRACE,
                ("carrying_tokens",),
            ),
        ),
    ),
    _Section(
        "The laws of one token",
        (
            Entry(
                "What does one sample push, and where does a law change its sign?",
                f"{OWN}/laws.png",
                "The step of every logit, the change of every probability against its prior, the mass that moves "
                "against the sampled token, and the sign of its effect on entropy.",
                "python -m docs.generators.gallery_pictures --laws",
                ("push_bars", "flow_against_prior", "boundary_lines", "entropy_sign_lines"),
            ),
        ),
    ),
    _Section(
        "Why PSR and NSR differ",
        (
            Entry(
                "Which of the two is noisier?",
                "../figures/gradient_noise.png",
                "Variance of NSR over that of PSR, and noise over signal, against the success probability.",
                "make noise",
                ("noise_curve", "crossing_mark"),
            ),
            Entry(
                "What makes them differ on exact policies?",
                "../figures/factorial.png",
                "Paths with nothing and with every factor on, what each factor contributes, and how pairs interact.",
                "make factorial",
                ("metric_against_success", "factor_effects", "interaction_grid"),
            ),
            Entry(
                "And in training?",
                "../figures/ledger_S2.png",
                "The share of each factor at several accuracies, beside that on an exact policy.",
                "make ledger",
                ("share_dots",),
            ),
            Entry(
                "Which claims hold?",
                "../figures/ledger.png",
                "Every claim of the ledger with its effects, their intervals and its verdict.",
                "make ledger",
                ("effect_forest", "verdict_forest"),
            ),
        ),
    ),
)
ENTRIES: tuple[Entry, ...] = tuple(entry for section in SECTIONS for entry in section.entries)

_HEAD = """\
# Gallery

<!-- Generated from docs/generators/gallery_page.py by `python -m docs.generators`; do not edit. -->

Every plot, with the question that it answers. The pictures are of the main job with eight seeds (`make figures`) unless
their command says otherwise. Commands write PNG; `report.save_figure(figure, "name.svg")` writes SVG. Python below
begins with

```python
from analysis import load_trace, report

experiment = load_trace("runs/eight-seeds")
```

EXPERIMENT is the folder of an experiment. RUN is the folder of an offline trace or of a run of `attach`; for a run that
was trained, `report.write_trace_figures(run)` draws the same pictures. [Make a lecture figure](how_to/make_a_figure.md)
says how to draw one panel.
"""


def gallery_page() -> str:
    """The page as Markdown."""
    parts = [_HEAD]
    for section in SECTIONS:
        parts.append(f"## {section.title}\n")
        for entry in section.entries:
            language = "python" if entry.python else "sh"
            names = ", ".join(f"[`{name}`](#analysis.plots.{name})" for name in entry.plots)
            parts.append(
                f"### {entry.title}\n\n{entry.shows}\n\n![{entry.shows}]({entry.picture})\n\n"
                f"```{language}\n{entry.command}\n```\n\nPlots: {names}.\n"
            )
    return "\n".join(parts)
