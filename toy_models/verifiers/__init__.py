"""Verifiers of responses given as text: exact match, a Python function of your own, or math-verify.

Each name is imported from its module on first use.
"""

from __future__ import annotations

from ..lazy import lazy_names

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
__getattr__, __dir__ = lazy_names(__name__, _HOME, __all__)
