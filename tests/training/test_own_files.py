"""Recipes with files of prompts and answers: paths, identity by content, refusals, and a run that stops and goes on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from analysis import UsageError
from analysis.experiments import run
from analysis.experiments.experiment import default_folder
from analysis.recipes import Recipe
from analysis.recipes.inputs import input_digests
from analysis.records import digest, load_trace
from analysis.records.folders import read_experiment, read_run_json
from analysis.trace import main
from analysis.training import train
from analysis.training.setup import load_policy_and_task
from toy_models import ensure_base, get_task

ROOT = Path(__file__).parents[2]
TOML = """
schema = 1
steps = 4
[policy]
base = "base"
[task]
name = "file"
train_file = "data/train.jsonl"
train_prompts = 64
verifier = "rewards.py:score"
[rollout]
prompts = 16
group_size = 4
max_new_tokens = 9
[optimizer]
lr = 1e-3
[eval]
every = 2
prompts = 16
final_prompts = 24
[record]
chunk = 2
contexts = 16
"""
REWARDS = """
from toy_models import get_task
TASK = get_task("path-small")
def score(prompt, response, answer):
    return TASK.verify(TASK.tokenizer.encode(prompt), [*TASK.tokenizer.encode(response), 1])
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with a recipe of its own: 256 prompts of the small path task, a base, a verifier that knows the task."""
    task = get_task("path-small")
    (tmp_path / "data").mkdir()
    lines = [json.dumps({"prompt": p.text, "answer": "any path"}) for p in task.prompts("train")]
    (tmp_path / "data" / "train.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "rewards.py").write_text(REWARDS)
    (tmp_path / "mine.toml").write_text(TOML)
    (tmp_path / "base").mkdir()
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / "base" / name).write_text("{}")
    return tmp_path


def recipe(home: Path, **settings: Any) -> Recipe:
    return Recipe.load(home / "mine.toml").set(**settings)


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


class TestPaths:
    def test_in_a_recipe_file_are_relative_to_it(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (home / "elsewhere").mkdir()
        monkeypatch.chdir(home / "elsewhere")
        config = Recipe.load("../mine.toml").expand()[0].config
        assert config.task.train_file == str(home / "data" / "train.jsonl")
        assert config.task.verifier == f"{home / 'rewards.py'}:score"
        assert config.policy.base == str(home / "base")

    def test_in_settings_are_relative_to_the_current_folder(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        shutil.copy(home / "data" / "train.jsonl", home / "other.jsonl")
        monkeypatch.chdir(home)
        for changed in (
            recipe(home, **{"task.train_file": "other.jsonl"}),
            recipe(home).override("task.train_file=other.jsonl"),
        ):
            assert changed.expand()[0].config.task.train_file == str(home / "other.jsonl")
        varied = recipe(home, **{"grid.task.train_file": ["other.jsonl", "data/train.jsonl"]})
        assert [Path(str(one.config.task.train_file)).parent for one in varied.expand()] == [home, home / "data"]

    @pytest.mark.parametrize("value", ["exact", "math", "package.module:score"])
    def test_names_that_are_no_paths_stay(self, home: Path, value: str) -> None:
        assert recipe(home, **{"task.verifier": value}).expand()[0].config.task.verifier == value

    def test_a_base_that_is_no_folder_stays_a_name(self, home: Path) -> None:
        with pytest.raises(UsageError, match=r"got 'pathh', which is not a folder \(did you mean path\b"):
            run(recipe(home, **{"policy.base": "pathh"}), quiet=True)


class TestIdentity:
    def test_is_the_content_wherever_it_lies(self, home: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
        moved = tmp_path_factory.mktemp("moved") / "home"
        shutil.copytree(home, moved)
        base = {"policy.base": str(home / "base")}
        assert recipe(home).hash == recipe(moved, **base).hash
        append(moved / "data" / "train.jsonl", '{"prompt": "1 7 2 3 :", "answer": "x"}\n')
        assert recipe(home).hash != recipe(moved, **base).hash

    def test_covers_the_source_and_the_name_of_the_verifier(self, home: Path) -> None:
        first = recipe(home).hash
        append(home / "rewards.py", "other = score\n")
        second = recipe(home).hash
        third = recipe(home, **{"task.verifier": f"{home / 'rewards.py'}:other"}).hash
        assert len({first, second, third}) == 3

    def test_covers_the_files_beside_the_verifier_that_it_imports(self, home: Path) -> None:
        alone = recipe(home).hash
        (home / "helper.py").write_text("VALUE = 1\n")
        assert recipe(home).hash == alone
        append(home / "rewards.py", "import helper\n")
        first = recipe(home).hash
        append(home / "helper.py", "VALUE = 2\n")
        assert len({alone, first, recipe(home).hash}) == 3
        assert "task.verifier helper.py" in input_digests(recipe(home).expand()[0].config)

    def test_a_missing_file(self, home: Path) -> None:
        with pytest.raises(UsageError, match=r"task.test_file: .*no.jsonl cannot be read: No such file"):
            _ = recipe(home, **{"task.test_file": "no.jsonl"}).hash

    def test_changed_data_is_noticed(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.syspath_prepend(ROOT)
        out = home / "out"
        run(recipe(home), out=out, quiet=True, train="tests.experiments.fake_training:complete")
        data = home / "data" / "train.jsonl"
        model = {str(home / "base" / name) for name in ("config.json", "tokenizer.json")}
        assert set(read_experiment(out)["inputs"]) == {str(data), str(home / "rewards.py"), *model}
        append(data, '{"prompt": "1 7 2 3 :", "answer": "x"}\n')
        for options in ({}, {"resume": True}):
            with pytest.raises(UsageError, match=r"other contents of .*train.jsonl; restore them"):
                run(recipe(home), out=out, quiet=True, train="tests.experiments.fake_training:complete", **options)

    def test_resuming_from_a_shell_elsewhere_names_what_changed(
        self, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.syspath_prepend(ROOT)
        run(recipe(home), out=home / "out", quiet=True, train="tests.experiments.fake_training:complete")
        (home / "elsewhere").mkdir()
        monkeypatch.chdir(home / "elsewhere")
        assert main(["--resume", str(home / "out"), "--dry-run"]) == 0
        assert "(complete)" in capsys.readouterr().out
        append(home / "rewards.py", "# changed\n")
        assert main(["--resume", str(home / "out"), "--dry-run"]) == 2
        assert "of other contents of" in capsys.readouterr().err


class TestRefusals:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"task.train_file": "unset"}, r'task.name = "file" without task.train_file'),
            ({"rollout.max_new_tokens": "unset"}, r'task.name = "file" without rollout.max_new_tokens'),
            ({"eval.samples": 0}, r"with eval.samples = 0: its correct responses cannot be listed"),
            ({"update.estimator": "exact"}, r'with update.estimator = "exact": its correct responses cannot be listed'),
            ({"record.noise_every": 2}, r"with record.noise_every = 2: gradient noise is measured around the exact"),
            ({"task.verifier": "exakt"}, r"task.verifier: expected exact, math, file.py:function or"),
            ({"task.name": "path", "policy.base": "path"}, r"task.train_file, task.verifier with task.name = "),
            ({"policy.base": "path"}, r'task.name = "file": that base was made for "path"'),
            ({"task.name": "given"}, r'task.train_file, task.verifier with task.name = "given"'),
            ({"task.digest": "0"}, r'with task.digest = "0": "given" stands for a task object; pass it with analysis'),
            ({"policy.base": "given"}, r"stands for a policy object; pass it"),
            ({"policy.digest": "0"}, r'policy.digest = "0": "given" stands for a policy object'),
        ],
    )
    def test_combinations(self, home: Path, settings: dict[str, Any], message: str) -> None:
        with pytest.raises(UsageError, match=message):
            recipe(home, **settings)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"task.prompt_column": "question"}, r"train.jsonl line 1: no column 'question'; it has prompt, answer"),
            ({"task.verifier": "textwrap:dedent"}, r"expected a signature such as f\(prompt, response, answer\); f\(p"),
            ({"task.verifier": "rewards.py:scored"}, r"expected one of get_task, score, got 'scored'"),
            (
                {"task.verifier": "no_such_module:score"},
                r"expected a module that can be imported, got 'no_such_module'",
            ),
        ],
    )
    def test_before_anything_is_started(
        self, home: Path, settings: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(home)
        with pytest.raises(UsageError, match=message):
            run(recipe(home, **settings), out=home / "out", quiet=True)
        assert not (home / "out").exists()
        changes = [f"--set={field}={value}" for field, value in settings.items()]
        assert main(["--run", str(home / "mine.toml"), *changes, "--dry-run"]) == 2


class TestRun:
    @pytest.fixture
    def trained(self, home: Path) -> Path:
        shutil.rmtree(home / "base")
        shutil.copytree(ensure_base("tiny"), home / "base")
        return home

    def go(self, recipe: Recipe, folder: Path, **options: Any) -> str:
        (one,) = recipe.expand()
        return train(one.config, folder / one.run_id, run_id=one.run_id, label=one.label, **options)

    @pytest.mark.slow
    def test_stops_goes_on_and_records_what_it_read(self, trained: Path) -> None:
        mine = recipe(trained)
        assert self.go(mine, trained / "whole") == "complete"
        asked = iter([False, True])
        assert self.go(mine, trained / "parts", should_stop=lambda: next(asked)) == "interrupted"
        assert self.go(mine, trained / "parts", resume=True) == "complete"
        whole, parts = (trained / name / "reinforce-seed0" for name in ("whole", "parts"))
        assert digest(whole) == digest(parts)

        info = read_run_json(whole)
        assert info["task"] == "file"
        assert info["inputs"]["task.train_file"]["path"] == str(trained / "data" / "train.jsonl")
        assert info["verifier"] == {
            "name": f"{trained / 'rewards.py'}:score",
            "sha256": info["inputs"]["task.verifier"]["sha256"],
        }
        one = load_trace(whole)
        evals = one.table("evals")
        assert evals["p"].isna().all()
        assert evals["effective_solutions"].isna().all()
        assert one.table("prompts")["n_solutions"].isna().all()
        at_first = evals[evals["temperature"] == 1.0]
        assert (at_first["n"] == 4).all()
        assert 0 < at_first["c"].sum() < 4 * len(at_first)
        assert evals.groupby("split")["prompt_id"].nunique().to_dict() == {"test": 24, "validation": 16}

        append(trained / "data" / "train.jsonl", '{"prompt": "1 7 2 3 :", "answer": "x"}\n')
        with pytest.raises(UsageError, match="a run can only be resumed with what it was started with"):
            self.go(mine, trained / "parts", resume=True)

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"rollout.max_new_tokens": 61}, r"model's 64 positions, got .* of 5 tokens and responses of up to 61"),
            (
                {"task.train_prompts": 300},
                r"task.train_prompts: expected at most 206, the number of train prompts of task file, got 300",
            ),
            (
                {"eval.prompts": 26},
                r"eval.prompts: expected at most 25, the number of validation prompts of task file, got 26",
            ),
            ({"task.chat_template": True}, r"chat_template: expected a tokenizer with a chat template"),
        ],
    )
    def test_what_the_loop_refuses(self, trained: Path, settings: dict[str, Any], message: str) -> None:
        with pytest.raises(UsageError, match=message):
            self.go(recipe(trained, **settings), trained / "out")

    @pytest.mark.slow
    def test_each_field_reaches_the_task(self, trained: Path) -> None:
        tokenizer = AutoTokenizer.from_pretrained(trained / "base")
        tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %} :"
        tokenizer.save_pretrained(trained / "base")
        texts = [p.text for p in get_task("path-small").prompts("train")]
        for i, split in enumerate(("train", "validation", "test")):
            rows = [{"q": text, "a": {"b": f"{split} {n}"}} for n, text in enumerate(texts[70 * i : 70 * (i + 1)])]
            (trained / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        files = {f"task.{split}_file": str(trained / f"{split}.jsonl") for split in ("train", "validation", "test")}
        mine = recipe(
            trained,
            **files,
            **{
                "task.prompt_column": "q",
                "task.answer_column": "a.b",
                "task.chat_template": True,
                "task.verifier": "exact",
            },
        )
        _, task = load_policy_and_task(mine.expand()[0].config, torch.device("cpu"))
        for i, split in enumerate(("train", "validation", "test")):
            prompts = task.prompts(split)
            assert [(p.text, p.answer) for p in prompts] == [
                (f"{text} :", f"{split} {n}") for n, text in enumerate(texts[70 * i : 70 * (i + 1)])
            ]
        assert task.verify(prompts[0].ids, [1]).reason == "wrong answer"
        assert task.max_new_tokens == 9

    @pytest.mark.slow
    def test_a_prompt_may_be_as_long_as_the_model_allows(self, trained: Path) -> None:
        mine = recipe(trained, **{"rollout.max_new_tokens": 60, "steps": 0, "record.contexts": 0})
        assert self.go(mine, trained / "out") == "complete"

    @pytest.mark.slow
    def test_a_verifier_that_fails_names_the_prompt(self, trained: Path) -> None:
        (trained / "rewards.py").write_text("def score(prompt, response, answer): raise KeyError(answer)\n")
        with pytest.raises(RuntimeError, match=r"failed with KeyError: 'any path'; prompt '\d+ \d+ \d+ \d+ :', "):
            self.go(recipe(trained), trained / "out")


def test_default_folder_follows_the_content(home: Path) -> None:
    before = default_folder(recipe(home))
    append(home / "data" / "train.jsonl", '{"prompt": "1 7 2 3 :", "answer": "x"}\n')
    assert default_folder(recipe(home)) != before
