from __future__ import annotations

import struct
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.toy_models.model_sources.tiny_gguf import END, TEMPLATE, random_llama, write_gguf
from toy_models import load_policy
from toy_models.model_sources import ensure_gguf, is_gguf, read_header


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RLVR_DYNAMICS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def same_weights(one: Any, other: Any) -> None:
    state, expected = one.state_dict(), other.state_dict()
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(state[name], value), name


def test_the_header_is_read_without_torch_and_without_gguf(tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf")
    assert is_gguf(tmp_path / "model.gguf")
    header = read_header(tmp_path / "model.gguf")
    assert header["general.architecture"] == "llama"
    assert header["llama.embedding_length"] == 32
    assert header["llama.attention.layer_norm_rms_epsilon"] == pytest.approx(1e-5)
    assert header["tokenizer.chat_template"] == TEMPLATE
    assert "tokenizer.ggml.tokens" not in header


def test_a_policy_from_a_gguf_file_has_the_weights_and_the_tokenizer_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    model = write_gguf(path)
    policy = load_policy(path)
    same_weights(policy.model, model)
    assert policy.model.config.tie_word_embeddings
    assert (policy.eos_id, policy.pad_id, policy.end_ids) == (2, 2, (2,))
    assert policy.tokenizer.eos_token == END
    assert policy.tokenizer.chat_template == TEMPLATE
    assert policy.tokenizer.decode(policy.tokenizer.encode("12+3=")) == "12+3="
    prompt = [policy.tokenizer.encode("ab")]
    ours, _ = policy.log_probs(prompt, [[5, 6]])
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt[0], 5, 6]])).logits[0, 1:3].log_softmax(-1)
    assert torch.allclose(ours[0], logits[[0, 1], [5, 6]], atol=1e-6)


@pytest.mark.parametrize("kind", ["F16", "Q8_0", "Q4_1"])
def test_quantised_weights_become_the_numbers_that_their_blocks_stand_for(kind: str, tmp_path: Path) -> None:
    import gguf

    path = tmp_path / f"{kind}.gguf"
    write_gguf(path, kind=kind)
    policy = load_policy(path, dtype=torch.float64)
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}["token_embd.weight"]
    expected = torch.from_numpy(gguf.quants.dequantize(stored.data, stored.tensor_type).copy())
    assert torch.equal(policy.model.get_input_embeddings().weight, expected.double())


def test_such_a_policy_is_saved_and_loaded_again_with_the_same_weights(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(path, kind="Q4_1")
    policy = load_policy(path)
    policy.save(tmp_path / "saved")
    again = load_policy(tmp_path / "saved")
    same_weights(again.model, policy.model)
    assert again.end_ids == policy.end_ids
    assert again.tokenizer.chat_template == TEMPLATE
    assert again.tokenizer.get_vocab() == policy.tokenizer.get_vocab()


def test_a_file_is_dequantised_once(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(path)
    folder = ensure_gguf(path)
    assert folder.parent == cache / "gguf"
    copy = tmp_path / "other name.gguf"
    copy.write_bytes(path.read_bytes())
    monkeypatch.setattr("toy_models.model_sources.gguf_cache._dequantise", None)
    assert ensure_gguf(copy) == folder
    write_gguf(copy, random_llama(seed=1))
    with pytest.raises(TypeError):  # other weights are read
        ensure_gguf(copy)
    assert [path.name for path in folder.parent.iterdir() if path.is_dir()] == [folder.name]


def test_an_architecture_that_transformers_does_not_read(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(path, architecture="mpt")
    with pytest.raises(
        ValueError,
        match=r"base: cannot read the GGUF file .*'mpt', with transformers .*choose a model of an architecture",
    ):
        load_policy(path)
    assert not [path for path in (cache / "gguf").iterdir() if path.is_dir()]


def test_a_file_that_is_not_gguf(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"PK\x03\x04 and so on")
    assert not is_gguf(tmp_path / "model.gguf")
    with pytest.raises(ValueError, match=r"base: expected a GGUF file, got .*does not begin with the letters GGUF"):
        load_policy(tmp_path / "model.gguf")


def test_files_of_another_version_and_damaged_ones(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 1, 0, 0))
    with pytest.raises(ValueError, match=r"of version 2 or 3, got version 1 in .*convert"):
        read_header(path)
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 0))
    with pytest.raises(ValueError, match=r"expected general\.architecture in the header"):
        read_header(path)
    write_gguf(path)
    whole = path.read_bytes()
    for length in (6, 40, 900):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"expected a whole GGUF file, got .*download it again"):
            read_header(path)
    path.write_bytes(whole[: len(whole) // 2])  # the tensors break off
    with pytest.raises(ValueError, match=r"cannot read the GGUF file"):
        ensure_gguf(path)


def test_the_package_gguf_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_gguf(tmp_path / "model.gguf")
    version = metadata.version

    def without(name: str) -> str:
        if name == "gguf":
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr("toy_models.model_sources.gguf_cache.version", without)
    with pytest.raises(ValueError, match=r"expected the package gguf, .*pip install 'rlvr-dynamics\[gguf\]'"):
        load_policy(tmp_path / "model.gguf")


def test_reading_a_header_loads_no_torch(tmp_path: Path) -> None:
    import subprocess

    write_gguf(tmp_path / "model.gguf")
    program = (
        "import sys; from pathlib import Path; from toy_models.model_sources import read_header; "
        "read_header(Path(sys.argv[1])); assert not {'torch', 'gguf', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "model.gguf")], check=True)
