"""The task `dataset`: splits and columns of folders of `save_to_disk` and of the Hub, and what is said of bad ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from toy_models import EncodedTask
from toy_models.tasks.dataset_task import dataset_identity, dataset_rows, dataset_task
from toy_models.tasks.tokenizer import word_tokenizer
from toy_models.verifiers import get_verifier

datasets = pytest.importorskip("datasets", reason="datasets is not installed")

DIGITS = [str(n) for n in range(100)]


def rows(count: int, start: int = 0) -> list[dict[str, Any]]:
    """Rows in verl's layout: chat messages, and the answer inside of an object."""
    return [
        {
            "prompt": [{"role": "user", "content": f"{i} + {i} ="}],
            "question": f"{i} + {i} =",
            "reward_model": {"ground_truth": str(2 * i), "style": "rule"},
        }
        for i in range(start, start + count)
    ]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    parts = {"train": rows(20), "dev": rows(4, 30), "test": rows(5, 40)}
    made = datasets.DatasetDict({name: datasets.Dataset.from_list(part) for name, part in parts.items()})
    made.save_to_disk(str(tmp_path / "sums"))
    return tmp_path / "sums"


def encoded(source: Any, column: str = "question", answer: str = "reward_model.ground_truth") -> EncodedTask:
    tokenizer = word_tokenizer(["<pad>", "$", "+", "=", "user", ":", *DIGITS], pad="<pad>", eos="$")
    return EncodedTask(tokenizer, dataset_task(source, column, answer, get_verifier("exact")), 3)


def test_splits_of_the_same_name_and_held_out_ones(saved: Path) -> None:
    task = encoded(dataset_rows(str(saved)))
    sizes = {split: len(task.prompts(split)) for split in ("train", "validation", "test")}
    assert sizes == {"train": 18, "validation": 2, "test": 5}
    prompt = task.prompts("test")[1]
    assert (prompt.text, prompt.answer) == ("41 + 41 =", "82")
    assert task.verify(prompt.ids, task.tokenizer.encode("82 $")).correct
    assert not task.verify(prompt.ids, task.tokenizer.encode("81 $")).correct


def test_named_splits(saved: Path) -> None:
    splits = {"train": "train", "validation": "dev", "test": "test"}
    task = encoded(dataset_rows(str(saved), {}, splits))
    assert [prompt.text for prompt in task.prompts("validation")] == [row["question"] for row in rows(4, 30)]


def test_a_single_data_set_is_the_training_split(tmp_path: Path) -> None:
    datasets.Dataset.from_list(rows(20)).save_to_disk(str(tmp_path / "one"))
    task = encoded(dataset_rows(str(tmp_path / "one")))
    assert sum(len(task.prompts(split)) for split in ("train", "validation", "test")) == 20


def test_chat_messages(saved: Path) -> None:
    tokenizer = word_tokenizer(["<pad>", "$", "+", "=", "user", ":", *DIGITS], pad="<pad>", eos="$")
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}:"
    source = dataset_task(dataset_rows(str(saved)), "prompt", "reward_model.ground_truth", get_verifier("exact"))
    task = EncodedTask(tokenizer, source, 3, chat_template=True)
    assert task.prompts("test")[0].text == "user 40 + 40 = :"


def test_the_same_as_a_file_of_the_rows(saved: Path, tmp_path: Path) -> None:
    from toy_models import DataFiles, FileTask

    datasets.Dataset.from_list(rows(20)).to_parquet(str(tmp_path / "train.parquet"))
    task = encoded(dataset_rows(str(saved), {}, {"train": "train"}))
    files = DataFiles(tmp_path / "train.parquet", prompt_column="question", answer_column="reward_model.ground_truth")
    file_task = FileTask(task.tokenizer, files, get_verifier("exact"), 3)
    for split in ("train", "validation", "test"):
        assert list(task.prompts(split)) == list(file_task.prompts(split))


def test_identity_is_that_of_the_content(saved: Path, tmp_path: Path) -> None:
    before = dataset_identity(dataset_rows(str(saved)))
    assert dataset_identity(dataset_rows(str(saved))) == before
    parts = {"train": [*rows(19), *rows(1, 60)], "dev": rows(4, 30), "test": rows(5, 40)}  # one row is another
    other = datasets.DatasetDict({name: datasets.Dataset.from_list(part) for name, part in parts.items()})
    other.save_to_disk(str(tmp_path / "other"))
    assert dataset_identity(dataset_rows(str(tmp_path / "other"))) != before
    saved.rename(tmp_path / "elsewhere")
    assert dataset_identity(dataset_rows(str(tmp_path / "elsewhere"))) == before


