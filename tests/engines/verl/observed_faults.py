"""What may go wrong with an observed training by verl, one function for each kind; run by `observed_program`.

Each leaves `told.json` in its folder: messages by name, and what is not in the records.
"""

from __future__ import annotations

import errno
import gc
import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from . import observed_setup as setup
from .observed_program import CASES, loss_of, train, whole

CASE = CASES["packed"]


def _tell(folder: Path, told: dict[str, Any]) -> None:
    (folder / "told.json").write_text(json.dumps(told))


def _worker(folder: Path, out: str = "run", *, total_steps: int = 3, **record: Any) -> Any:
    setup.choose_engine("dynamics")
    settings = {"out": str(folder / out), "tokens": 1.0, "chunk": 1, **record}
    return setup.make_worker(folder / "model", settings, loss_of(CASE), total_steps=total_steps)


def _message(action: Callable[[], Any]) -> str:
    """What an error says, with the name of its class."""
    try:
        action()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _loaded(folder: Path, out: str, checkpoint: Path) -> str:
    """What a worker that records in `out` says of a checkpoint; afterwards it is gone."""
    worker = _worker(folder, out)
    said = _message(lambda: worker.load_checkpoint(str(checkpoint)))
    worker = None
    gc.collect()
    return said


def _trained(folder: Path, out: str, batch: Any, loss: Any = None) -> str:
    """What a worker that records in `out` says of a batch; afterwards it is gone."""
    worker = _worker(folder, out)
    if loss is not None:
        worker.set_loss_fn(loss)
    said = _message(lambda: worker.train_mini_batch(batch))
    worker = None
    gc.collect()
    return said


def resume(folder: Path) -> None:
    """Three steps at once; and one step, a checkpoint, a second step that is lost, then a resumed run."""
    import torch

    setup.make_model(folder / "model")
    at_once = _worker(folder, "at-once")
    train(at_once, CASE, range(1, 4))
    told: dict[str, Any] = {}
    first = _worker(folder)
    train(first, CASE, range(1, 2))
    checkpoint = folder / "global_step_1" / "actor"
    first.save_checkpoint(str(checkpoint), global_step=1)
    train(first, CASE, range(2, 3))
    told["lost"] = len(list((folder / "run" / "commits").iterdir()))
    first.engine.finish_records("interrupted")
    del first
    gc.collect()
    fresh = _worker(folder)
    told["without a checkpoint"] = _message(fresh.engine.get_per_tensor_param)
    del fresh
    gc.collect()
    told["of another run"] = _loaded(folder, "at-once", checkpoint)
    told["of no run"] = _loaded(folder, "nothing", checkpoint)
    second = _worker(folder)
    second.load_checkpoint(str(checkpoint))
    second.engine.get_per_tensor_param()  # as verl does before rollouts
    train(second, CASE, range(2, 4))
    one, two = whole(at_once.engine.module), whole(second.engine.module)
    told["same parameters"] = all(torch.equal(one[name], two[name]) for name in one)
    second.save_checkpoint(str(folder / "global_step_3" / "actor"), global_step=3)
    told["marker"] = json.loads((folder / "global_step_3" / "actor" / "dynamics_record.json").read_text())
    _tell(folder, told)


def refusals(folder: Path) -> None:
    """Settings that are refused when the worker starts, or with the first minibatch."""
    import torch

    from analysis.engines.verl import ObservedEngineConfig
    from analysis.engines.verl.observing import observed_engine
    from analysis.engines.verl.observing.record_settings import read_record

    setup.make_model(folder / "model")
    out = str(folder / "run")
    told = {
        name: _message(lambda record=record: read_record(record))
        for name, record in {
            "no out": {},
            "unknown key": {"out": out, "token": 1},
            "tokens": {"out": out, "tokens": "all"},
            "fraction": {"out": out, "tokens": 2},
            "chunk": {"out": out, "chunk": 0},
            "correct": {"out": out, "correct": "yes"},
            "on_error": {"out": out, "on_error": "ignore"},
            "label": {"out": out, "label": 3},
        }.items()
    }
    told["config"] = _message(lambda: ObservedEngineConfig(record={}))
    setup.choose_engine("dynamics")
    loss, model = loss_of(CASE), folder / "model"
    told["no record"] = _message(lambda: setup.make_worker(model, None, loss))
    told["ulysses"] = _message(
        lambda: setup.make_worker(model, {"out": out}, loss, engine={"ulysses_sequence_parallel_size": 2})
    )
    told["fused LoRA"] = _message(lambda: setup.make_worker(model, {"out": out}, loss, fused=True, hf={"lora_rank": 4}))
    told["critic"] = _message(lambda: setup.make_worker(model, {"out": out}, loss, model_type="value_model"))
    told["reference"] = _message(lambda: setup.make_worker(model, None, None, engine={"forward_only": True}))
    (folder / "run").mkdir()
    (folder / "run" / "run.json").write_text(json.dumps({"schema_version": 2, "engine": "trl"}))
    told["of TRL"] = _message(lambda: setup.make_worker(model, {"out": out}, loss))
    one = _worker(folder, "one")
    told["second"] = _message(lambda: _worker(folder, "two"))
    one.engine.finish_records("interrupted")
    rows = setup.make_rows(1)
    told_of = setup.told(len(rows), mini=16)
    without = [{key: value for key, value in row.items() if key != "uid"} for row in rows]
    infinite = [row | {"rm_scores": row["rm_scores"] + float("inf")} for row in rows]
    for name, batch, function in (
        ("distillation", setup.make_batch(rows, **told_of | {"distillation_only": True}), None),
        ("no uid", setup.make_batch(without, **told_of), None),
        ("infinite reward", setup.make_batch(infinite, **told_of), None),
        ("loss apart", setup.make_batch(rows, **told_of), _loss_apart),
        ("loss of entropies", setup.make_batch(rows, **told_of | {"calculate_entropy": True}), _loss_of_entropies),
    ):
        told[name] = _trained(folder, name.replace(" ", "-"), batch, function)
    whole_logits, observed_engine.DTensor = observed_engine.DTensor, torch.Tensor  # as if they were cut in pieces
    told["pieces"] = _trained(folder, "pieces", setup.make_batch(rows, **told_of))
    observed_engine.DTensor = whole_logits
    _tell(folder, told)


