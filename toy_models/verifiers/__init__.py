"""Verifiers of responses given as text: exact match, a Python function of your own, or math-verify.

Each name is imported from its module on first use.
"""

from __future__ import annotations

import importlib
from typing import Any

# name -> module that defines it
_HOME = {
    "Case": "verifier",
    "ExactMatch": "verifier",
    "FunctionVerifier": "verifier",
    "Verifier": "verifier",
    "VerifierError": "verifier",
    "get_verifier": "verifier",
    "source_file": "verifier",
    "MathVerify": "math_verify_pool",
    "WorkerPool": "worker_pool",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
