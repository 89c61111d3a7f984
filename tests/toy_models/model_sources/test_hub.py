from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.toy_models.model_sources.fake_hub import FIRST, SECOND, FakeHub, cache_snapshot, fake_hub, hub_error
from tests.toy_models.model_sources.tiny_gguf import write_gguf
from tests.toy_models.random_models import random_model
from toy_models import LoraSettings, Policy, load_policy
from toy_models.model_sources import check_hub_model, ensure_hub_model, hub_commit, hub_folder, model_source
from toy_models.tasks.tokenizer import word_tokenizer

__all__ = ["fake_hub"]

REPO = "owner/name"
WORDS = ["<pad>", "$", *(f"w{i}" for i in range(27))]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return saved(tmp_path / "model")


def saved(folder: Path, seed: int = 0) -> Path:
    """A small model with its tokenizer in a folder."""
    Policy(random_model("llama", seed=seed), word_tokenizer(WORDS, pad="<pad>", eos="$")).save(folder)
    return folder


def test_a_name_is_a_folder_a_file_or_an_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert model_source("path").kind == "built-in"
    source = model_source("Qwen/Qwen2.5-0.5B")
    assert (source.kind, source.repo, source.file, source.revision) == ("hub", "Qwen/Qwen2.5-0.5B", None, "main")
    (tmp_path / "Qwen/Qwen2.5-0.5B").mkdir(parents=True)
    assert model_source("Qwen/Qwen2.5-0.5B").kind == "folder"
    assert model_source("owner/name:sub/model.Q4_1.gguf", "v2").file == "sub/model.Q4_1.gguf"
    for name in ("pth", "a/b/c", "./missing/folder", "/missing", "owner/missing.gguf", "owner/name:weights.bin"):
        with pytest.raises(
            ValueError, match=r"expected a built-in base, .* or the id of a model on the Hugging Face Hub"
        ):
            model_source(name)
    with pytest.raises(
        ValueError, match=r"a revision only with the id .*, got 'v2' with 'path'; leave the revision out"
    ):
        model_source("path", "v2")


def test_a_model_in_the_cache_needs_no_network(fake_hub: FakeHub, model: Path) -> None:
    fake_hub.failure = hub_error("OfflineModeIsEnabled")
    folder = cache_snapshot(fake_hub.cache, REPO, FIRST, model)
    source = model_source(REPO)
    assert (hub_commit(source), hub_folder(source), ensure_hub_model(source)) == (FIRST, folder, folder)
    check_hub_model(source)
    policy = load_policy(REPO)
    assert torch.equal(policy.model.lm_head.weight, load_policy(model).model.lm_head.weight)
    assert fake_hub.downloads == []


def test_revisions_are_apart(fake_hub: FakeHub, model: Path, tmp_path: Path) -> None:
    cache_snapshot(fake_hub.cache, REPO, FIRST, model)
    other = saved(tmp_path / "other", seed=1)
    cache_snapshot(fake_hub.cache, REPO, SECOND, other, "v2")
    fake_hub.failure = hub_error("OfflineModeIsEnabled")
    for revision, folder in ((None, model), ("main", model), (FIRST, model), ("v2", other), (SECOND, other)):
        policy = load_policy(REPO, revision=revision)
        assert torch.equal(policy.model.lm_head.weight, load_policy(folder).model.lm_head.weight), revision


def test_a_model_that_is_missing_is_downloaded_once(fake_hub: FakeHub, model: Path) -> None:
    for extra in ("onnx/config.json", "pytorch_model.bin", "README.md", "original/consolidated.safetensors"):
        (model / extra).parent.mkdir(exist_ok=True)
        (model / extra).write_text("not needed")
    fake_hub.add(REPO, FIRST, model)
    source = model_source(REPO)
    assert hub_folder(source) is None
    check_hub_model(source)
    assert fake_hub.downloads == []
    reports: list[tuple[int, int]] = []
    folder = ensure_hub_model(source, progress=lambda done, total: reports.append((done, total)))
    assert reports[-1][0] == reports[-1][1] == sum(path.stat().st_size for path in folder.iterdir())
    assert {path.name for path in folder.iterdir()} == {path.name for path in model.glob("*.json")} | {
        "model.safetensors"
    }
    load_policy(REPO)
    assert fake_hub.downloads == [(REPO, FIRST)]


def test_a_branch_that_moves_stays_what_it_is_in_the_cache(fake_hub: FakeHub, model: Path, tmp_path: Path) -> None:
    fake_hub.add(REPO, FIRST, model)
    load_policy(REPO)
    fake_hub.add(REPO, SECOND, saved(tmp_path / "other", seed=1))
    assert hub_commit(model_source(REPO)) == FIRST
    load_policy(REPO)
    load_policy(REPO, revision=SECOND)
    assert fake_hub.downloads == [(REPO, FIRST), (REPO, SECOND)]


def test_a_copy_that_is_not_whole_is_completed_at_its_commit(fake_hub: FakeHub, model: Path, tmp_path: Path) -> None:
    cache_snapshot(fake_hub.cache, REPO, FIRST, model, only=["config.json"])
    fake_hub.add(REPO, FIRST, model)
    fake_hub.add(REPO, SECOND, saved(tmp_path / "other", seed=1))
    assert ensure_hub_model(model_source(REPO)).name == FIRST
    assert fake_hub.downloads == [(REPO, FIRST)]


