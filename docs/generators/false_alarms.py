"""How often `analysis.diagnose` alarms on healthy runs: 20 seeds of each of three methods, on the tiny base.

The settings are those of the built-in recipe `tiny`, which nothing is wrong with, with GRPO besides and more steps, so
that the findings that need a history have one. The thresholds were fixed before this was measured. Alarms of a method
share the base and the task, so that seeds are the unit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from analysis import run
from analysis.diagnosis import CHECKS, diagnose

__all__ = ["SEEDS", "STEPS", "false_alarms"]

SEEDS, STEPS = 20, 16

RECIPE = """\
schema = 1
steps = {steps}

[policy]
base = "tiny"

[task]
name = "path-small"
train_prompts = 64

[objective]
form = "ratio"
clip_low = 0.2
clip_high = 0.2

[optimizer]
name = "adamw"
lr = 1e-3
max_grad_norm = 1.0

[rollout]
prompts = 16
group_size = 4

[update]
minibatches = 2
rows = "drop"

[eval]
every = {steps}
prompts = 8
final_prompts = 16

[record]
tokens = 0.5
contexts = 16
chunk = {steps}

[grid]
seed = {seeds}

[[grid.method]]
label = "PSR"
objective.name = "psr"

[[grid.method]]
label = "NSR"
objective.name = "nsr"

[[grid.method]]
label = "GRPO"
objective.name = "grpo"
"""


def false_alarms(folder: Path, *, seeds: int = SEEDS, steps: int = STEPS) -> dict[str, Any]:
    """Train the runs, or resume them, in `folder` and diagnose each.

    Returns:
        runs, seeds, steps; runs_with_alarm; and by finding how many runs have its alarm, its notice, and no records.
    """
    folder.mkdir(parents=True, exist_ok=True)
    recipe = folder / "healthy.toml"
    recipe.write_text(RECIPE.format(steps=steps, seeds=list(range(seeds))), encoding="utf-8")
    experiment = run(recipe, out=folder / "runs", resume=True, workers=1, quiet=True)
    diagnoses = {run_id: diagnose(trained) for run_id, trained in experiment.runs.items()}
    findings = {
        name: {
            "alarm": sum(diagnosis[name].severity == "alarm" for diagnosis in diagnoses.values()),
            "notice": sum(diagnosis[name].severity == "notice" for diagnosis in diagnoses.values()),
            "not_recorded": sum(not diagnosis[name].recorded for diagnosis in diagnoses.values()),
        }
        for name in CHECKS
    }
    alarmed = {run_id: [f.name for f in diagnosis.of("alarm")] for run_id, diagnosis in diagnoses.items()}
    return {
        "seeds": seeds,
        "steps": steps,
        "runs": len(diagnoses),
        "runs_with_alarm": sum(bool(names) for names in alarmed.values()),
        "alarms": {run_id: names for run_id, names in alarmed.items() if names},
        "findings": findings,
    }