def _loss_apart(model_output: Any, data: Any, dp_group: Any = None) -> Any:
    """A loss that also depends on something that the engine does not see: the log-probs of another route."""
    values = model_output["log_probs"].values()
    scale = 1.0 if values.dtype.itemsize == 8 else 1.01  # the replay in float64 sees another factor
    return -scale * values.sum() / 100, {}


def _loss_of_entropies(model_output: Any, data: Any, dp_group: Any = None) -> Any:
    """A loss without log-probs."""
    return -model_output["entropy"].values().sum() / 100, {}


def faults(folder: Path) -> None:
    """Errors of recording in the second update, under both settings of `on_error`; and a disk that is full once."""
    from analysis.engines.verl.observing import observed_engine
    from analysis.records.writer import RunWriter

    setup.make_model(folder / "model")
    told: dict[str, Any] = {}
    healthy = _worker(folder, "healthy", total_steps=2)
    logs = train(healthy, CASE, range(1, 3))
    told["healthy"] = [log["loss"] for log in logs]
    read = observed_engine.statistics_of
    for on_error in ("stop", "warn"):
        worker = _worker(folder, on_error, total_steps=2, on_error=on_error)
        train(worker, CASE, range(1, 2))

        def broken(*args: Any, **kwargs: Any) -> Any:
            raise ValueError("planted")

        observed_engine.statistics_of = broken
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                told[on_error] = _message(lambda worker=worker: told.update(logs=train(worker, CASE, range(2, 3))))
            told[f"{on_error} warned"] = [str(w.message) for w in caught if "analysis" in str(w.message)]
        finally:
            observed_engine.statistics_of = read
        del worker
        gc.collect()
    commit = RunWriter.commit
    for on_error in ("stop", "warn"):
        worker = _worker(folder, f"full-{on_error}", total_steps=3, on_error=on_error)
        train(worker, CASE, range(1, 2))

        def full(self: RunWriter, step: int, state: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        RunWriter.commit = full  # type: ignore[method-assign]
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                told[f"full {on_error}"] = _message(lambda worker=worker: train(worker, CASE, range(2, 3)))
            told[f"full {on_error} warned"] = [str(w.message) for w in caught if "analysis" in str(w.message)]
        finally:
            RunWriter.commit = commit  # type: ignore[method-assign]
        if on_error == "warn":
            train(worker, CASE, range(3, 4))
        del worker
        gc.collect()
    _tell(folder, told)


def losses(folder: Path) -> None:
    """verl's other policy losses and two of this project; the first update compares each with float64."""
    from functools import partial

    from verl.trainer.ppo.core_algos import POLICY_LOSS_REGISTRY
    from verl.workers.config import PolicyLossConfig
    from verl.workers.utils.losses import ppo_loss

    setup.make_model(folder / "model")
    told: dict[str, Any] = {}
    for mode in [*(name for name in POLICY_LOSS_REGISTRY if name in _OF_VERL), "psr_ratio", "grpo"]:
        config = setup.actor_config(policy_loss=PolicyLossConfig(loss_mode=mode), entropy_coeff=0.01)
        settings = {"out": str(folder / mode), "tokens": 1.0, "chunk": 1}
        worker = setup.make_worker(folder / "model", settings, partial(ppo_loss, config=config), total_steps=1)
        told[mode] = _message(lambda worker=worker: train(worker, replace(CASE, entropy=0.01), range(1, 2)))
        worker.engine.finish_records()
        del worker
        gc.collect()
    _tell(folder, told)


_OF_VERL = ("vanilla", "gspo", "cispo", "gpg", "sapo", "geo_mean", "clip_cov", "kl_cov", "dppo_tv", "dppo_kl")
