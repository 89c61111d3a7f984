"""What run.json says of a training by verl, and what a checkpoint of verl keeps of the run that recorded it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ....common.provenance import machine_info
from ....errors import UsageError
from ....records.folders import RUN_FILE, read_json, read_run_json, write_json
from ..versions import verl_version
from .clipping import loss_mode_of
from .record_settings import RecordSettings

__all__ = ["ENGINE", "Marker", "of_first_update", "run_info"]

ENGINE = "verl"
MARKER_FILE = "dynamics_record.json"
_ACTOR_SETTINGS = (
    "clip_ratio",
    "clip_ratio_low",
    "clip_ratio_high",
    "clip_ratio_c",
    "loss_agg_mode",
    "loss_scale_factor",
    "entropy_coeff",
    "use_kl_loss",
    "kl_loss_coef",
    "kl_loss_type",
    "ppo_epochs",
    "ppo_mini_batch_size",
    "shuffle",
    "rollout_n",
)


def run_info(settings: RecordSettings, engine: Any, processes: int) -> dict[str, Any]:
    """The fields of run.json before the first update; label, temperature and the loss's settings come with it.

    Args:
        settings: what is recorded.
        engine: verl's engine, after `initialize`.
        processes: how many of them train.
    """
    made_with, parameter = machine_info(), next(engine.module.parameters())
    config = engine.engine_config
    return {
        "run_id": settings.out.name,
        "label": settings.label or ENGINE,
        "engine": ENGINE,
        "recipe": None,
        "hash": None,
        "seed": config.seed,
        "temperature": None,
        "versions": made_with["versions"] | {"verl": verl_version()},
        "git_commit": made_with["commit"],
        "machine": made_with["machine"],
        "device": str(parameter.device),
        "dtype": str(parameter.dtype).removeprefix("torch."),
        "record": asdict(settings.spec)
        | {
            "correct": settings.correct,
            "signs": "of the advantage",
            "model": str(engine.model_config.path),
            "lora_rank": engine.model_config.lora_rank,
            "strategy": config.strategy,
            "fused_kernels": bool(config.use_fused_kernels),
            "remove_padding": bool(engine.use_remove_padding),
            "mixed_precision": str(engine._autocast_dtype).removeprefix("torch."),
            "processes": processes,
        },
    }


def of_first_update(info: dict[str, Any], settings: RecordSettings, config: Any, temperature: Any) -> dict[str, Any]:
    """Fields of run.json that only an update tells.

    Args:
        info: run.json so far.
        settings: what is recorded.
        config: verl's configuration of the actor, None where the loss function has none.
        temperature: one for all responses, or (B,).
    """
    single = temperature
    if not isinstance(temperature, float | int):
        values = temperature.unique().tolist()
        single = values[0] if len(values) == 1 else None
    loss = loss_mode_of(config)
    told = {} if config is None else {name: config.get(name) for name in _ACTOR_SETTINGS}
    return {
        "label": settings.label or (ENGINE if loss is None else f"{ENGINE} ({loss})"),
        "temperature": None if single is None else float(single),
        "record": info["record"] | {"settings": {"loss_mode": loss} | told},
    }


@dataclass(frozen=True)
class Marker:
    """What a checkpoint of verl says of the records that were made until then.

    Attributes:
        run_id: name of the run.
        created: when the run was started; no other run has the same.
        updates: optimiser updates made until then; the run has a commit of this number.
    """

    run_id: str
    created: str
    updates: int

    def write(self, checkpoint: Path) -> None:
        """Put it into the folder of a checkpoint."""
        write_json(checkpoint / MARKER_FILE, asdict(self))

    @classmethod
    def read(cls, checkpoint: Path) -> Marker | None:
        """That of a checkpoint, None where it was made without records."""
        file = checkpoint / MARKER_FILE
        return cls(**read_json(file, "a checkpoint of an observed run")) if file.is_file() else None

    def check(self, out: Path) -> None:
        """UsageError where `out` does not hold the run whose checkpoint this is."""
        if not (out / RUN_FILE).exists():
            raise UsageError(
                f"record.out: expected the folder of {self.run_id}, whose checkpoint this is, got {out}, which holds "
                "no run; give the folder that it was recorded in, or set trainer.resume_mode=disable"
            )
        info = read_run_json(out)
        if info.get("created") != self.created or info.get("run_id") != self.run_id:
            raise UsageError(
                f"record.out: expected the run {self.run_id} of {self.created}, whose checkpoint this is, got "
                f"{info.get('run_id')} of {info.get('created')} in {out}; give the folder that it was recorded in"
            )
