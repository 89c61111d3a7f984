"""Models of the Hugging Face Hub, in the cache of huggingface_hub: found there, or downloaded first.

A model whose revision is in the cache is used as it lies there, and nothing is asked of the network; `hf download
owner/name` brings a newer commit of a branch. What is missing is downloaded: configuration, tokenizer, and the weights
in one format. The commit is what identifies a model. Loads no torch.
"""

from __future__ import annotations

import functools
import io
import json
import re
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from .source import TOKENIZER_FILES, ModelSource

__all__ = ["Download", "check_hub_model", "ensure_hub_model", "hub_commit", "hub_folder"]

# (bytes so far, bytes in all)
Download = Callable[[int, int], None]

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SETTINGS = ("*.json", "*.jinja", "*.model", "*.tiktoken", "*.txt", "additional_chat_templates/*.jinja")
# The first of these kinds of weights that a repository has is what transformers loads.
_WEIGHTS = (
    ("model.safetensors", "model.safetensors.index.json", "model-*.safetensors"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*.bin"),
    ("adapter_model.safetensors",),
    ("adapter_model.bin",),
)
_CONFIGS = ("config.json", "adapter_config.json")
_LISTED = 8  # files in a message


def hub_commit(source: ModelSource) -> str:
    """The commit of a model on the Hub: that of the cache, or else of the Hub itself.

    Raises:
        ValueError: The Hub does not have it or does not show it, or it cannot be reached.
    """
    return _cached_commit(source) or _asked(source)[0]


def hub_folder(source: ModelSource) -> Path | None:
    """The folder in the cache that holds a model of the Hub; for a GGUF file the file. None where it is not whole."""
    commit = _cached_commit(source)
    if commit is None:
        return None
    folder = _repository(source) / "snapshots" / commit
    if source.file is not None:
        return folder / source.file if (folder / source.file).is_file() else None
    return folder if _is_whole(folder) else None


def check_hub_model(source: ModelSource) -> None:
    """Refuse a model that `ensure_hub_model` could not bring, as far as the cache or the list of its files tells.

    Raises:
        ValueError: See `ensure_hub_model`.
    """
    if hub_folder(source) is None:
        _wanted(source, _asked(source)[1])


def ensure_hub_model(source: ModelSource, *, progress: Download | None = None) -> Path:
    """The folder with a model of the Hub, or its GGUF file, which is downloaded first if it is not in the cache.

    Args:
        source: The model.
        progress: Called with the bytes so far and in all while it is downloaded; the bars of huggingface_hub are shown
            where it is None.

    Returns:
        Its folder in the cache of huggingface_hub, or the path of its GGUF file there.

    Raises:
        ValueError: There is no such model, revision or file, it is gated or private, it has no weights that torch
            reads or no tokenizer, or it is not in the cache and the Hub cannot be reached.
    """
    cached = hub_folder(source)
    if cached is not None:
        return cached
    from huggingface_hub import snapshot_download

    commit, files = _asked(source)
    bars: dict[str, Any] = {} if progress is None else {"tqdm_class": _reporting_bar(progress)}
    # A revision that the cache has stays what it is there; any other is noted there by the download.
    revision = _cached_commit(source) or source.revision
    try:
        folder = snapshot_download(
            source.repo, revision=revision, allow_patterns=_wanted(source, files), cache_dir=_cache(), **bars
        )
    except Exception as error:
        raise ValueError(_refusal(source, error)) from error
    if Path(folder).name != commit:
        raise ValueError(
            f"expected the commit {commit} of {source.repo}, got {Path(folder).name}: its revision {source.revision} "
            "moved during the download; start again"
        )
    ensured = hub_folder(source)
    if ensured is None:
        raise ValueError(
            f"expected a whole model in {folder} after the download of {source.repo}, got only part of it; download it "
            f"with: hf download {source.repo}"
        )
    return ensured


def _cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _repository(source: ModelSource) -> Path:
    return _cache() / f"models--{source.repo.replace('/', '--')}"


def _cached_commit(source: ModelSource) -> str | None:
    if _COMMIT.fullmatch(source.revision):
        return source.revision
    try:
        return (_repository(source) / "refs" / source.revision).read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def _is_whole(folder: Path) -> bool:
    """Whether a snapshot holds a configuration, a tokenizer where it needs one, and all files of its weights."""
    try:
        names = {path.name for path in folder.iterdir() if path.exists()}  # a link may lead nowhere
    except OSError:
        return False
    has_tokenizer = "adapter_config.json" in names or not names.isdisjoint(TOKENIZER_FILES)
    if names.isdisjoint(_CONFIGS) or not has_tokenizer:
        return False
    for kind in _WEIGHTS:
        if kind[0] in names:
            return True
        if len(kind) > 1 and kind[1] in names:
            shards = json.loads((folder / kind[1]).read_text(encoding="utf-8"))["weight_map"].values()
            return names >= set(shards)
    return False


def _asked(source: ModelSource) -> tuple[str, tuple[str, ...]]:
    """Commit and names of the files of a model, asked of the Hub once in a process."""
    try:
        return _ask(source.repo, _cached_commit(source) or source.revision)
    except Exception as error:
        raise ValueError(_refusal(source, error)) from error


@functools.lru_cache(64)
def _ask(repo: str, revision: str) -> tuple[str, tuple[str, ...]]:
    from huggingface_hub import HfApi

    info = HfApi().model_info(repo, revision=revision)
    return str(info.sha), tuple(file.rfilename for file in info.siblings or ())


def _wanted(source: ModelSource, files: Sequence[str]) -> list[str]:
    """The files of a repository that are needed; ValueError where it lacks some of them."""
    if source.file is not None:
        if source.file not in files:
            raise ValueError(
                f"expected a GGUF file of {source.repo}, got {source.file!r}, which is not there; it has "
                f"{_listed(file for file in files if file.endswith('.gguf'))}"
            )
        return [source.file]
    weights = next((found for kind in _WEIGHTS if (found := _matching(files, kind))), None)
    if weights is None:
        packed = [file for file in files if file.endswith(".gguf")]
        way_out = f"name one of its GGUF files: {source.repo}:{packed[0]}" if packed else "choose another model"
        raise ValueError(
            f"expected weights that torch reads (model.safetensors or pytorch_model.bin) in {source.repo}, got "
            f"{_listed(files)}; {way_out}"
        )
    if not _matching(files, _CONFIGS):
        raise ValueError(
            f"expected a config.json in {source.repo}, got {_listed(files)}; choose a causal language model"
        )
    if "adapter_config.json" not in files and not _matching(files, TOKENIZER_FILES):
        raise ValueError(
            f"expected a tokenizer ({' or '.join(TOKENIZER_FILES)}) in {source.repo}, got {_listed(files)}; download "
            "the model into a folder and save its tokenizer there"
        )
    return [*_matching(files, _SETTINGS), *weights]


def _matching(files: Iterable[str], patterns: Sequence[str]) -> list[str]:
    """Those of the files that match; a * does not reach into folders."""
    return [
        file
        for file in files
        if any(fnmatch(file, pattern) and file.count("/") == pattern.count("/") for pattern in patterns)
    ]


def _listed(files: Iterable[str]) -> str:
    names = sorted(files)
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return (", ".join(names[:_LISTED]) or "none") + more


def _refusal(source: ModelSource, error: Exception) -> str:
    """What is wrong with a model that the Hub does not give, and what helps."""
    from huggingface_hub import errors

    page = f"https://huggingface.co/{source.repo}"
    if isinstance(error, errors.GatedRepoError):  # a kind of RepositoryNotFoundError
        return (
            f"expected a model that may be downloaded, got {source.repo}, which is gated; accept its conditions at "
            f"{page} and log in with: hf auth login (or set HF_TOKEN)"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"expected a folder or a model of the Hugging Face Hub, got {source.repo!r}: there is no such folder, and "
            "no such model on the Hub, or it is private; check the name, or log in with: hf auth login (or set "
            "HF_TOKEN)"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return (
            f"expected a branch, a tag or a commit of {source.repo} as the revision, got {source.revision!r}; see "
            f"{page}/commits"
        )
    answer = getattr(error, "response", None)
    if isinstance(error, errors.HfHubHTTPError) and answer is not None and getattr(answer, "status_code", 0) == 401:
        return (
            f"expected a model that may be downloaded, got {source.repo}, for which the Hub wants a valid token; "
            "log in with: hf auth login (or set HF_TOKEN)"
        )
    what = source.repo if source.revision == "main" else f"{source.repo} at the revision {source.revision}"
    offline = isinstance(error, errors.OfflineModeIsEnabled)
    reason = "HF_HUB_OFFLINE is set" if offline else f"{type(error).__name__}: {str(error).strip()}"
    way_out = "unset HF_HUB_OFFLINE" if offline else "connect to the network"
    file = f" {source.file}" if source.file else ""
    return (
        f"expected {what} in the cache {_cache()} or a Hub that can be reached, got neither ({reason}): there is no "
        f"such folder, no whole copy in the cache, and nothing can be downloaded; {way_out}, or run this where there "
        f"is a network: hf download {source.repo}{file}"
    )


def _reporting_bar(progress: Download) -> type:
    """A progress bar of huggingface_hub that tells `progress` instead of drawing."""
    from huggingface_hub.utils.tqdm import tqdm

    seen = [0, 0]

    class Bar(tqdm):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **(options | {"disable": False, "file": io.StringIO()}))

        def update(self, n: float | None = 1) -> bool | None:
            drawn: bool | None = super().update(n)
            if self.unit == "B":  # others count files
                seen[:] = [max(seen[0], int(self.n)), max(seen[1], int(self.total or 0))]
                progress(seen[0], seen[1])
            return drawn

    return Bar
