"""Policies small enough to be exact and tasks whose correct responses can be enumerated.

Knows nothing of how policies are analysed. Each name is imported from its module on first use, so that the names of
tasks and bases can be read without loading torch.
"""

from __future__ import annotations

from .lazy import lazy_names

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
    "DataFiles": "files",
    "FileTask": "files",
    "PathTask": "path",
    "CountdownTask": "countdown",
    "TwoModesTask": "two_modes",
    "BASES": "bases",
    "BaseRecipe": "bases",
    "base_is_cached": "bases",
    "ensure_base": "bases",
    "TeacherBatch": "batching",
    "response_logits": "batching",
    "teacher_batch": "batching",
    "Samples": "sampling",
    "sample": "sampling",
    "Bandit": "bandit",
    "LogLinear": "loglinear",
    "Tree": "tree",
    "tree_leaves": "tree",
    "Policy": "policy",
    "evaluation_mode": "policy",
    "load_policy": "policy",
}

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy_names(__name__, _HOME, __all__)