class TestRefusals:
    def test_columns(self, saved: Path) -> None:
        with pytest.raises(
            ValueError,
            match=r"sums\[train\] row 1: no column 'problem'; it has prompt, question, reward_model.ground_t",
        ):
            dataset_task(dataset_rows(str(saved)), "problem", "reward_model.ground_truth", get_verifier("exact"))

    def test_splits(self, saved: Path, tmp_path: Path) -> None:
        with pytest.raises(
            ValueError, match=r"expected one of its splits dev, test, train, got 'tests' \(did you mean"
        ):
            dataset_rows(str(saved), {}, {"train": "train", "test": "tests"})
        datasets.DatasetDict({"all": datasets.Dataset.from_list(rows(2))}).save_to_disk(str(tmp_path / "all"))
        with pytest.raises(ValueError, match=r'expected a split for training, got all; name one with .*train = "all"'):
            dataset_rows(str(tmp_path / "all"))

    def test_folders(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"got .*absent, which does not exist"):
            dataset_rows(str(tmp_path / "absent"))
        (tmp_path / "rows.jsonl").write_text("{}")
        with pytest.raises(ValueError, match=r'which is a file; use task.name = "file"'):
            dataset_rows(str(tmp_path / "rows.jsonl"))
        with pytest.raises(ValueError, match=r"expected a folder of datasets.save_to_disk, got .* cannot be loaded"):
            dataset_rows(str(tmp_path))

    def test_configuration(self, saved: Path) -> None:
        with pytest.raises(ValueError, match="is a folder, which has no configuration or revision; leave them out"):
            dataset_rows(str(saved), {"name": "main"})
        with pytest.raises(ValueError, match=r"task.config.revison: expected name or revision \(did you mean revision"):
            dataset_rows("someone/sums", {"revison": "1"})

    @pytest.mark.parametrize(
        ("raised", "message"),
        [
            ("gated", "someone/sums: it is gated; ask for access .*hf auth login"),
            ("missing", "someone/sums: the Hub has none of that name, or it is private; check the name"),
            ("not_found", "someone/sums: the Hub has none of that name, or it is private; check the name"),
            ("revision", "someone/sums: it has no revision 'v9'; leave task.config.revision out"),
            ("offline", "someone/sums: it is not in the cache, and the Hub cannot be reached; download it once"),
            ("config", "someone/sums: ValueError: Config name is missing.*; set task.config.name"),
            ("other", r"someone/sums: it cannot be loaded \(KeyError: 'x'\)"),
        ],
    )
    def test_of_the_hub(self, monkeypatch: pytest.MonkeyPatch, raised: str, message: str) -> None:
        import httpx
        from huggingface_hub import errors

        response = httpx.Response(404, request=httpx.Request("GET", "https://example.test"))
        error = {
            "gated": errors.GatedRepoError("403", response=response),
            "missing": errors.RepositoryNotFoundError("404", response=response),
            "not_found": datasets.exceptions.DatasetNotFoundError("Dataset 'someone/sums' doesn't exist on the Hub"),
            "revision": errors.RevisionNotFoundError("404", response=response),
            "offline": ConnectionError("Couldn't reach 'someone/sums' on the Hub (OfflineModeIsEnabled)"),
            "config": ValueError("Config name is missing. Please pick one among the available configs: ['a', 'b']"),
            "other": KeyError("x"),
        }[raised]

        def load(path: str, **options: Any) -> Any:
            raise error

        monkeypatch.setattr(datasets, "load_dataset", load)
        with pytest.raises(ValueError, match=message):
            dataset_rows("someone/sums", {"revision": "v9"})

    def test_offline_for_real(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """What datasets itself raises for a name that is not in an empty cache, without a connection."""
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
        with pytest.raises(ValueError, match="someone/sums: it is not in the cache, and the Hub cannot be reached"):
            dataset_rows("someone/sums")

    def test_not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import sys

        monkeypatch.setitem(sys.modules, "datasets", None)
        with pytest.raises(
            ValueError, match='expected the package datasets for the task "dataset", got none; pip install'
        ):
            dataset_rows("someone/sums")


def test_a_name_on_the_hub_is_loaded_with_its_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load(path: str, **options: Any) -> Any:
        asked.append((path, options))
        return datasets.DatasetDict({"train": datasets.Dataset.from_list(rows(3))})

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert len(dataset_rows("openai/gsm8k", {"name": "main", "revision": "abc"})["train"]) == 3
    assert asked == [("openai/gsm8k", {"name": "main", "revision": "abc"})]
