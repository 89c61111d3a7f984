"""The summary of a trace against dense float64 distributions, and its tables, notes and figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from analysis import UsageError, plots, trace_rollouts
from analysis.laws import bucket_membership
from analysis.records import Run, RunWriter
from analysis.records.schema import BUCKETS
from analysis.report import TraceData, summarize_trace, trace_figures, write_trace_figures
from tests.offline.small import dense_logits, make_model, make_tokenizer, rows_of, write_jsonl

ROWS = rows_of(24)
OBJECTIVES = ("psr-log", "nsr-log", "w-reinforce-log,lambda=0.5")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    model = make_model(scale=0.25)  # with laws of several shapes
    return trace_rollouts(model, make_tokenizer(), ROWS, out=tmp_path_factory.mktemp("trace"), objectives=OBJECTIVES)


@pytest.fixture(scope="module")
def data(run: Run) -> TraceData:
    return TraceData.of(run)


@pytest.fixture(scope="module")
def dense() -> pd.DataFrame:
    """One row a token, by definition and by finite differences."""
    model, tokenizer, out = make_model(scale=0.25), make_tokenizer(), []
    for index, row in enumerate(ROWS):
        logits, tokens = dense_logits(model, tokenizer, row["prompt"], row["response"])
        member = bucket_membership(logits, BUCKETS).long()
        for t, y in enumerate(tokens.tolist()):
            z, probs = logits[t], logits[t].softmax(-1)
            direction = torch.nn.functional.one_hot(tokens[t], len(z)) - probs

            def entropy(z: torch.Tensor) -> float:
                return float(torch.special.entr(z.softmax(-1)).sum())

            moved = [(z + s * 1e-5 * direction).softmax(-1) for s in (1, -1)]
            change = (moved[0] - moved[1]) / 2e-5
            c = float((probs**2).sum())
            out.append(
                {
                    "rollout": index,
                    "prompt": row["prompt"],
                    "reward": row["reward"],
                    "position": t,
                    "token": y,
                    "prob": float(probs[y]),
                    "c": c,
                    "entropy": entropy(z),
                    "norm": float(direction.norm()),
                    "dentropy": (entropy(z + 1e-5 * direction) - entropy(z - 1e-5 * direction)) / 2e-5,
                    "flow": torch.zeros(6, dtype=torch.float64).scatter_add_(0, member[t], change).numpy(),
                }
            )
    return pd.DataFrame(out)


def test_tokens(data: TraceData, dense: pd.DataFrame) -> None:
    tokens = data.tokens
    assert tokens["below"].tolist() == (dense["prob"] < dense["c"]).tolist()
    assert tokens["raises"].tolist() == (dense["dentropy"] < 0).tolist()
    assert tokens["rare"].tolist() == (np.log(dense["prob"]) < -dense["entropy"]).tolist()
    assert 0.05 < tokens["below"].mean() < 0.95
    assert 0.05 < tokens["raises"].mean() < 0.95
    assert tokens["sign"].tolist() == np.where(dense["reward"] == 1, 1, -1).tolist()
    np.testing.assert_allclose(data.flow, np.stack(dense["flow"].tolist()), rtol=2e-3, atol=2e-6)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_mass_and_entropy_flow_by_sign(data: TraceData, dense: pd.DataFrame, name: str) -> None:
    right, wrong = {"psr-log": (1, 0), "nsr-log": (0, -1), OBJECTIVES[2]: (0.5, -1)}[name]
    weight = np.where(dense["reward"] == 1, right, wrong).astype(float)
    assert data.weights[name].tolist() == weight.tolist()
    flow = data.mass_flow(name).set_index(["label", "bucket"])
    for label, of in {"all": True, "rewarded": dense["reward"] == 1, "unrewarded": dense["reward"] == 0}.items():
        for at, bucket in enumerate(("1", "2–4", "5–16", "17–128")):
            values = (weight * of).to_numpy() if label != "all" else weight
            mean = (values * np.stack(dense["flow"].tolist())[:, at]).mean()
            row = flow.loc[(label, bucket)]
            assert row["value"] == pytest.approx(mean, rel=2e-3, abs=1e-6)
            assert np.isnan(row["low"])
    cell = data.entropy_flow(name)["all"]
    assert cell.value == pytest.approx((weight * dense["dentropy"].to_numpy()).mean(), rel=1e-3, abs=1e-6)
    assert cell.reason == f"fewer than 16 prompts ({dense['prompt'].nunique()})"


def test_tokens_by_class(run: Run, data: TraceData, dense: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    """Responses of numbers are of one class; with the remainders of numbers as classes, the means over each by hand."""
    assert set(data.classes) <= {"number", "special"}
    assert "classes_of_tokens" not in {table["key"] for table in summarize_trace(run, data).to_json()["tables"]}
    names = ("word", "number", "other")

    def by_remainder(spelling: Any) -> str:
        return names[int(spelling.text) % 3] if spelling.text.isdigit() else "special"

    monkeypatch.setattr("analysis.report.trace_data.token_class", by_remainder)
    data = TraceData.of(run)
    words = [make_tokenizer().convert_ids_to_tokens(int(i)) for i in dense["token"]]
    kinds = [names[int(word) % 3] if word.isdigit() else "special" for word in words]
    expected = dense.assign(kind=kinds, below=dense["prob"] < dense["c"])
    tables = {table["key"]: table for table in summarize_trace(run, data).to_json()["tables"]}
    rows = {row["token_class"]: row for row in tables["classes_of_tokens"]["rows"]}
    assert len(rows) == expected["kind"].nunique() >= 3
    for kind, part in expected.groupby("kind"):
        row = {name: cell["value"] for name, cell in rows[kind].items() if name != "token_class"}
        assert row["tokens"] == len(part)
        assert row["fraction_of_tokens"] == pytest.approx(len(part) / len(expected))
        assert row["below_boundary"] == pytest.approx(part["below"].mean())
        assert row["entropy_nats"] == pytest.approx(part["entropy"].mean(), rel=1e-4)
        assert row["fraction_of_gradient"] == pytest.approx(part["norm"].sum() / expected["norm"].sum(), rel=1e-4)
        drained = (part["norm"] * part["below"]).sum() / part["norm"].sum()
        assert row["gradient_below_boundary"] == pytest.approx(drained, rel=1e-4)


def test_tokens_that_carry_the_gradient(data: TraceData, dense: pd.DataFrame) -> None:
    negative = dense[dense["reward"] == 0]
    shares = negative.groupby("token")["norm"].sum().sort_values(ascending=False) / negative["norm"].sum()
    found = data.gradient_tokens("nsr-log", -1, 5)
    assert found["token"].tolist() == shares.index[:5].tolist()
    np.testing.assert_allclose(found["value"], shares[:5], rtol=1e-4)
    first = negative[negative["token"] == shares.index[0]]
    assert found["count"][0] == len(first)
    assert found["prob"][0] == pytest.approx(first["prob"].mean(), rel=1e-4)
    assert found["text"][0] == make_tokenizer().decode([shares.index[0]])
    assert data.gradient_tokens("nsr-log", 1, 5).empty


def test_by_position_and_by_probability(data: TraceData, dense: pd.DataFrame) -> None:
    entropy = data.by_position().query("quantity == 'entropy' and label == 'unrewarded'")
    first = dense[(dense["reward"] == 0) & (dense["position"] == 0)]
    assert entropy["position"].iloc[0] == 1
    assert entropy["value"].iloc[0] == pytest.approx(first["entropy"].mean(), rel=1e-4)
    assert entropy["tokens"].sum() == (dense["reward"] == 0).sum()
    raises = data.by_probability()
    assert raises["tokens"].sum() == len(dense)
    for row in raises.itertuples():
        assert 0 <= row.value <= 1
    sums = (raises["value"] * raises["tokens"]).sum()
    assert sums == pytest.approx((dense["dentropy"] < 0).sum())


def test_tables(run: Run, dense: pd.DataFrame) -> None:
    summary = summarize_trace(run)
    where, *carrying, flows = summary.tables
    cells = dict(zip((column.key for column in where.columns), where.rows[0], strict=True))
    assert [row[0] for row in where.rows] == ["all", "rewarded", "unrewarded"]
    assert (cells["rollouts"].value, cells["tokens"].value) == (24, len(dense))
    assert cells["below_boundary"].value == pytest.approx((dense["prob"] < dense["c"]).mean())
    below = dense["norm"] * (dense["prob"] < dense["c"])
    assert cells["gradient_below_boundary"].value == pytest.approx(below.sum() / dense["norm"].sum(), rel=1e-5)
    assert cells["entropy_nats"].value == pytest.approx(dense["entropy"].mean(), rel=1e-5)
    assert [table.title for table in carrying] == [
        "psr-log: tokens that carry the positive gradient",
        "nsr-log: tokens that carry the negative gradient",
        "w-reinforce-log,lambda=0.5: tokens that carry the positive gradient",
        "w-reinforce-log,lambda=0.5: tokens that carry the negative gradient",
    ]
    assert [bool(table.note) for table in carrying] == [False, False, False, True]
    assert [row[0] for row in flows.rows] == [
        "psr-log, rewarded",
        "nsr-log, unrewarded",
        *(f"w-reinforce-log,lambda=0.5, {label}" for label in ("all", "rewarded", "unrewarded")),
    ]
    assert str(flows.rows[0][-3]) == "–"  # no token has a rank beyond 1024 among 29
    assert summary.to_markdown().count("###") == 6


def test_without_rewards_and_objectives(tmp_path: Path) -> None:
    rows = [{"prompt": row["prompt"], "response": row["response"]} for row in ROWS]
    run = trace_rollouts(make_model(), make_tokenizer(), rows, out=tmp_path)
    summary = summarize_trace(run)
    assert [row[0] for row in summary.tables[0].rows] == ["all"]
    assert len(summary.tables) == 1
    assert "No objective was named" in summary.notes[0]
    assert [path.stem for path in write_trace_figures(run)] == ["phase_plane", "boundaries", "positions"]


@pytest.mark.slow
def test_an_objective_without_a_weight_has_no_figure(tmp_path: Path) -> None:
    rows = [row | {"reward": 1.0} for row in ROWS]
    run = trace_rollouts(make_model(), make_tokenizer(), rows, out=tmp_path, objectives=["nsr-log"])
    assert [path.stem for path in write_trace_figures(run)] == ["phase_plane", "boundaries", "positions"]
    assert summarize_trace(run).tables[-1].title == "where the mass would go, by rank"


def test_notes(tmp_path: Path) -> None:
    rows = [*ROWS, '{"prompt"']
    run = trace_rollouts(
        make_model(scale=1.0),
        make_tokenizer(),
        write_jsonl(tmp_path / "a.jsonl", rows),
        out=tmp_path / "a",
        skip_bad=True,
    )
    notes = summarize_trace(run).notes
    assert "Left out: 1 rows (broken line), such as a.jsonl line 25: not valid JSON" in notes[0]
    assert "is below that of a uniform distribution (-3.4): are these tokens" in notes[-1]  # random text, a sharp model
    RunWriter(tmp_path / "b", run_json=run.info | {"run_id": "b"})
    with pytest.raises(UsageError, match=r"run: expected recorded tokens, got none in .*b yet"):
        summarize_trace(Run(tmp_path / "b"))
    RunWriter(tmp_path / "c", run_json=run.info | {"engine": "small"})
    with pytest.raises(UsageError, match=r"run: expected recorded tokens, got none in .*c yet"):
        summarize_trace(Run(tmp_path / "c"))


@pytest.mark.slow
def test_one_prompt_has_no_intervals(tmp_path: Path) -> None:
    run = trace_rollouts(make_model(), make_tokenizer(), ROWS[:4], out=tmp_path, objectives=["nsr-log"])
    data = TraceData.of(run)
    assert data.mass_flow("nsr-log")["low"].isna().all()
    assert len(write_trace_figures(run, data)) == 5


class TestFigures:
    def axes(self, make: Any, data: TraceData) -> list[Any]:
        figure = make(data)
        assert isinstance(figure, Figure)
        figure.canvas.draw()
        return figure.axes

    def test_boundaries(self, data: TraceData) -> None:
        left, middle, right, *_ = self.axes(trace_figures.boundaries_figure, data)
        assert sum(left.collections[0].get_array()) == len(data.tokens)
        assert sum(middle.collections[0].get_array()) == len(data.tokens)
        line = left.lines[0].get_xydata()
        assert (line[:, 0] == line[:, 1]).all()
        curve = middle.lines[0].get_xydata()
        np.testing.assert_allclose(curve[:, 0], np.exp(-curve[:, 1]))
        assert [line.get_label() for line in right.lines] == ["rewarded", "unrewarded"]

    def test_flow_bars_are_the_flows(self, data: TraceData) -> None:
        axes = self.axes(trace_figures.rank_flow_figure, data)
        assert [ax.get_title(loc="left") for ax in axes] == ["psr-log", "nsr-log", "w-reinforce-log,\nlambda=0.5"]
        flow = data.mass_flow("nsr-log")
        values = flow.loc[flow["label"] == "unrewarded", "value"].tolist()
        bars = [bar.get_height() for bar in axes[1].patches]
        assert bars == pytest.approx(values[: len(bars)])
        assert not any(values[len(bars) :])  # no mass goes through ranks beyond  # rewarded tokens have none
        assert not axes[1].collections  # too few prompts for an interval

    def test_tokens(self, data: TraceData) -> None:
        axes = [ax for ax in self.axes(trace_figures.gradient_tokens_figure, data) if ax.axison]
        assert len(axes) == 4
        found = data.gradient_tokens("psr-log", 1, trace_figures.MOST_TOKENS)
        assert [bar.get_width() for bar in axes[0].patches] == pytest.approx(found["value"].tolist())
        assert axes[0].get_title(loc="left") == "psr-log\nw > 0"

    def test_positions(self, data: TraceData) -> None:
        entropy, below = self.axes(trace_figures.positions_figure, data)
        assert [line.get_label() for line in entropy.lines] == ["rewarded", "unrewarded"]
        assert below.get_ylim()[0] == 0

    def test_dollar_signs_are_text(self) -> None:
        ax = Figure().subplots()
        plots.carrying_tokens(
            ax, pd.DataFrame({"text": ["$x$"], "value": [0.5], "low": [0.4], "high": [0.6]}), label="all", limit=1.0
        )
        assert ax.get_yticklabels()[0].get_text() == r"\$x\$"
