"""verl's training of fixed rollouts, observed and not, in a process of its own: verl chooses its platform once.

    python -m tests.engines.verl.observed_program cases FOLDER NAME…
    torchrun --nproc_per_node 2 -m tests.engines.verl.observed_program ranks FOLDER [dies|fails]
    python -m tests.engines.verl.observed_program resume|refusals|faults FOLDER

`test_observed_*` starts it and compares what it leaves in FOLDER with float64.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from . import observed_setup as setup


@dataclass(frozen=True)
class Case:
    """One setting of verl's trainer. `rows` says which rollouts a step has."""

    packed: bool = True
    temperature: float = 1.0
    other_temperature: float | None = None  # of every second row
    entropy: float = 0.0
    fused: bool = False
    overwriting: bool = False
    tied: bool = False
    scale: float | None = None  # of the loss, as fp16 has one
    tokens: float = 1.0
    epochs: int = 1
    actor: dict[str, Any] = field(default_factory=dict)
    engine: dict[str, Any] = field(default_factory=dict)
    hf: dict[str, Any] = field(default_factory=dict)


WARM = {"temperature": 0.7, "entropy": 0.02}
KL = {"use_kl_loss": True, "kl_loss_coef": 0.3}
BF16 = {"mixed_precision": {"param_dtype": "bf16", "reduce_dtype": "fp32", "buffer_dtype": "fp32"}}
CASES = {
    "packed": Case(),
    "packed-warm": Case(**WARM),
    "padded": Case(packed=False),
    "padded-warm": Case(packed=False, **WARM),
    "packed-overwriting": Case(overwriting=True),
    "packed-warm-overwriting": Case(overwriting=True, **WARM),
    "padded-overwriting": Case(packed=False, overwriting=True),
    "padded-warm-overwriting": Case(packed=False, overwriting=True, **WARM),
    "to-length": Case(engine={"pad_to_length": True, "pad_to_length_bucket": 64}, **WARM),
    "kl": Case(actor=KL),
    "kl-sequences": Case(actor=KL | {"loss_agg_mode": "seq-mean-token-sum", "kl_loss_type": "k1+"}, **WARM),
    "dynamic": Case(engine={"use_dynamic_bsz": True, "max_token_len_per_gpu": 40}, **WARM),
    "epochs": Case(epochs=2),
    "sampled": Case(tokens=0.3),
    "temperatures": Case(other_temperature=0.7, entropy=0.02),
    "scaled": Case(scale=128.0, **WARM),
    "bf16": Case(engine=BF16, **WARM),
    "lora": Case(hf={"lora_rank": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}),
    # verl 0.9.1 with fsdp2 shards a head that is not tied by itself, and its fused kernels then fail on it
    "packed-fused": Case(fused=True, tied=True),
    "packed-fused-warm": Case(fused=True, tied=True, **WARM),
    "fused-sampled": Case(fused=True, tied=True, tokens=0.3, **WARM),
    "padded-fused": Case(fused=True, tied=True, packed=False),
    "padded-fused-warm": Case(fused=True, tied=True, packed=False, **WARM),
}
STEPS, MINI = 2, 8


def rows_of(step: int) -> list[dict]:
    """12 rollouts of 3 prompts, and 4 padding rows as verl adds them; step counts from 1, as verl's does."""
    return setup.make_rows(step, prompts=3, padding=4, kl=True)


def temperature_of(case: Case, row: dict[str, Any]) -> float:
    """The temperature of a rollout."""
    other = case.other_temperature
    return case.temperature if other is None or row["session_id"] % 2 == 0 else other


class Scaler:
    """What verl uses of torch's scaler of gradients, with a factor that stays."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def get_scale(self) -> float:
        return self.factor

    def scale(self, loss: Any) -> Any:
        return self.factor * loss

    def unscale_(self, optimizer: Any) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad.div_(self.factor)

    def step(self, optimizer: Any) -> None:
        optimizer.step()

    def update(self) -> None:
        pass


def loss_of(case: Case) -> Any:
    """verl's loss of the actor."""
    from verl.workers.utils.losses import ppo_loss

    return partial(ppo_loss, config=setup.actor_config(entropy_coeff=case.entropy, **case.actor))


def whole(module: Any) -> dict[str, Any]:
    """The parameters, gathered."""
    return {
        name: (value.full_tensor() if hasattr(value, "full_tensor") else value).detach().clone()
        for name, value in module.state_dict().items()
    }


def keep_parameters(engine: Any) -> list[dict[str, Any]]:
    """A list that gets the parameters before each optimiser step, and in it the norm of the gradient."""
    before: list[dict[str, Any]] = []
    step = engine.optimizer_step

    def kept() -> float:
        before.append(whole(engine.module))
        return step()

    engine.optimizer_step = kept
    return before


