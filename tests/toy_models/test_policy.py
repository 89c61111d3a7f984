from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from tests.toy_models.random_models import random_model
from toy_models import Policy, get_task, load_policy
from toy_models.tasks.tokenizer import word_tokenizer

WORDS = ["<pad>", "$", *(f"w{i}" for i in range(27))]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random_model("llama").save_pretrained(tmp_path)
    word_tokenizer(WORDS, pad="<pad>", eos="$").save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("kind", ["qwen3", "llama", "gpt2"])
def test_any_local_model_takes_the_place_of_a_base(kind: str, tmp_path: Path) -> None:
    random_model(kind).save_pretrained(tmp_path)
    word_tokenizer(WORDS, pad="<pad>", eos="$").save_pretrained(tmp_path)
    policy = load_policy(str(tmp_path), dtype=torch.float64)
    assert policy.model.dtype == torch.float64
    assert not policy.model.training
    assert (policy.eos_id, policy.pad_id) == (1, 0)
    assert policy.tokenizer.encode("w3 $") == [5, 1]
    log_probs, mask = policy.log_probs([[5, 6], [7]], [[8, 1], [9]])
    assert log_probs.shape == mask.shape == (2, 2)
    assert (log_probs[mask] < 0).all()


@pytest.mark.slow
def test_built_in_base_speaks_the_words_of_its_task(tiny: Policy) -> None:
    task = get_task("path-small")
    assert tiny.tokenizer.get_vocab() == task.tokenizer.get_vocab()
    assert tiny.pad_id == task.tokenizer.pad_token_id
    prompt = task.prompts("test")[0]
    assert tuple(tiny.tokenizer.encode(prompt.text)) == prompt.ids
    assert tiny.tokenizer.decode(prompt.ids) == prompt.text
    same = get_task("path-small", tiny.tokenizer)
    assert [p.ids for p in same.prompts("test")] == [p.ids for p in task.prompts("test")]


def test_padding_falls_back_to_the_end_token(folder: Path) -> None:
    policy = load_policy(folder)
    policy.tokenizer.pad_token = None
    assert policy.pad_id == policy.eos_id == 1


def test_a_policy_that_cannot_be_saved(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    policy = load_policy(folder)
    monkeypatch.setattr(policy.model, "save_pretrained", refuse)
    with pytest.raises(OSError, match=rf"cannot save the policy in {tmp_path}/full: .*No space left"):
        policy.save(tmp_path / "full")


def test_neither_base_nor_folder() -> None:
    match = r"base: expected a built-in base, a folder .*got 'tny', which is not a folder \(did you mean tiny"
    with pytest.raises(ValueError, match=match):
        load_policy("tny")


def test_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"base: expected a config.json in .*, got none; write it with model.save_pretrained"
    ):
        load_policy(tmp_path)


def test_folder_without_a_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(
        ValueError, match=r"base: expected a tokenizer \(tokenizer.json\) in .*tokenizer.save_pretrained"
    ):
        load_policy(folder)


def test_corrupt_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match="base: cannot load the tokenizer in"):
        load_policy(folder)


@pytest.mark.parametrize("content", [b"", b"not tensors at all"])
def test_corrupt_weights(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="base: cannot load the model in"):
        load_policy(folder)


def test_missing_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="base: cannot load the model in"):
        load_policy(folder)


def test_weights_of_another_shape(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    random_model("llama", vocab=31).save_pretrained(other)
    shutil.copy(other / "model.safetensors", folder / "model.safetensors")
    with pytest.raises(ValueError, match="base: cannot load the model in"):
        load_policy(folder)


def test_tokenizer_larger_than_the_embedding(folder: Path) -> None:
    word_tokenizer([*WORDS, "extra"], pad="<pad>", eos="$").save_pretrained(folder)
    with pytest.raises(ValueError, match=r"expected at most 29 tokens, .* got a tokenizer of 30"):
        load_policy(folder)


def test_no_end_token(folder: Path) -> None:
    tokenizer = word_tokenizer(WORDS, pad="<pad>", eos="$")
    tokenizer.eos_token = None
    tokenizer.save_pretrained(folder)
    with pytest.raises(ValueError, match="expected a tokenizer with an end token"):
        load_policy(folder)
