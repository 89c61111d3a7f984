"""Whatever can change a number of an experiment belongs to its hash, or is compared and refused with its name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from analysis import UsageError
from analysis.common import identity, provenance
from analysis.experiments import experiment
from analysis.experiments.experiment import explain_changed_inputs, folder_state
from analysis.recipes import Recipe
from analysis.recipes.inputs import input_digests
from analysis.records.folders import read_experiment, write_experiment

MODEL = {
    "config.json": "{}",
    "generation_config.json": "{}",
    "tokenizer.json": "{}",
    "tokenizer_config.json": "{}",
    "chat_template.jinja": "a",
    "additional_chat_templates/tool_use.jinja": "b",
    "model.safetensors": "weights",
    "README.md": "read me",
    "optimizer.pt": "moments",
    "trainer_state.json": "{}",
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for name, text in MODEL.items():
        path = tmp_path / "base" / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(text)
    rows = "".join(json.dumps({"prompt": f"{i} :", "answer": "1"}) + "\n" for i in range(100))
    (tmp_path / "train.jsonl").write_text(rows)
    (tmp_path / "score.py").write_text("from rules import f\ndef score(prompt, response, answer):\n    return True\n")
    (tmp_path / "rules.py").write_text("f = 1\n")
    return tmp_path


def recipe(home: Path, **settings: Any) -> Recipe:
    files = {
        "policy.base": str(home / "base"),
        "task.name": "file",
        "task.train_file": str(home / "train.jsonl"),
        "task.verifier": f"{home / 'score.py'}:score",
        "rollout.max_new_tokens": 4,
        "eval.samples": 2,
    }
    return Recipe.load("tiny").set(**(files | settings))


def started(folder: Path, made: Recipe) -> Path:
    """The folder of an experiment whose runs are yet to be trained."""
    runs = [{"run_id": run.run_id, "label": run.label, "seed": run.config.seed} for run in made.expand()]
    files = [found for run in made.expand() for found in input_digests(run.config).values()]
    write_experiment(
        folder,
        name=made.name,
        recipe=made.to_dict(),
        hash=made.hash,
        runs=runs,
        versions=provenance.versions() | {"code that trains": experiment._made_with()["code that trains"]},
        inputs={found["path"]: found["sha256"] for found in files},
    )
    return folder


def edit(name: str) -> Callable[[Path], None]:
    return lambda home: (home / name).write_text((home / name).read_text() + " ")


@pytest.mark.parametrize(
    "name",
    [
        *(f"base/{name}" for name in MODEL if name not in ("README.md", "optimizer.pt", "trainer_state.json")),
        "train.jsonl",
        "score.py",
        "rules.py",
    ],
)
def test_files_belong_to_the_hash_and_are_named(home: Path, name: str) -> None:
    made = recipe(home)
    folder = started(home / "out", made)
    assert folder_state(folder, made) == "unfinished"
    before = made.hash
    edit(name)(home)
    assert recipe(home).hash != before
    with pytest.raises(UsageError, match=rf"holds an experiment of other contents of .*{name}"):
        folder_state(folder, recipe(home))
    with pytest.raises(UsageError, match=rf"other contents of .*{name}"):  # with --resume
        explain_changed_inputs(folder, read_experiment(folder))


@pytest.mark.parametrize("name", ["base/README.md", "base/optimizer.pt", "base/trainer_state.json"])
def test_what_no_run_reads_does_not(home: Path, name: str) -> None:
    before = recipe(home).hash
    edit(name)(home)
    assert recipe(home).hash == before


def test_a_model_counts_by_its_content_wherever_it_lies(home: Path) -> None:
    import shutil

    shutil.copytree(home / "base", home / "copy")
    assert recipe(home).hash == recipe(home, **{"policy.base": str(home / "copy")}).hash


@pytest.mark.parametrize("library", ["torch", "transformers", "tokenizers", "numpy"])
def test_versions_are_compared(home: Path, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = recipe(home)
    folder = started(home / "out", made)
    found = provenance.versions() | {library: "0.1"}
    monkeypatch.setattr(identity, "versions", lambda: found)
    with pytest.raises(
        UsageError, match=rf"what differs: version of {library} \(.* then, 0.1 now\)\. Show it as it is"
    ):
        folder_state(folder, made)


def test_the_code_is_compared(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = recipe(home)
    folder = started(home / "out", made)
    monkeypatch.setattr(experiment, "code_of", lambda *places: "other")
    with pytest.raises(UsageError, match=r"what differs: code that trains\. Show it as it is"):
        folder_state(folder, made)


def test_the_code_is_that_of_every_package_that_a_run_loads() -> None:
    """Packages that only read records, draw or talk to people are not part of it."""
    not_measured = {"analysis/common", "analysis/recipes", "analysis/records"}  # read in part, or in the hash as data
    root = Path(experiment.__file__).parents[2]
    below = {"training", "probes", "token_stats", "records", "recipes", "gradient_noise", "laws", "objectives"}
    imported = {f"analysis/{name}" for name in below | {"common", "evaluation"}} - not_measured
    assert imported <= set(experiment._CODE)
    assert all((root / place).exists() for place in experiment._CODE)