def test_shards_are_all_needed(fake_hub: FakeHub, tmp_path: Path) -> None:
    policy = Policy(random_model("llama"), word_tokenizer(WORDS, pad="<pad>", eos="$"))
    policy.model.save_pretrained(tmp_path / "sharded", max_shard_size="8kB")
    policy.tokenizer.save_pretrained(tmp_path / "sharded")
    folder = cache_snapshot(fake_hub.cache, REPO, FIRST, tmp_path / "sharded")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 1
    assert hub_folder(model_source(REPO)) == folder
    shards[0].unlink()
    assert hub_folder(model_source(REPO)) is None


def test_a_gguf_file_in_a_repository(fake_hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    model = write_gguf(tmp_path / "files/model.Q8_0.gguf")
    fake_hub.add(REPO, FIRST, tmp_path / "files")
    policy = load_policy(f"{REPO}:model.Q8_0.gguf")
    assert torch.equal(policy.model.get_input_embeddings().weight, model.get_input_embeddings().weight)
    fake_hub.failure = hub_error("OfflineModeIsEnabled")
    assert hub_folder(model_source(f"{REPO}:model.Q8_0.gguf")) is not None
    fake_hub.failure = None
    with pytest.raises(
        ValueError, match=r"expected a GGUF file of owner/name, got 'model.gguf', .*it has model.Q8_0.gguf"
    ):
        load_policy(f"{REPO}:model.gguf")
    with pytest.raises(
        ValueError, match=r"weights that torch reads .* name one of its GGUF files: owner/name:model.Q8_0"
    ):
        load_policy(REPO)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (hub_error("RepositoryNotFoundError", 401), r"no such folder, and no such model on the Hub, or it is private"),
        (
            hub_error("GatedRepoError", 403),
            r"gated; accept its conditions at https://huggingface.co/owner/name and log in",
        ),
        (hub_error("RevisionNotFoundError"), r"a branch, a tag or a commit of owner/name as the revision, got 'main'"),
        (hub_error("HfHubHTTPError", 401), r"for which the Hub wants a valid token; log in with: hf auth login"),
        (
            hub_error("HfHubHTTPError", 503),
            r"got neither \(HfHubHTTPError: 503 Client Error\).* hf download owner/name",
        ),
        (hub_error("LocalEntryNotFoundError"), r"got neither \(LocalEntryNotFoundError: no luck\)"),
        (
            hub_error("OfflineModeIsEnabled"),
            r"owner/name in the cache .*hf or a Hub .*\(HF_HUB_OFFLINE is set\).* unset",
        ),
        (
            ConnectionError("no route to host"),
            r"got neither \(ConnectionError: no route to host\).*connect to the network",
        ),
    ],
)
def test_a_model_that_the_hub_does_not_give(fake_hub: FakeHub, error: Exception, message: str) -> None:
    fake_hub.failure = error
    for attempt in (check_hub_model, ensure_hub_model, hub_commit):
        with pytest.raises(ValueError, match=message):
            attempt(model_source(REPO))
    with pytest.raises(ValueError, match=f"base: expected .*{message}"):
        load_policy(REPO)


def test_an_error_in_the_download_itself(fake_hub: FakeHub, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_hub.add(REPO, FIRST, model)

    def gated(*_: object, **__: object) -> str:
        raise hub_error("GatedRepoError", 403)

    monkeypatch.setattr("huggingface_hub.snapshot_download", gated)
    check_hub_model(model_source(REPO))  # the list of files of a gated model is public
    with pytest.raises(ValueError, match="which is gated"):
        load_policy(REPO)


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        ("model.safetensors", r"expected weights that torch reads .* in owner/name, got config.json, .*choose another"),
        ("config.json", r"expected a config.json in owner/name, got .*choose a causal language model"),
        ("tokenizer*", r"expected a tokenizer \(tokenizer.json or .*\) in owner/name, got config.json, "),
    ],
)
def test_repositories_that_lack_something(fake_hub: FakeHub, model: Path, removed: str, message: str) -> None:
    for path in model.glob(removed):
        path.unlink()
    fake_hub.add(REPO, FIRST, model)
    with pytest.raises(ValueError, match=message):
        check_hub_model(model_source(REPO))
    with pytest.raises(ValueError, match=message):
        load_policy(REPO)


def test_a_branch_that_moves_during_the_download(fake_hub: FakeHub, model: Path) -> None:
    fake_hub.add(REPO, FIRST, model)
    check_hub_model(model_source(REPO))
    fake_hub.add(REPO, SECOND, model)
    with pytest.raises(ValueError, match=f"expected the commit {FIRST} of owner/name, got {SECOND}: its revision main"):
        load_policy(REPO)


def test_an_adapter_on_the_hub_brings_its_base(fake_hub: FakeHub, model: Path, tmp_path: Path) -> None:
    policy = load_policy(model, lora=LoraSettings(2), seed=1)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            if parameter.requires_grad:
                parameter.fill_(0.1)
    policy.model.save_pretrained(tmp_path / "adapter")  # as it is published: no tokenizer, the base by its id
    settings = tmp_path / "adapter/adapter_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"base_model_name_or_path": REPO}))
    fake_hub.add(REPO, FIRST, model)
    fake_hub.add("owner/adapter", SECOND, tmp_path / "adapter")
    check_hub_model(model_source("owner/adapter"))
    again = load_policy("owner/adapter")
    ids = torch.tensor([[3, 4, 5]])
    assert torch.allclose(again.model(ids).logits, policy.model(ids).logits, atol=1e-5)
    assert again.tokenizer.get_vocab() == policy.tokenizer.get_vocab()
    assert fake_hub.downloads == [("owner/adapter", SECOND), (REPO, FIRST)]
    saved = load_policy(REPO, lora=LoraSettings(2))
    assert saved.adapter_base is not None
    assert (saved.adapter_base.base, saved.adapter_base.revision) == (REPO, FIRST)
