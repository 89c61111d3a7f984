"""Objectives and records of this project in verl's trainer.

Importing this package registers with verl: objectives as advantage estimators and policy losses, and an engine that
records what training does to each token. verl imports it itself, by either of two routes:

- `actor_rollout_ref.model.external_lib=analysis.engines.verl`: an error of the import ends the run. Prefer it.
- the entry point `verl.plugins`: verl passes over an error of the import without a word.

Importing it needs verl, starts no Ray and touches no accelerator. `python -m analysis.engines.verl` has the commands
`check`, `train` and `objectives`, and `--smoke`.

    objectives      advantage estimators, policy losses, the sampler that drops rows
    observing       the engine that records, from a micro batch of verl to the tables of a run folder
    configuration   what the commands do: compose verl's configuration, check it, train
    smoke           a whole run on a CPU: platform, rollout engine, model, task
"""

from __future__ import annotations

import warnings

from .versions import TESTED_VERL, require_verl, verl_version

require_verl()

# verl names each engine whose library is missing, five of them, in every process; none of them is used here
warnings.filterwarnings("ignore", r"\w+ engine is not available", UserWarning)

from .smoke import platform as _platform  # noqa: E402,F401 - before everything that asks verl for the device

# isort: split
from .objectives import estimators, policy_losses  # noqa: E402, F401 - they register, once the version is checked
from .objectives.own_objectives import offer  # noqa: E402
from .objectives.policy_losses import ObjectiveLossConfig  # noqa: E402
from .observing import other_engines as _other_engines  # noqa: E402, F401 - registers what is refused
from .observing.finishing import finish  # noqa: E402
from .observing.observed_engine import ObservedEngine  # noqa: E402
from .observing.record_settings import ObservedEngineConfig  # noqa: E402

__all__ = [
    "TESTED_VERL",
    "ObjectiveLossConfig",
    "ObservedEngine",
    "ObservedEngineConfig",
    "finish",
    "offer",
    "verl_version",
]
