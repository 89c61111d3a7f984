"""Tasks with a verifiable reward: puzzles whose solutions can be listed, and prompts from files."""

from __future__ import annotations

from ..lazy import lazy_names

# name -> module that defines it
_HOME = {
    "Prompt": "task",
    "Task": "task",
    "TASKS": "task",
    "Verdict": "task",
    "get_task": "task",
    "prompt_hash": "task",
    "verify_all": "task",
    "word_tokenizer": "tokenizer",
    "DataFiles": "file_task",
    "FileTask": "file_task",
    "PathTask": "path",
    "CountdownTask": "countdown",
    "TwoModesTask": "two_modes",
}

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy_names(__name__, _HOME, __all__)
