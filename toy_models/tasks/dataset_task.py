"""The task `dataset`: prompts and answers from a data set of Hugging Face `datasets`, judged as text by a verifier.

A data set is a folder of `save_to_disk` or a name on the Hub. Its rows lie in Arrow files that are mapped into memory
and are read when they are drawn. Splits that are not named are held out of the training split as for files
(`encoded_task`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..file_digests import file_digest
from ..messages import nearest
from ..table_files import chosen_columns
from ..verifiers.verifier import Verifier
from .file_task import ItemsOfRows, JudgedItems
from .task import SPLITS
from .text_task import TextItem
from .texts import chat_messages

__all__ = ["DATASET_CONFIG", "DATASET_TASK", "HubRows", "dataset_identity", "dataset_rows", "dataset_task"]

DATASET_TASK = "dataset"
DATASET_CONFIG = ("name", "revision")  # what `config` may hold: the configuration of a data set, and its commit
SAVED = ("dataset_dict.json", "dataset_info.json", "state.json")  # what save_to_disk writes beside the rows
_INSTALL = "pip install datasets"


class HubRows(Sequence[Mapping[str, Any]]):
    """The rows of one split, as plain data with their place.

    Args:
        data: A `datasets.Dataset`.
        where: What the rows are called in messages.

    Attributes:
        digest: Identity of the content: the SHA-256 of its Arrow files, and the fingerprint of a selection of rows.
    """

    def __init__(self, data: Any, where: str) -> None:
        self.data, self.where = data, where
        files = [file_digest(file["filename"]) for file in data.cache_files]
        chosen = data._fingerprint if data._indices is not None or not files else None
        self.digest: str = hashlib.sha256(json.dumps([files, chosen, len(data)]).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: Any) -> Any:
        if not isinstance(index, slice):
            return self._placed(self.data[index], index)
        columns = self.data[index]
        rows = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
        return [self._placed(row, i) for row, i in zip(rows, range(*index.indices(len(self))), strict=True)]

    def _placed(self, row: Mapping[str, Any], index: int) -> Mapping[str, Any]:
        return {"row": row, "where": f"{self.where} row {index + 1}"}


def dataset_rows(
    source: str, config: Mapping[str, Any] | None = None, splits: Mapping[str, str] | None = None
) -> dict[str, HubRows]:
    """The rows of each split that the data set has, or that `splits` names.

    Args:
        source: A folder of `datasets.save_to_disk`, or a name on the Hub, which is taken from the cache where it is
            there.
        config: For a name on the Hub: `name` of its configuration and `revision`.
        splits: Its split for each of train, validation and test; by default those of the same name.

    Raises:
        ValueError: datasets is not installed; the data set does not exist, is gated, or is not in the cache while the
            Hub cannot be reached; it has no such split.
    """
    loaded = _loaded(source, dict(config or {}))
    named = dict(splits or {})
    parts: dict[str, Any] = dict(loaded) if isinstance(loaded, Mapping) else {"train": loaded}
    wanted = named or {split: split for split in SPLITS if split in parts}
    if "train" not in wanted:
        raise ValueError(
            f"data set {source}: expected a split for training, got {', '.join(sorted(parts))}; name one with "
            f'task.splits = {{train = "{next(iter(sorted(parts)), "train")}"}}'
        )
    rows = {}
    for split, part in wanted.items():
        if part not in parts:
            raise ValueError(
                f"data set {source}: expected one of its splits {', '.join(sorted(parts))}, got {part!r} "
                f"({nearest(part, list(parts))})"
            )
        rows[split] = HubRows(parts[part], f"{Path(source).name}[{part}]")
        if not len(rows[split]):
            raise ValueError(f"data set {source}: expected at least one row in its split {part}, got none")
    return rows


def dataset_task(
    rows: Mapping[str, HubRows], prompt_column: str, answer_column: str, verifier: Verifier
) -> JudgedItems:
    """The task in texts of rows.

    Raises:
        ValueError: The first row of a split lacks a column; the message lists those there are.
    """
    required, optional = getattr(verifier, "required", ()), getattr(verifier, "optional", ())
    columns = [prompt_column, answer_column, *required]

    def item(placed: Mapping[str, Any]) -> TextItem:
        row, where = placed["row"], placed["where"]
        values = chosen_columns(row, where, columns, optional)
        chat_messages(values[prompt_column], where, prompt_column)
        others = {name: value for name, value in values.items() if name != prompt_column}
        return TextItem(where, values[prompt_column], values[answer_column], others)

    items = {}
    for split, part in rows.items():
        items[split] = ItemsOfRows(part, item)
        identity = json.dumps([part.digest, columns, optional and sorted(optional)])
        items[split].digest = hashlib.sha256(identity.encode()).hexdigest()
        _ = items[split][0]
    return JudgedItems(DATASET_TASK, items, verifier)


def dataset_identity(rows: Mapping[str, HubRows]) -> str:
    """SHA-256 of the content of the splits."""
    return hashlib.sha256(json.dumps({split: part.digest for split, part in rows.items()}).encode()).hexdigest()


def _loaded(source: str, config: dict[str, Any]) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise ValueError(f'expected the package datasets for the task "dataset", got none; {_INSTALL}') from error
    if unknown := [key for key in config if key not in DATASET_CONFIG]:
        raise ValueError(
            f"task.config.{unknown[0]}: expected {' or '.join(DATASET_CONFIG)} ({nearest(unknown[0], DATASET_CONFIG)})"
        )
    folder = Path(source).expanduser()
    if folder.exists() or source.startswith((".", "/", "~")):
        return _from_disk(datasets, folder, config)
    try:
        return datasets.load_dataset(source, **config)
    except Exception as error:  # of datasets, huggingface_hub, pyarrow or the data set's own files
        raise ValueError(_refusal(source, config, error)) from error


def _from_disk(datasets: Any, folder: Path, config: Mapping[str, Any]) -> Any:
    if config:
        raise ValueError(f"task.config: {folder} is a folder, which has no configuration or revision; leave them out")
    if not folder.is_dir():
        what = 'is a file; use task.name = "file" with task.train_file' if folder.exists() else "does not exist"
        raise ValueError(f"expected a folder of datasets.save_to_disk or a name on the Hub, got {folder}, which {what}")
    try:
        return datasets.load_from_disk(str(folder))
    except Exception as error:  # of datasets and pyarrow
        raise ValueError(
            f"expected a folder of datasets.save_to_disk, got {folder}, which cannot be loaded ({_short(error)}); "
            'files of rows are the task "file"'
        ) from error


def _refusal(source: str, config: Mapping[str, Any], error: Exception) -> str:
    """One message for what can be wrong with a data set of the Hub."""
    kinds = {kind.__name__ for seen in _chain(error) for kind in type(seen).__mro__}
    if "GatedRepoError" in kinds:
        return f"data set {source}: it is gated; ask for access on its page at the Hub, and log in with: hf auth login"
    if kinds & {"RepositoryNotFoundError", "DatasetNotFoundError"}:
        return (
            f"data set {source}: the Hub has none of that name, or it is private; check the name, or log in with: hf "
            "auth login"
        )
    if "RevisionNotFoundError" in kinds:
        return f"data set {source}: it has no revision {config.get('revision')!r}; leave task.config.revision out"
    if kinds & {"OfflineModeIsEnabled", "ConnectionError", "LocalEntryNotFoundError", "ConnectError", "Timeout"}:
        return (
            f"data set {source}: it is not in the cache, and the Hub cannot be reached; download it once where there "
            "is a connection, or give a folder of datasets.save_to_disk"
        )
    if isinstance(error, ValueError) and "onfig" in str(error):
        return f"data set {source}: {_short(error)}; set task.config.name"
    return f"data set {source}: it cannot be loaded ({_short(error)})"


def _chain(error: BaseException | None) -> list[BaseException]:
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        error = error.__cause__ or error.__context__
    return seen


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