def train(worker: Any, case: Case, steps: range, rank: int = 0, world: int = 1) -> list[dict[str, Any]]:
    """verl's update of the actor for each step; what it logs."""
    import torch

    logs = []
    for step in steps:
        rows = rows_of(step)
        if world > 1:  # so that each minibatch has the same rows as with one process
            each = MINI // world
            rows = [row for first in range(0, len(rows), MINI) for row in rows[first + rank * each :][:each]]
        told = setup.told(
            len(rows), mini=MINI, temperature=case.temperature, entropy=case.entropy > 0, epochs=case.epochs
        )
        if case.other_temperature is not None:
            for row in rows:
                row["temperature"] = torch.tensor(temperature_of(case, row))
            del told["temperature"]
        output = worker.train_mini_batch(setup.make_batch(rows, **told))
        logs.append({name: [float(value) for value in values] for name, values in output["metrics"].items()})
    return logs


def overwriting_log_probs(logits: Any, labels: Any, inplace_backward: bool = True) -> Any:
    """As flash-attn's cross-entropy: its backward pass writes the gradient over the logits, without a version bump."""
    import torch

    class CrossEntropy(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, logits: Any, labels: Any) -> Any:
            ctx.logits, ctx.labels = logits.detach(), labels
            return logits.log_softmax(-1).gather(-1, labels[:, None])[:, 0]

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:
            found = -ctx.logits.softmax(-1) * gradient[:, None]
            found.scatter_add_(1, ctx.labels[:, None], gradient[:, None])
            if not inplace_backward:  # verl asks so where the entropy needs the logits
                return found, None
            ctx.logits.data.copy_(found)
            return ctx.logits, None

    return CrossEntropy.apply(logits, labels)


def run_case(name: str, folder: Path) -> None:
    """Train twice, with verl's own engine and observed, and leave the parameters of both."""
    import torch
    from verl.workers.engine.fsdp import transformer_impl

    case = CASES[name]
    model = setup.make_model(folder / name / "model", tied=case.tied)
    before = transformer_impl.logprobs_from_logits
    if case.overwriting:
        transformer_impl.logprobs_from_logits = overwriting_log_probs
    left: dict[str, Any] = {}
    for kind, vendor in (("stock", None), ("observed", "dynamics")):
        setup.choose_engine(vendor)
        torch.manual_seed(0)  # LoRA draws its first matrix
        record = {"out": str(folder / name / "run"), "tokens": case.tokens, "top_k": 2, "rank": True, "chunk": 1}
        worker = setup.make_worker(
            model,
            None if vendor is None else record,
            loss_of(case),
            packed=case.packed,
            fused=case.fused,
            total_steps=STEPS,
            engine=case.engine,
            hf=case.hf,
        )
        if case.scale is not None:
            worker.engine.scaler = Scaler(case.scale)
        parameters = keep_parameters(worker.engine)
        logs = train(worker, case, range(1, STEPS + 1))
        left[kind] = {"before": parameters, "after": whole(worker.engine.module), "logs": logs}
    transformer_impl.logprobs_from_logits = before
    torch.save(left, folder / name / "left.pt")


def run_ranks(folder: Path, fault: str) -> None:
    """Both ranks of some cases. After the first step the second rank ends ("dies") or cannot record ("fails").

    With "slow" each file of the second rank takes a second to be safe on disk, in the first case alone.
    """
    import torch

    from analysis.engines.verl.observing import observed_engine

    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if fault == "slow" and rank == 1:
        fsync = os.fsync
        os.fsync = lambda descriptor: (time.sleep(1), fsync(descriptor))[1]
    for name in ("packed-warm", "kl", "fused-sampled")[
        : 1 if fault == "slow" else None
    ]:  # the last one replaces a method of the model's class
        case = CASES[name]
        if rank == 0:
            setup.make_model(folder / f"{name}-model", tied=case.tied)
            (folder / f"{name}-made").touch()
        while not (folder / f"{name}-made").exists():
            pass
        record = {"out": str(folder / name), "tokens": case.tokens, "chunk": 1}
        worker = setup.make_worker(folder / f"{name}-model", record, loss_of(case), fused=case.fused, total_steps=STEPS)
        train(worker, case, range(1, 2), rank, world)
        if rank == 1 and fault == "dies":
            os._exit(3)
        if rank == 1 and fault == "fails":
            observed_engine.statistics_of = _planted
        try:
            logs = train(worker, case, range(2, STEPS + 1), rank, world)
        except Exception as error:
            (folder / f"rank-{rank}.txt").write_text(f"{type(error).__name__}: {error}")
            raise
        if rank == 0:
            (folder / f"{name}.json").write_text(json.dumps(logs))
    torch.distributed.destroy_process_group()


def _planted(*args: Any, **kwargs: Any) -> Any:
    raise ValueError("planted")


def main(mode: str, folder: Path, names: list[str]) -> None:
    """Run what the command says."""
    setup.prepare()
    import analysis.engines.verl  # noqa: F401 - registers engine and platform

    if mode == "cases":
        for name in names:
            run_case(name, folder)
    elif mode == "ranks":
        run_ranks(folder, names[0] if names else "")
    else:
        from . import observed_faults

        getattr(observed_faults, mode)(folder)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
