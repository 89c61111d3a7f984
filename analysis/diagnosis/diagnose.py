"""`diagnose`: all findings of a run, or of a file of rollouts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .carriers import by_entropy, by_length, by_prompt, by_sign, top_tokens
from .drift import entropy_drift, sampler_mismatch
from .evidence import Evidence, of_run
from .finding import Diagnosis, Finding
from .history import jumps, reward_drop
from .scale import effective_lambda, normaliser, residual
from .signal import clipping, dead_groups, duplicates, skipped_updates, truncation, verifier

if TYPE_CHECKING:
    from ..objectives import Objective
    from ..records import Recorded

__all__ = ["CHECKS", "diagnose"]

# in the order of the page: was there a signal, what carried the update, how was it scaled, where did it lead
CHECKS: dict[str, Callable[[Evidence], Finding]] = {
    "verifier": verifier,
    "dead-groups": dead_groups,
    "duplicates": duplicates,
    "truncation": truncation,
    "clip": clipping,
    "skipped-updates": skipped_updates,
    "sign": by_sign,
    "lengths": by_length,
    "entropy-deciles": by_entropy,
    "prompts": by_prompt,
    "top-tokens": top_tokens,
    "normaliser": normaliser,
    "lambda": effective_lambda,
    "residual": residual,
    "entropy-drift": entropy_drift,
    "sampler-mismatch": sampler_mismatch,
    "history": jumps,
    "reward-drop": reward_drop,
}


def diagnose(
    source: Recorded | str | Path | Any, *, objective: str | Objective | None = None, columns: Any = None
) -> Diagnosis:
    """What a run's records say is wrong with it, and what carried its updates.

    Args:
        source: a run, its folder, or rollouts as `analysis.offline.read_rollouts` takes them (a file, rows in memory).
            Of bare rollouts only what needs no model is judged: verdicts, groups, duplicates, rewards over time.
        objective: whose weights are assumed where none were measured (a name such as "grpo", or an `Objective`). The
            findings that ask what was in effect still need measured ones.
        columns: of bare rollouts, role -> column as in `read_rollouts`.

    Returns:
        One finding for each entry of `CHECKS`. A finding whose records are missing says so and has no value.

    Raises:
        UsageError: the source cannot be read, has no rollouts, or lacks what the objective needs.

    Cost: reads the recorded tokens and rollouts into memory once; no forward pass.

    Example:
        >>> rows = [{"prompt": "1 + 1 =", "response": "3", "reward": 0.0} for _ in range(40)]
        >>> print(diagnose(rows)["verifier"].sentence.split(":")[0])
        The verifier rewarded no response of 40
    """
    evidence, name = _evidence(source, objective, columns)
    return Diagnosis(name, tuple(check(evidence) for check in CHECKS.values()))


def _evidence(source: Any, objective: str | Objective | None, columns: Any) -> tuple[Evidence, str]:
    from ..errors import UsageError
    from ..records import Experiment, load_trace
    from .bare_rollouts import of_rollouts

    if isinstance(source, str | Path) and _is_run(source):
        source = load_trace(source)
    if isinstance(source, Experiment):
        raise UsageError(
            f"source: expected one run, got the experiment {source.folder} with {', '.join(source.runs)}; name the "
            "folder of a run, or diagnose each of experiment.runs.values()"
        )
    if hasattr(source, "table") and hasattr(source, "info"):
        if columns is not None:
            raise UsageError(f"columns: expected none for the recorded run {source.folder}, got {columns}")
        evidence = of_run(source, objective)
        name = str(source.folder)
        if evidence.rollouts.empty:
            raise UsageError(f"source: expected a run with rollouts, got {name}, in which none are committed yet")
        return evidence, name
    if objective is not None:
        raise UsageError(
            "objective: expected a recorded run, whose tokens have probabilities, got bare rollouts; trace them first "
            "with python -m analysis.trace --rollouts FILE --model MODEL"
        )
    return of_rollouts(source, columns)


def _is_run(source: str | Path) -> bool:
    from ..records.folders import EXPERIMENT_FILE, RUN_FILE
    from ..records.shared_storage import is_url

    if is_url(source):
        return True
    folder = Path(source)
    return any((folder / name).exists() for name in (EXPERIMENT_FILE, RUN_FILE)) or (
        folder.is_dir() and not any(folder.glob("*.parquet"))
    )
