"""`watch`: the records of a run of TRL's trainers, by one line before `train()`.

    trainer = GRPOTrainer(model, reward, config, train_dataset=prompts)
    analysis.watch(trainer, out="runs/mine")
    trainer.train()

Training is the same to the last bit. Other modules say how: `trl.hooks` what is hooked, `trl.batches` what ratio and
clip are, `trl.replay` how the KL is split off, `self_check` how weights are checked, `scalars` what goes into the
trainer's logs, `trl.refusals` what is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..probes.record_spec import RecordSpec

if TYPE_CHECKING:
    from .any_trainer import TrainerWatch
    from .trl.panel import Prompt
    from .trl.watch import Watch

__all__ = ["watch"]


def watch(
    trainer: Any,
    out: str | Path | None = None,
    *,
    record: RecordSpec | None = None,
    correct: float | str | None = None,
    on_error: str = "stop",
    prefix: str = "dynamics/",
    panel: Sequence[Prompt] | None = None,
) -> Watch | TrainerWatch:
    """Record what each update of a trainer does to the tokens of its rollouts; call it before `trainer.train()`.

    Works for TRL's `GRPOTrainer`, `RLOOTrainer` and `GMPOTrainer`, for `analysis.ObjectiveTrainer` and for subclasses
    of them. Recording starts with `train()` and ends with it. The run folder holds the tables of one of our own runs:
    of every recorded token the statistics of softmax(logits / T) before the update, and the weight w = −∂L/∂log π_y of
    the update's loss. It is measured on the gradient that makes the update, with gradient accumulation, world size and
    the scale of mixed precision undone. The KL to the reference is apart in `kl_weight`, an entropy bonus in
    `entropy_weight`. `pos` and `neg` are by the sign of the advantage.

    A short list of numbers goes into the trainer's own logs, see `analysis.engines.scalars`.

    Any other Trainer of transformers (SFT, DPO, KTO) is watched by `attach`: its sequences are the rollouts, without
    rewards, and their responses are what the labels count; see `analysis.engines.any_trainer`.

    Args:
        trainer: the trainer, before `train()`.
        out: a new run folder, committed every `record.chunk` updates and with each checkpoint, read by `load_trace`.
            None keeps the records in a temporary folder for as long as the returned object lives.
        record: what is recorded, and how often.
        correct: which rollouts count as correct: those whose reward is above a number, or those to whose completion the
            reward function of that name gives more than 0. None leaves it open.
        on_error: what an error of recording does: "stop" raises it, "warn" warns, ends recording, and lets training go
            on. Errors of training itself are never held back. What was recorded before is readable in any case.
        prefix: of the names in the trainer's logs.
        panel: prompts (texts or conversations) for the held-out contexts of `record.contexts`, at positions of the
            greedy responses of the untrained policy; None takes positions of rollouts of the first batch.

    Returns:
        The watch, a `Watch` or, of another Trainer, a `TrainerWatch`: `records()` and `run` give what was recorded. It
        may be used with `with`; leaving the block ends it.

    Raises:
        UsageError: a trainer or setting that cannot be watched; in training, weights that differ from a float64 replay
            of the trainer's own loss at the first update.

    Cost: one product of hidden states and head for the recorded tokens of each microbatch.

    Example:
        >>> trainer = GRPOTrainer(model, reward, config, train_dataset=prompts)  # doctest: +SKIP
        >>> analysis.watch(trainer, out="runs/mine", correct=0.5)  # doctest: +SKIP
        >>> trainer.train()  # doctest: +SKIP
    """
    spec = RecordSpec() if record is None else record
    if not isinstance(spec, RecordSpec):
        raise UsageError(f"record: expected a RecordSpec, got {type(spec).__name__}")
    if on_error not in ("stop", "warn"):
        raise UsageError(
            f"on_error: expected stop or warn, got {on_error!r}; stop raises an error of recording, warn lets training "
            "go on without it"
        )
    names = {kind.__name__ for kind in type(trainer).__mro__}
    if names & {"GRPOTrainer", "RLOOTrainer"} or any(name.startswith("AsyncGRPO") for name in names):
        from .trl.watch import watch_trl

        return watch_trl(trainer, out, spec, correct, on_error, prefix, panel)
    from .any_trainer import watch_other

    if correct is not None or panel is not None:
        raise UsageError(
            f"trainer: expected one of rollouts for correct= and panel=, got {type(trainer).__name__}; leave both out"
        )
    return watch_other(trainer, out, spec, on_error, prefix)
