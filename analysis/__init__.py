"""What a positive or a negative sample does to a policy: gradient dynamics of RL with verifiable rewards.

The public face is listed in `__all__`; each name is imported from its room on first use, so that command lines can
print their help, list recipes and refuse bad input without loading torch.
"""

from __future__ import annotations

from .lazy import lazy_names

__version__ = "0.1.0"

# name -> module that defines it
_HOME = {
    "DivergedError": "errors",
    "InterruptedRunError": "errors",
    "UsageError": "errors",
    "TokenStatistics": "laws",
    "entropy_change": "laws",
    "logit_gradient": "laws",
    "mass_flow": "laws",
    "squeeze_boundary": "laws",
    "available_backends": "token_stats",
    "token_statistics": "token_stats",
    "interval": "evaluation",
    "matched": "evaluation",
    "pass_at_k": "evaluation",
    "pass_at_k_exact": "evaluation",
    "Experiment": "records",
    "RecordSpec": "probes",
    "Run": "records",
    "attach": "probes",
    "load_trace": "records",
    "trace_rollouts": "offline",
    "Recipe": "recipes",
    "run": "experiments",
}
_ROOMS = (
    "laws",
    "token_stats",
    "objectives",
    "records",
    "probes",
    "evaluation",
    "gradient_noise",
    "recipes",
    "training",
    "experiments",
    "tabular",
    "factorial",
    "offline",
    "plots",
    "report",
)

__all__ = ["__version__", *sorted(_HOME)]
__getattr__, __dir__ = lazy_names(__name__, _HOME | dict.fromkeys(_ROOMS, ""), __all__)
