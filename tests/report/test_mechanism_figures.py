"""Flow diagrams and phase planes: what is drawn equals what is recorded."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

from analysis import plots
from analysis.records import Experiment, Run
from analysis.report import NothingToDraw, bucket_transfers, flow_diagram_figure, phase_plane_figure
from analysis.report.mechanism_figures import transfers_title


def expected_change(run: Run, sign: int) -> dict[str, float]:
    """Mean change of the sampled token and of each rank without it, context by context from the stored rows."""
    contexts = run.table("contexts").set_index("context")
    totals: dict[str, list[float]] = {}
    rows = run.table("flows")
    for _, row in rows.iterrows():
        if contexts.loc[row["context"], "kind"] != "batch" or not row["weight"] * sign > 0:
            continue
        own = np.exp(row["log_prob_after"]) - np.exp(row["log_prob_before"])
        totals.setdefault(plots.SAMPLED, []).append(own)
        for i, name in enumerate(("rank 1", "rank 2–4", "rank 5–16", "rank 17–128")):
            moved = row["bucket_mass_after"][i] - row["bucket_mass_before"][i]
            totals.setdefault(name, []).append(moved - own * (row["token_bucket"] == i))
    return {name: float(np.mean(values)) for name, values in totals.items()}


@pytest.mark.parametrize(("run_id", "sign"), [("psr-seed0", 1), ("nsr-seed0", -1)])
def test_ribbons_add_up_to_the_recorded_change(experiment: Experiment, run_id: str, sign: int) -> None:
    run = experiment.runs[run_id]
    found = bucket_transfers(run.flows(), sign)
    assert found is not None
    ribbons, groups, count = found
    assert count == 8  # two a batch with a weight, four updates
    balance = ribbons.groupby("target")["value"].sum().sub(ribbons.groupby("source")["value"].sum(), fill_value=0.0)
    expected = expected_change(run, sign)
    assert groups == list(expected)
    for name, value in expected.items():
        assert balance.get(name, 0.0) == pytest.approx(value, abs=1e-6)  # stored as float32


def test_the_sampled_token_gains_under_a_positive_weight(experiment: Experiment) -> None:
    axes = flow_diagram_figure(experiment).axes
    titles = [ax.get_title(loc="left") for ax in axes]
    assert titles[0].startswith("PSR, contexts with w > 0: ★ sampled gains most")
    assert titles[1].startswith("NSR, contexts with w < 0: rank")
    assert len(flow_diagram_figure(experiment.runs["nsr-seed0"]).axes) == 1


def test_a_title_names_the_greatest_gain_on_balance() -> None:
    import pandas as pd

    rows = [("a", "b", 0.05), ("b", "c", 0.04), ("a", "c", 0.01)]
    ribbons = pd.DataFrame(rows, columns=["source", "target", "value"])
    assert transfers_title("X", 1, ribbons) == "X, contexts with w > 0: c gains most,\n80% of it from b"
    assert transfers_title("X", -1, ribbons.iloc[:0]) == "X, contexts with w < 0: nothing moves"


def test_without_weights_or_tokens_there_is_nothing_to_draw(experiment: Experiment) -> None:
    run = experiment.runs["psr-seed0"]
    assert bucket_transfers(run.flows(), -1) is None
    with pytest.raises(NothingToDraw, match="no run recorded tokens"):
        phase_plane_figure(run)
    with pytest.raises(NothingToDraw, match="no contexts were followed"):
        flow_diagram_figure([])


def test_texts_are_inside(experiment: Experiment) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    for source in (experiment, experiment.runs["psr-seed0"]):
        figure: Figure = flow_diagram_figure(source)
        FigureCanvasAgg(figure).draw()
        page = figure.bbox
        drawn = [text for ax in figure.axes for text in ax.texts]
        for text in [*drawn, *(ax._left_title for ax in figure.axes)]:
            box = text.get_window_extent()
            assert page.x0 - 1 <= box.x0, text.get_text()
            assert box.x1 <= page.x1 + 1, text.get_text()
            assert text.get_fontsize() >= 7
