"""What the name of a model stands for: a built-in base, a folder, a GGUF file, or a model of the Hugging Face Hub.

A folder or file that is there wins. A name with exactly one slash that is neither is the id of a model on the Hub,
`owner/name`; `owner/name:file.gguf` is a GGUF file in such a repository. Loads no torch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..bases.recipes import BASES
from ..messages import nearest
from .gguf_header import GGUF_SUFFIX

__all__ = ["TOKENIZER_FILES", "ModelSource", "model_source"]

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")  # any of them, in a model's folder

_HUB_ID = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?::([\w./-]+\.gguf))?")


@dataclass(frozen=True)
class ModelSource:
    """Where a model comes from.

    Attributes:
        kind: What it is.
        name: The name as it was written.
        repo: Of a model on the Hub, its `owner/name`.
        file: Of a model on the Hub, the GGUF file in its repository; None for the model of the repository.
        revision: Of a model on the Hub, the branch, tag or commit.
    """

    kind: Literal["built-in", "folder", "gguf", "hub"]
    name: str
    repo: str = ""
    file: str | None = None
    revision: str = "main"

    @property
    def path(self) -> Path:
        """The folder or file, for one that is on this machine."""
        return Path(self.name).expanduser()


def model_source(base: str | Path, revision: str | None = None) -> ModelSource:
    """What `base` stands for.

    Args:
        base: A built-in base, a folder, a GGUF file, or an id of the Hub.
        revision: Branch, tag or commit of a model on the Hub; None is `main`.

    Returns:
        The source. That a folder or file is there says nothing of what it holds, nor an id that the Hub has it.

    Raises:
        ValueError: It is none of these, or a revision comes with something that has none.

    >>> model_source("tiny").kind, model_source("Qwen/Qwen2.5-0.5B", "v1").revision
    ('built-in', 'v1')
    >>> model_source("owner/name:model.Q4_1.gguf").file
    'model.Q4_1.gguf'
    """
    name, path = str(base), Path(base).expanduser()
    match = _HUB_ID.fullmatch(name)
    if isinstance(base, str) and name in BASES:
        source = ModelSource("built-in", name)
    elif path.is_dir():
        source = ModelSource("folder", name)
    elif path.is_file():
        source = ModelSource("gguf", name)
    elif match is not None and (match[2] or not name.endswith(GGUF_SUFFIX)):
        return ModelSource("hub", name, match[1], match[2], revision or "main")
    else:
        hint = "no such file" if name.endswith(GGUF_SUFFIX) else nearest(name, BASES)
        raise ValueError(
            "expected a built-in base, a folder with a Hugging Face causal LM, a GGUF file or the id of a model on the "
            f"Hugging Face Hub (owner/name), got {name!r}, which is not a folder ({hint})"
        )
    if revision is not None:
        raise ValueError(
            f"expected a revision only with the id of a model on the Hugging Face Hub (owner/name), got {revision!r} "
            f"with {name!r}; leave the revision out"
        )
    return source
