"""A cache of huggingface_hub in a folder of the test, and a Hub that answers from memory."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from toy_models.model_sources import hub

FIRST, SECOND = "1" * 40, "2" * 40


class FakeHub:
    """A Hub of folders by (repository, commit), with branches by name; `failure` is raised instead of an answer."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self.folders: dict[tuple[str, str], Path] = {}
        self.branches: dict[tuple[str, str], str] = {}
        self.failure: Exception | None = None
        self.downloads: list[tuple[str, str]] = []

    def add(self, repo: str, commit: str, folder: Path, branch: str = "main") -> None:
        """Put the content of a folder there as a commit that the branch points to."""
        self.folders[repo, commit] = folder
        self.branches[repo, branch] = commit

    def model_info(self, repo: str, revision: str) -> Any:
        """As `HfApi.model_info`."""
        if self.failure is not None:
            raise self.failure
        commit = self.branches.get((repo, revision), revision)
        if not any(known == repo for known, _ in self.folders):
            raise hub_error("RepositoryNotFoundError")
        if (repo, commit) not in self.folders:
            raise hub_error("RevisionNotFoundError")
        return SimpleNamespace(
            sha=commit, siblings=[SimpleNamespace(rfilename=name) for name in self.files(repo, commit)]
        )

    def files(self, repo: str, commit: str) -> list[str]:
        """Names of the files of a commit."""
        folder = self.folders[repo, commit]
        return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())

    def snapshot_download(
        self, repo: str, *, revision: str, allow_patterns: list[str], cache_dir: Path, **options: Any
    ) -> str:
        """As `huggingface_hub.snapshot_download`, with blobs and links left out."""
        commit = self.branches.get((repo, revision), revision)
        self.downloads.append((repo, commit))
        return str(
            cache_snapshot(cache_dir, repo, commit, self.folders[repo, commit], revision, allow_patterns, options)
        )


def cache_snapshot(
    cache: Path,
    repo: str,
    commit: str,
    content: Path,
    revision: str | None = "main",
    only: list[str] | None = None,
    options: dict[str, Any] | None = None,
) -> Path:
    """Put a folder into a cache of huggingface_hub, as a commit that the revision points to."""
    root = cache / f"models--{repo.replace('/', '--')}"
    folder = root / "snapshots" / commit
    bar_class: Callable[..., Any] | None = (options or {}).get("tqdm_class")
    names = [str(path.relative_to(content)) for path in content.rglob("*") if path.is_file()]
    names = [name for name in names if only is None or name in only]
    total = sum((content / name).stat().st_size for name in names)
    bar = None if bar_class is None else bar_class(total=total, unit="B", unit_scale=True, disable=None)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(content / name, folder / name)
        if bar is not None:
            bar.update((content / name).stat().st_size)
    if revision is not None and revision != commit:
        (root / "refs" / revision).parent.mkdir(parents=True, exist_ok=True)
        (root / "refs" / revision).write_text(commit)
    return folder


def hub_error(name: str, status: int = 404) -> Exception:
    """An error of huggingface_hub, as it raises it."""
    from huggingface_hub import errors

    cls = getattr(errors, name)
    if not issubclass(cls, errors.HfHubHTTPError):
        made: Exception = cls("no luck")
        return made
    response = SimpleNamespace(headers={}, status_code=status, request=None)
    made = cls(f"{status} Client Error", response=response)
    return made


@pytest.fixture
def fake_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    """A Hub in memory and an empty cache."""
    import huggingface_hub
    import transformers.utils.hub  # noqa: F401 - before what it imports is replaced
    from huggingface_hub import constants

    fake = FakeHub(tmp_path / "hf")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(fake.cache))
    monkeypatch.setenv("HF_HUB_CACHE", str(fake.cache))  # for the processes of runs
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: fake)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake.snapshot_download)
    monkeypatch.setenv("RLVR_DYNAMICS_CACHE", str(tmp_path / "cache"))
    hub._ask.cache_clear()
    return fake
