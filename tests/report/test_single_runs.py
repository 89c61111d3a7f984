"""Reports of single runs: attached to a loop, traced from recorded rollouts, one run of an experiment, several runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

import analysis
from analysis.records import Experiment, Run
from analysis.report import report, summarize
from analysis.report.__main__ import main

UPDATES, PROMPTS, LENGTH = 6, 4, 5


def attached(folder: Path, *, rewarded: bool = True) -> Run:
    """A plain loop of REINFORCE with rewards ±1 on random tokens: the weight of every token is its reward."""
    generator = torch.Generator().manual_seed(0)
    config = Qwen3Config(
        vocab_size=24,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Qwen3ForCausalLM(config)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with analysis.attach(model, out=folder, record=analysis.RecordSpec(tokens=1)) as trace:
        for _ in range(UPDATES):
            ids = torch.randint(24, (PROMPTS, 1 + LENGTH), generator=generator)
            ids[:, 0] = torch.arange(PROMPTS)
            rewards = torch.tensor([1.0, 0.0, 1.0, 0.0])
            labels = torch.where(torch.arange(1 + LENGTH) == 0, -100, ids)
            logits = model(input_ids=ids, labels=labels).logits[:, :-1]
            log_probs = logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
            (-(2 * rewards - 1)[:, None] * log_probs).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            trace.step(rewards=rewards if rewarded else None)
    run = analysis.load_trace(folder)
    assert isinstance(run, Run)
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return attached(tmp_path_factory.mktemp("attached") / "mine")


def test_an_attached_run_has_its_measured_weights(run: Run) -> None:
    summary = summarize(run)
    tables = {table.key: table.to_json() for table in summary.tables}
    where = {row["responses"]: row for row in tables["where_tokens_sit"]["rows"]}
    assert list(where) == ["all", "rewarded", "unrewarded"]
    assert where["all"]["tokens"]["value"] == UPDATES * PROMPTS * LENGTH
    rows = tables["weights_over_training"]["rows"]
    assert [row["updates"] for row in rows] == ["updates 0 to 1", "updates 2 to 3", "updates 4 to 5"]
    for row in rows:
        assert row["fraction_positive"]["value"] == pytest.approx(0.5)
        assert row["positive_weight"]["value"] == pytest.approx(0.5, rel=1e-3)
        assert row["negative_weight"]["value"] == pytest.approx(-0.5, rel=1e-3)
        assert row["residual"]["value"] < 0.01
    laws = run.laws()
    first = laws.loc[laws["update"] <= 1, "dentropy"].mean()
    assert rows[0]["own_effect_on_entropy"]["value"] == pytest.approx(first, rel=1e-3)
    assert any(table.title.startswith("measured weights: tokens that carry") for table in summary.tables)
    assert summary.verdict[0].startswith("measured weights: to first order the tokens' own gradients taken together")


@pytest.mark.slow
def test_the_command_reports_an_attached_run(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shutil.copytree(run.folder, tmp_path / "mine")
    assert main([str(folder)]) == 0
    assert capsys.readouterr().out.rstrip().endswith(f"figures  {folder / 'figures'} (5)")
    drawn = {path.stem for path in (folder / "figures").iterdir()}
    assert drawn == {"phase_plane", "boundaries", "positions", "weights", "gradient_tokens"}
    assert "### weights over training" in (folder / "summary.md").read_text(encoding="utf-8")


def test_without_rewards_signs_are_not_told_apart(tmp_path: Path) -> None:
    summary = summarize(attached(tmp_path / "mine", rewarded=False))
    assert [row[0] for row in summary.tables[0].rows] == ["all"]
    assert any("No rewards were given" in note for note in summary.notes)


@pytest.mark.slow
def test_one_run_of_an_experiment(experiment: Experiment, tmp_path: Path) -> None:
    folder = shutil.copytree(experiment.folder, tmp_path / "e") / "psr-seed0"
    summary = report(analysis.load_trace(folder))
    assert summary.name == "PSR"
    assert [row[0] for row in summary.tables[0].rows] == ["base", "PSR"]
    assert (folder / "summary.md").exists()
    assert {path.parent for path in summary.figures} == {folder / "figures"}


@pytest.mark.slow
def test_several_runs_are_compared(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    psr, nsr = (str(run.folder) for run in experiment.runs.values())
    assert main([psr, nsr, "--figures", str(tmp_path / "f"), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    rows = {row["method"]: row for row in data["tables"][0]["rows"]}
    assert rows["NSR − PSR"]["pass_at_1"]["value"] == pytest.approx(-0.1)
    assert str(tmp_path / "f" / "dynamics.png") in data["figures"]


@pytest.mark.slow
def test_runs_of_one_name_get_that_of_their_experiment(experiment: Experiment, tmp_path: Path) -> None:
    from analysis.report.sources import with_distinct_names

    other = shutil.copytree(experiment.folder, tmp_path / "other")
    runs = with_distinct_names([experiment.runs["psr-seed0"], Run(other / "psr-seed0")])
    assert [run.label for run in runs] == [f"PSR ({experiment.folder.name})", "PSR (other)"]
    summary = summarize(runs)
    difference = summary.tables[0].rows[-1]
    assert difference[0] == f"PSR (other) − PSR ({experiment.folder.name})"
    assert np.isclose(difference[3].value, 0.0)  # type: ignore[union-attr]
