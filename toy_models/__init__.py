"""Policies small enough to be exact and tasks whose correct responses can be enumerated.

Knows nothing of how policies are analysed. Each name is imported from its module on first use, so that the names of
tasks and bases can be read without loading torch.
"""

from __future__ import annotations

from .lazy import lazy_names

# name -> module that defines it
_HOME = {
    "Prompt": "tasks.task",
    "Task": "tasks.task",
    "TASKS": "tasks.task",
    "Verdict": "tasks.task",
    "get_task": "tasks.task",
    "prompt_hash": "tasks.task",
    "verify_all": "tasks.task",
    "word_tokenizer": "tasks.tokenizer",
    "DataFiles": "tasks.file_task",
    "FileTask": "tasks.file_task",
    "PathTask": "tasks.path",
    "CountdownTask": "tasks.countdown",
    "TwoModesTask": "tasks.two_modes",
    "BASES": "bases.cache",
    "BaseRecipe": "bases.cache",
    "base_is_cached": "bases.cache",
    "ensure_base": "bases.cache",
    "TeacherBatch": "batching",
    "response_logits": "batching",
    "teacher_batch": "batching",
    "Samples": "sampling",
    "sample": "sampling",
    "Bandit": "exact.bandit",
    "LogLinear": "exact.loglinear",
    "Tree": "exact.tree",
    "tree_leaves": "exact.tree",
    "Policy": "policy",
    "evaluation_mode": "policy",
    "load_policy": "policy",
}

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy_names(__name__, _HOME, __all__)
